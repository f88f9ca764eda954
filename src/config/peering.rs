//! What the file says of peers: where to listen, whose keys are pinned, and the rules of replication.

use std::collections::BTreeMap;

use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, value};

use super::{ConfigError, Fault, parse::Reader};
use crate::{
    base::{KeyId, StoreId},
    peers::Access,
};

/// What says which changes there are.
pub(super) const HELP: &str = "segfs replicate add --help";

/// A peer whose key is pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedPeer {
    /// The name of its key.
    pub key: KeyId,
    /// The store that the key belongs to; without, what it says first counts.
    pub store: Option<StoreId>,
    /// HOST:PORT, if it can be dialed.
    pub address: Option<String>,
    /// What it may do in the whole store.
    pub access: Access,
}

/// A rule: the whole store, both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationRule {
    /// The name of a peer.
    pub peer: String,
    /// It waits until a person says otherwise.
    pub paused: bool,
}

/// All that the file says of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peering {
    /// Where to listen.
    pub listen: Option<String>,
    /// By name.
    pub peers: BTreeMap<String, PinnedPeer>,
    /// By name.
    pub rules: BTreeMap<String, ReplicationRule>,
}

/// A change of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeeringEdit {
    /// Pins a key, in the place of what the name stood for.
    Peer(String, PinnedPeer),
    /// Forgets a peer.
    RemovePeer(String),
    /// A new rule, or the same differently.
    Rule(String, ReplicationRule),
    /// Forgets a rule.
    RemoveRule(String),
}

/// May a peer or a rule be called so?
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 64 && name.chars().all(plain)
}

impl Reader<'_> {
    fn word(&self, item: &Item, what: &str) -> Result<String, Fault> {
        item.as_str()
            .map(str::to_owned)
            .ok_or_else(|| self.fault(item.span(), format!("this must be {what}")))
    }

    /// `listen`.
    pub(super) fn listen(&self, item: &Item) -> Result<String, Fault> {
        const FORM: &str = "an address and a port, such as \"127.0.0.1:7420\"";
        let at = self.word(item, FORM)?;
        let is_one = at.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok());
        if is_one { Ok(at) } else { Err(self.fault(item.span(), format!("this must be {FORM}"))) }
    }

    /// `[peer.NAME]`.
    pub(super) fn peers(&self, item: &Item, all: &mut Peering) -> Result<(), Fault> {
        for (name, item) in self.table(item, "peer")?.iter() {
            let of = format!("[peer.{name}]");
            let table = self.table(item, &of)?;
            let (mut key, mut store, mut address, mut access) = (None, None, None, None);
            for (word, item) in table.iter() {
                match word {
                    "key" => {
                        let text = self.word(item, "the name of a key")?;
                        let parsed =
                            text.parse().map_err(|e| self.fault(item.span(), format!("no key: {e}")))?;
                        key = Some(parsed);
                    }
                    "store" => {
                        let text = self.word(item, "the id of a store")?;
                        let no_id = |_| self.fault(item.span(), "this is no id of a store");
                        store = Some(text.parse::<StoreId>().map_err(no_id)?);
                    }
                    "address" => address = Some(self.listen(item)?),
                    "grant" => access = Some(self.grant(item)?),
                    _ => return Err(self.unknown(table, word, &of, &["key", "store", "address", "grant"])),
                }
            }
            let missing = |what: &str| self.fault(item.span(), format!("{of} has no {what}"));
            let key = key.ok_or_else(|| missing("key"))?;
            let access = access.ok_or_else(|| missing("grant"))?;
            if !is_plain_name(name) || all.peers.values().any(|p| p.key == key) {
                return Err(missing("name of its own: letters, digits, - _ . and each key once"));
            }
            let twin = all.peers.iter().find(|(_, p)| store.is_some() && p.store == store);
            if let Some((twin, _)) = twin {
                return Err(missing(&format!("store of its own: [peer.{twin}] has the same")));
            }
            all.peers.insert(name.to_owned(), PinnedPeer { key, store, address, access });
        }
        Ok(())
    }

    fn grant(&self, item: &Item) -> Result<Access, Fault> {
        let form = || self.fault(item.span(), "this must be { \"/\" = \"two-way\" }, or send, or receive");
        let table = item.as_table_like().filter(|t| t.len() == 1).ok_or_else(form)?;
        table.get("/").and_then(Item::as_str).and_then(|word| word.parse().ok()).ok_or_else(form)
    }

    /// `[replicate.NAME]`, once all peers are known.
    pub(super) fn replication(&self, item: &Item, all: &mut Peering) -> Result<(), Fault> {
        for (name, item) in self.table(item, "replicate")?.iter() {
            let of = format!("[replicate.{name}]");
            let table = self.table(item, &of)?;
            let (mut peer, mut paused, mut two_way) = (None, false, false);
            for (word, item) in table.iter() {
                match word {
                    "to" => {
                        let to = self.word(item, "a peer, such as \"peer:host-b\"")?;
                        let known = to.strip_prefix("peer:").filter(|p| all.peers.contains_key(*p));
                        let unknown = || self.fault(item.span(), format!("\"{to}\" is no peer of this file"));
                        peer = Some(known.ok_or_else(unknown)?.to_owned());
                    }
                    "prefix" if item.as_str() == Some("/") => {}
                    "prefix" => {
                        return Err(self.fault(item.span(), "only \"/\", the whole store, can be replicated"));
                    }
                    "two_way" => two_way = self.yes_or_no(item)?,
                    "paused" => paused = self.yes_or_no(item)?,
                    _ => return Err(self.unknown(table, word, &of, &["to", "prefix", "two_way", "paused"])),
                }
            }
            let missing = |what: &str| self.fault(item.span(), format!("{of}: {what}"));
            let peer = peer.ok_or_else(|| missing("it has no \"to\""))?;
            if !two_way {
                return Err(missing("only rules with two_way = true can be carried out"));
            }
            if !is_plain_name(name) || all.rules.values().any(|r| r.peer == peer) {
                return Err(missing("each peer has one rule, called by letters, digits, - _ ."));
            }
            all.rules.insert(name.to_owned(), ReplicationRule { peer, paused });
        }
        Ok(())
    }
}

