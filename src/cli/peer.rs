//! `segfs peer`: keys, invites, and who is trusted.

use clap::Subcommand;
use segfs::{
    base::{KeyId, StoreId},
    config::{PeeringEdit, PinnedPeer},
    peers::{Access, Code, JoinError, Joiner, Key, join},
    serve::{self, Peers},
};
use serde_json::{Value, json};

use super::{
    failure::{FAILED, Failure, NOT_FOUND, Outcome, Output},
    named::{At, Named, ask},
};

/// What may be done about peers.
#[derive(Subcommand)]
pub enum PeerCommand {
    /// Print the name of this store's key, to read out or copy.
    #[command(after_help = "Examples:\n  segfs peer id\n  segfs peer id --store /srv/store --json")]
    Id {
        #[command(flatten)]
        store: Named,
    },
    /// Print a code with which another store can join, once, within 15 minutes.
    #[command(
        after_help = "Examples:\n  segfs peer invite --grant /:two-way\n  segfs peer invite --grant /:receive --store /srv/store"
    )]
    Invite {
        /// What the joiner may do here: /:two-way, /:send (its changes are taken in) or /:receive.
        #[arg(long, value_name = "PATH:ACCESS")]
        grant: String,
        #[command(flatten)]
        store: Named,
    },
    /// Join the store that made a code: both trust each other's key from then on.
    #[command(
        after_help = "Examples:\n  segfs peer join host-a:7420 CODE --grant /:two-way\n  segfs peer join host-a:7420 CODE --grant /:send --as office"
    )]
    Join {
        /// Where it listens: HOST:PORT.
        address: String,
        /// The code.
        code: String,
        /// What the inviter may do here: /:two-way, /:send or /:receive.
        #[arg(long, value_name = "PATH:ACCESS")]
        grant: String,
        /// How the inviter is to be called here; without, as it calls itself.
        #[arg(long = "as", value_name = "NAME")]
        called: Option<String>,
        #[command(flatten)]
        store: Named,
    },
    /// List the peers.
    #[command(after_help = "Examples:\n  segfs peer list\n  segfs peer list --json --store /srv/store")]
    List {
        #[command(flatten)]
        store: Named,
    },
    /// Trust a peer no more; its connection ends.
    #[command(after_help = "Examples:\n  segfs peer rm office\n  segfs peer rm office --store /srv/store")]
    Rm {
        /// As `segfs peer list` names it.
        name: String,
        #[command(flatten)]
        store: Named,
    },
}

/// Does what a command says.
pub fn run(command: &PeerCommand, out: &mut Output) -> Outcome<()> {
    match command {
        PeerCommand::Id { store } => {
            let told = told(store.find("the key can't be told")?, None)?;
            let id = told["id"].as_str().unwrap_or_default();
            if out.json { out.value(&json!({"id": id})) } else { out.line(id) }
        }
        PeerCommand::Invite { grant, store } => invite(grant, store, out),
        PeerCommand::Join { address, code, grant, called, store } => {
            join_at(address, code, grant, called.as_deref(), store, out)
        }
        PeerCommand::List { store } => {
            let told = told(store.find("peers can't be listed")?, None)?;
            list(&told, out)
        }
        PeerCommand::Rm { name, store } => {
            let told = told(
                store.find(&format!("{name} can't be removed"))?,
                Some(PeeringEdit::RemovePeer(name.clone())),
            )?;
            list(&told, out)
        }
    }
}

/// What is known of peers, after a change if there is one.
pub fn told(at: At, edit: Option<PeeringEdit>) -> Outcome<Value> {
    let what = "peers can't be changed";
    match at {
        At::Open(_, mut client) => {
            let mut request = json!({"request": "peers"});
            if let Some(edit) = edit {
                request["change"] = serve::change_request(&edit);
            }
            ask(&mut client, &request, what)
        }
        At::Closed(path, store) => {
            let told = serve::told_closed(&path, edit).map_err(|e| e.failure(what, &path));
            store.close().map_err(|e| Failure::of_store(&e, &path))?;
            told
        }
    }
}

fn access(grant: &str, what: &str) -> Outcome<Access> {
    let next = "--grant /:two-way, /:send or /:receive";
    let (path, word) = grant
        .rsplit_once(':')
        .ok_or_else(|| Failure::usage(what, format!("\"{grant}\" is no grant"), next))?;
    if path != "/" {
        let why = format!("only / (the whole store) can be granted so far, not {path}");
        return Err(Failure::usage(what, why, next));
    }
    word.parse().map_err(|why: String| Failure::usage(what, why, next))
}

