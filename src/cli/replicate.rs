//! `segfs replicate`: the rules by which a store goes to others, and how they stand.

use std::{thread, time::Duration};

use clap::Subcommand;
use segfs::config::{PeeringEdit, ReplicationRule, is_plain_name};
use serde_json::{Value, json};

use super::{
    failure::{Failure, NOT_FOUND, Outcome, Output},
    named::Named,
    peer::told,
};

/// What may be done about rules.
#[derive(Subcommand)]
pub enum ReplicateCommand {
    /// Add a rule: the whole store goes to a peer, and what changes there comes here.
    #[command(
        after_help = "Examples:\n  segfs replicate add all --to peer:office --two-way\n  segfs replicate add all --to peer:office --two-way --store /srv/store"
    )]
    Add {
        /// How the rule is to be called.
        name: String,
        /// Where to: peer:NAME.
        #[arg(long)]
        to: String,
        /// What: so far only / (the whole store).
        #[arg(long, default_value = "/")]
        prefix: String,
        /// Both ways; so far there is no other rule.
        #[arg(long)]
        two_way: bool,
        #[command(flatten)]
        store: Named,
    },
    /// List the rules.
    #[command(after_help = "Examples:\n  segfs replicate list\n  segfs replicate list --json")]
    List {
        #[command(flatten)]
        store: Named,
    },
    /// Remove a rule. What has crossed stays on both sides.
    #[command(
        after_help = "Examples:\n  segfs replicate rm all\n  segfs replicate rm all --store /srv/store"
    )]
    Rm {
        /// The rule.
        name: String,
        #[command(flatten)]
        store: Named,
    },
    /// Have a rule wait.
    #[command(
        after_help = "Examples:\n  segfs replicate pause all\n  segfs replicate pause all --store /srv/store"
    )]
    Pause {
        /// The rule.
        name: String,
        #[command(flatten)]
        store: Named,
    },
    /// Have it go on.
    #[command(
        after_help = "Examples:\n  segfs replicate resume all\n  segfs replicate resume all --store /srv/store"
    )]
    Resume {
        /// The rule.
        name: String,
        #[command(flatten)]
        store: Named,
    },
    /// Show how far each rule is behind, and what would be lost if this host died now.
    #[command(after_help = "Examples:\n  segfs replicate status --watch\n  segfs replicate status --json")]
    Status {
        /// Show it again each second.
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        store: Named,
    },
}

/// Does what a command says.
pub fn run(command: &ReplicateCommand, out: &mut Output) -> Outcome<()> {
    let what = "rules of replication can't be changed";
    match command {
        ReplicateCommand::Add { name, to, prefix, two_way, store } => {
            let rule = checked(name, to, prefix, *two_way)?;
            let told = told(store.find(what)?, Some(PeeringEdit::Rule(name.clone(), rule)))?;
            list(&told, out)
        }
        ReplicateCommand::List { store } => list(&told(store.find("rules can't be listed")?, None)?, out),
        ReplicateCommand::Rm { name, store } => {
            list(&told(store.find(what)?, Some(PeeringEdit::RemoveRule(name.clone())))?, out)
        }
        ReplicateCommand::Pause { name, store } => pause(name, true, store, out),
        ReplicateCommand::Resume { name, store } => pause(name, false, store, out),
        ReplicateCommand::Status { watch, store } => loop {
            let told = told(store.find("how rules stand can't be told")?, None)?;
            status(&told, out)?;
            out.finish()?;
            if !watch {
                return Ok(());
            }
            #[allow(clippy::disallowed_methods)] // the edge
            thread::sleep(Duration::from_secs(1));
        },
    }
}

/// A rule that can be carried out.
fn checked(name: &str, to: &str, prefix: &str, two_way: bool) -> Outcome<ReplicationRule> {
    let what = format!("the rule {name} can't be added");
    let refused = |why: &str, next: &str| Err(Failure::usage(&what, why, next));
    if !is_plain_name(name) {
        return refused("a name has letters, digits, and - _ .", "choose another name");
    }
    let Some(peer) = to.strip_prefix("peer:") else {
        return refused(
            "it can only go to a peer so far",
            "--to peer:NAME; segfs peer list says who there is",
        );
    };
    if prefix != "/" {
        return refused("only the whole store can be replicated so far", "leave --prefix out, or --prefix /");
    }
    if !two_way {
        return refused("only two-way rules can be carried out so far", "add --two-way");
    }
    Ok(ReplicationRule { peer: peer.to_owned(), paused: false })
}

fn pause(name: &str, paused: bool, store: &Named, out: &mut Output) -> Outcome<()> {
    let what = format!("the rule {name} can't be changed");
    let before = told(store.find(&what)?, None)?;
    let mut rules = before["rules"].as_array().into_iter().flatten();
    let to = rules.find(|r| r["name"] == name).and_then(|r| r["to"].as_str()).unwrap_or_default();
    let Some(peer) = to.strip_prefix("peer:") else {
        return Err(Failure::new(NOT_FOUND, what, "there is no such rule", "segfs replicate list"));
    };
    let rule = ReplicationRule { peer: peer.to_owned(), paused };
    list(&told(store.find(&what)?, Some(PeeringEdit::Rule(name.to_owned(), rule)))?, out)
}

fn list(told: &Value, out: &mut Output) -> Outcome<()> {
    if out.json {
        return out.value(&json!({"rules": told["rules"]}));
    }
    let rows = told["rules"].as_array().into_iter().flatten().map(|r| {
        let word = |name: &str| r[name].as_str().unwrap_or("-").to_owned();
        vec![word("name"), word("prefix"), word("to"), "two-way".to_owned(), word("state")]
    });
    out.table(&["RULE", "PREFIX", "TO", "HOW", "STATE"], &[false; 5], &rows.collect::<Vec<_>>())
}

fn status(told: &Value, out: &mut Output) -> Outcome<()> {
    if out.json {
        return out.value(&json!({"rules": told["rules"], "would_lose": told["would_lose"]}));
    }
    let rows = told["rules"].as_array().into_iter().flatten().map(|r| {
        let word = |name: &str| r[name].as_str().unwrap_or("-").to_owned();
        let number = |name: &str| r[name].as_u64().map_or("-".into(), |n| n.to_string());
        let lag = r["lag_seconds"].as_f64().map_or("-".into(), |s| format!("{s:.1} s"));
        vec![
            word("name"),
            word("to"),
            word("state"),
            lag,
            number("operations_pending"),
            number("bytes_pending"),
            word("last_error"),
        ]
    });
    let right = [false, false, false, true, true, true, false];
    let titles = ["RULE", "TO", "STATE", "LAG", "OPERATIONS", "BYTES", "LAST ERROR"];
    out.table(&titles, &right, &rows.collect::<Vec<_>>())?;
    let lose = &told["would_lose"];
    match (lose["operations"].as_u64(), lose["seconds"].as_f64(), lose["bytes"].as_u64()) {
        (Some(0), ..) => out.line("if this host died now, nothing would be lost"),
        (Some(n), Some(s), Some(b)) => out.line(&format!(
            "if this host died now, {n} operations of the last {s:.1} s would be lost, about {b} bytes"
        )),
        _ => out.line("if this host died now, what only it has would be lost: no rule sends it elsewhere"),
    }
}