/// Is the change one of what is there?
pub(super) fn check(now: &Peering, edit: &PeeringEdit) -> Result<(), ConfigError> {
    match edit {
        PeeringEdit::Rule(_, rule) if !now.peers.contains_key(&rule.peer) => {
            let why = format!("there is no peer called {}", rule.peer);
            Err(ConfigError::Missing(why, "segfs peer list, or segfs peer join"))
        }
        PeeringEdit::Rule(name, rule) => {
            let other = now.rules.iter().find(|(n, r)| *n != name && r.peer == rule.peer);
            other.map_or(Ok(()), |(other, _)| {
                let why = format!("the rule {other} goes to {} already", rule.peer);
                Err(ConfigError::Refused(why, "segfs replicate list"))
            })
        }
        PeeringEdit::RemovePeer(name) => {
            let rule = now.rules.iter().find(|(_, r)| r.peer == *name);
            rule.map_or(Ok(()), |(rule, _)| {
                let why = format!("the rule {rule} goes to {name}");
                Err(ConfigError::Refused(why, "segfs replicate rm RULE, then again"))
            })
        }
        PeeringEdit::Peer(_, peer) => {
            let same = |p: &PinnedPeer| p.store.is_some() && p.store == peer.store && p.key != peer.key;
            let Some((name, other)) = now.peers.iter().find(|(_, p)| same(p)) else { return Ok(()) };
            let store = other.store.unwrap_or_default();
            let why = format!(
                "it says that it is the store {store} and has the key {}, but {name} is that store, with the key {}",
                peer.key, other.key
            );
            Err(ConfigError::Refused(why, "if its key was made anew: segfs peer rm NAME, then again"))
        }
        PeeringEdit::RemoveRule(_) => Ok(()),
    }
}

/// The text with a change made in it.
pub(super) fn apply(text: &str, edit: &PeeringEdit) -> Result<String, ConfigError> {
    let mut document: DocumentMut =
        text.parse().map_err(|e: toml_edit::TomlError| ConfigError::Refused(e.message().to_owned(), HELP))?;
    match edit {
        PeeringEdit::Peer(name, peer) => {
            let table = entry(&mut document, "peer", name)?;
            table.insert("key", value(peer.key.to_string()));
            if let Some(store) = &peer.store {
                table.insert("store", value(store.to_string()));
            }
            if let Some(address) = &peer.address {
                table.insert("address", value(address.as_str()));
            }
            let mut grant = InlineTable::new();
            grant.insert("/", peer.access.to_string().into());
            table.insert("grant", value(grant));
        }
        PeeringEdit::Rule(name, rule) => {
            let table = entry(&mut document, "replicate", name)?;
            table.insert("to", value(format!("peer:{}", rule.peer)));
            table.insert("prefix", value("/"));
            table.insert("two_way", value(true));
            if rule.paused {
                table.insert("paused", value(true));
            } else {
                table.remove("paused");
            }
        }
        PeeringEdit::RemovePeer(name) => remove(&mut document, ("peer", "peer"), name, "segfs peer list")?,
        PeeringEdit::RemoveRule(name) => {
            remove(&mut document, ("replicate", "rule"), name, "segfs replicate list")?;
        }
    }
    Ok(document.to_string())
}

fn entry<'a>(
    document: &'a mut DocumentMut,
    kind: &str,
    name: &str,
) -> Result<&'a mut dyn TableLike, ConfigError> {
    let table = || ConfigError::Refused(format!("what the file says of \"{kind}\" is no table"), HELP);
    let all = document.entry(kind).or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let inline = all.is_inline_table();
    let new = if inline { value(InlineTable::new()) } else { Item::Table(Table::new()) };
    let all = all.as_table_like_mut().ok_or_else(table)?;
    all.entry(name).or_insert(new).as_table_like_mut().ok_or_else(table)
}