fn invite(grant: &str, store: &Named, out: &mut Output) -> Outcome<()> {
    let what = "no invite can be made";
    let access = access(grant, what)?;
    let (code, listens) = match store.find(what)? {
        At::Open(_, mut client) => {
            let request = json!({"request": "peers", "invite": access.to_string()});
            let told = ask(&mut client, &request, what)?;
            (
                told["code"].as_str().unwrap_or_default().to_owned(),
                told["listens"].as_str().map(str::to_owned),
            )
        }
        At::Closed(path, store) => {
            let code = serve::invite(&path, access).map_err(|e| Failure::system(what, &e));
            store.close().map_err(|e| Failure::of_store(&e, &path))?;
            (code?, None)
        }
    };
    if out.json {
        return out.value(&json!({"code": code, "listens": listens}));
    }
    out.line(&code)?;
    match listens {
        Some(at) => out.line(&format!(
            "works once, for 15 minutes, at {at}: segfs peer join {at} CODE --grant /:two-way"
        )),
        None => out.line(
            "works once, for 15 minutes, while the store listens: segfs mount STORE DIR --listen ADDR:PORT",
        ),
    }
}

fn join_at(
    address: &str,
    code: &str,
    grant: &str,
    called: Option<&str>,
    store: &Named,
    out: &mut Output,
) -> Outcome<()> {
    let what = format!("{address} can't be joined");
    let gives = access(grant, &what)?;
    let code: Code = code.parse().map_err(|e| {
        Failure::usage(&what, format!("the code is not one: {e}"), "copy it as segfs peer invite printed it")
    })?;
    let mut at = store.find(&what)?;
    let failed = |e| Failure::system(&what, &e);
    let (key, own, listens): (Key, StoreId, Option<String>) = match &mut at {
        At::Open(path, client) => {
            // It makes the key, if there is none.
            let told = ask(client, &json!({"request": "peers", "joins": true}), &what)?;
            let listens = told["listens"].as_str().map(str::to_owned);
            let own = told["store"].as_str().and_then(|id| id.parse().ok()).ok_or_else(|| {
                Failure::usage(
                    &what,
                    "who has it mounted does not say which store it is",
                    "use the segfs that mounted it",
                )
            })?;
            (serve::own_key(path).map_err(failed)?, own, listens)
        }
        At::Closed(path, store) => (serve::own_key(path).map_err(failed)?, store.id(), None),
    };
    if key.id().bytes().starts_with(&code.start) {
        return Err(Failure::usage(
            &what,
            format!(
                "the code was made by a store that has the key of this one, {}: one is a copy of the other",
                key.id()
            ),
            "a replica is made by pairing, not by copying: segfs init a new store, mount it, and join from there",
        ));
    }
    let listens = listens.filter(|at| !at.starts_with("0.0.0.0:") && !at.starts_with("[::]:"));
    let (name, listens) = (Peers::host_name(), listens.as_deref());
    let joiner = Joiner { key: &key, store: own, name: &name, listens, grants: gives };
    let joined = join(address, &code, &joiner).map_err(|e| not_joined(&what, &e))?;
    let name = called.unwrap_or(&joined.name).to_owned();
    let peer = PinnedPeer {
        key: joined.key,
        store: Some(joined.store),
        address: Some(address.to_owned()),
        access: gives,
    };
    let told = told(at, Some(PeeringEdit::Peer(name, peer)))?;
    let name = name_of(&told, joined.key);
    if out.json {
        return out
            .value(&json!({"name": name, "id": joined.key.to_string(), "may": joined.gives.to_string()}));
    }
    out.line(&format!("joined {name}, whose key is {}", joined.key))?;
    out.line(&format!("it may {gives} here; this store may {} there", joined.gives))?;
    out.line(&format!("let it go: segfs replicate add NAME --to peer:{name} --two-way, on one of the two"))
}

fn not_joined(what: &str, e: &JoinError) -> Failure {
    let (code, next) = match e {
        JoinError::WrongKey { .. } => (
            FAILED,
            "check the address; if it is right, somebody stands in between: compare with segfs peer id there",
        ),
        JoinError::Refused(_) => (NOT_FOUND, "segfs peer invite --grant ..., on the other host"),
        JoinError::Io(_) => (FAILED, "is it mounted there with --listen, and can it be reached?"),
    };
    Failure::new(code, what, e.to_string(), next)
}

fn name_of(told: &Value, key: KeyId) -> String {
    let peers = told["peers"].as_array().into_iter().flatten();
    let found = peers.into_iter().find(|p| p["id"] == key.to_string().as_str());
    found.and_then(|p| p["name"].as_str()).unwrap_or("it").to_owned()
}

fn list(told: &Value, out: &mut Output) -> Outcome<()> {
    if out.json {
        return out.value(&json!({"peers": told["peers"]}));
    }
    let rows = told["peers"].as_array().into_iter().flatten().map(|p| {
        let word = |name: &str| p[name].as_str().unwrap_or("-").to_owned();
        ["name", "id", "address", "grant", "state", "last_error"].map(word).to_vec()
    });
    let titles = ["NAME", "KEY", "ADDRESS", "MAY", "STATE", "LAST ERROR"];
    out.table(&titles, &[false; 6], &rows.collect::<Vec<_>>())
}