fn remove(
    document: &mut DocumentMut,
    (table, kind): (&str, &str),
    name: &str,
    next: &'static str,
) -> Result<(), ConfigError> {
    let found = document.get_mut(table).and_then(Item::as_table_like_mut).and_then(|all| all.remove(name));
    found.map(drop).ok_or_else(|| ConfigError::Missing(format!("there is no {kind} called {name}"), next))
}

#[cfg(test)]
mod tests {
    use super::{super::parse::parse_all, *};

    #[test]
    fn what_is_changed_can_be_read_and_leaves_the_rest() {
        let old = "# mine\nlisten = '127.0.0.1:7420' # here\n[path.'/']\nkeep = 'all'\n";
        let key = KeyId::new([3; 20]);
        let store = Some(StoreId::new(7));
        let peer = PinnedPeer { key, store, address: Some("b:7420".into()), access: Access::TwoWay };
        let text = apply(old, &PeeringEdit::Peer("host.b".into(), peer.clone())).unwrap();
        let rule = ReplicationRule { peer: "host.b".into(), paused: true };
        let text = apply(&text, &PeeringEdit::Rule("all".into(), rule.clone())).unwrap();
        assert!(text.starts_with(old), "{text}");
        let (_, all) = parse_all(&text).unwrap();
        assert_eq!(all.listen.as_deref(), Some("127.0.0.1:7420"));
        assert_eq!((&all.peers["host.b"], &all.rules["all"]), (&peer, &rule));
        let text = apply(&text, &PeeringEdit::RemovePeer("host.b".into())).unwrap();
        let fault = parse_all(&text).unwrap_err();
        assert!(fault.what.contains("no peer of this file"), "a rule is not left without its peer: {fault}");
        let text = apply(&text, &PeeringEdit::RemoveRule("all".into())).unwrap();
        assert_eq!(parse_all(&text).unwrap().1.peers, BTreeMap::new());
    }

    #[test]
    fn what_is_not_carried_out_is_refused() {
        let key = KeyId::new([3; 20]);
        let (other, store) = (KeyId::new([4; 20]), StoreId::new(7));
        let peer = format!("[peer.b]\nkey = '{key}'\nstore = '{store}'\ngrant = {{ '/' = 'two-way' }}\n");
        let twin = format!("[peer.c]\nkey = '{other}'\nstore = '{store}'\ngrant = {{ '/' = 'two-way' }}\n");
        for (more, says) in [
            ("[replicate.x]\nto = 'peer:b'\n", "two_way = true"),
            ("[replicate.x]\nto = 'peer:b'\ntwo_way = true\nprefix = '/photos'\n", "whole store"),
            ("[replicate.x]\nto = 's3:b'\ntwo_way = true\n", "no peer"),
            ("[replicate.x]\ntwo_way = true\n", "no \"to\""),
            ("[peer.c]\nkey = '1'\ngrant = { '/' = 'two-way' }\n", "no key"),
            (&twin, "[peer.b] has the same"),
            ("[peer.c]\nkey = '1'\nstore = '1'\n", "no "),
            ("[peer.c]\ngrant = { '/photos' = 'two-way' }\n", "this must be"),
        ] {
            let fault = parse_all(&format!("{peer}{more}")).unwrap_err();
            assert!(fault.what.contains(says), "{more}: {fault}");
        }
    }

    #[test]
    fn a_change_of_what_is_not_there_names_what_is_not() {
        let pinned =
            PinnedPeer { key: KeyId::new([3; 20]), store: None, address: None, access: Access::TwoWay };
        let rule = |peer: &str| ReplicationRule { peer: peer.into(), paused: false };
        let mut now = Peering::default();
        let missing = |now: &Peering, edit| match check(now, &edit) {
            Err(ConfigError::Missing(what, _)) => what,
            other => panic!("{other:?}"),
        };
        assert!(missing(&now, PeeringEdit::Rule("all".into(), rule("b"))).contains("no peer called b"));
        now.peers.insert("b".into(), pinned);
        now.rules.insert("all".into(), rule("b"));
        assert!(check(&now, &PeeringEdit::Rule("all".into(), rule("b"))).is_ok());
        let refused = |edit| matches!(check(&now, &edit), Err(ConfigError::Refused(..)));
        assert!(refused(PeeringEdit::Rule("more".into(), rule("b"))));
        assert!(refused(PeeringEdit::RemovePeer("b".into())));
        for edit in [PeeringEdit::RemovePeer("c".into()), PeeringEdit::RemoveRule("c".into())] {
            assert!(matches!(apply("", &edit), Err(ConfigError::Missing(..))), "{edit:?}");
        }
    }
}
