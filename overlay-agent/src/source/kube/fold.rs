//! Nodes in, leases out. No I/O.

use std::collections::BTreeMap;

use ipnet::IpNet;
use log::Level;
use overlay_core::kube::{Keys, pod_subnet_v4, read};
use overlay_core::model::{FamilyLease, Lease, LeaseEvent};

use super::halves::Halves;
use crate::kube::identity::Identity;
use crate::kube::list_watch::NodeEvent;
use crate::kube::record::NodeRecord;

/// Something to say to the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Note {
    pub(super) level: Level,
    pub(super) text: String,
}

/// What is kept of each Node: its lease, and enough to notice a change.
pub(super) struct Fold {
    keys: Keys,
    vni: u32,
    own: String,
    identity: Identity,
    nodes: BTreeMap<String, Entry>,
    /// Number of the list that is being read, or was read last.
    list: u32,
    /// Whether the list is complete. Nothing is reported between.
    complete: bool,
    /// Whether `nodes` differs from what was reported.
    unreported: bool,
    own_record: Option<NodeRecord>,
    own_changed: bool,
    notes: Vec<Note>,
}

struct Entry {
    /// Another one is another Node of the same name.
    uid: Box<str>,
    /// Seconds since 1970.
    created: i64,
    /// The last list that it was in.
    list: u32,
    halves: Halves,
    /// What was said about it and still holds.
    said: Option<Box<str>>,
}

impl Fold {
    pub(super) fn new(keys: Keys, vni: u32, own: String, identity: Identity) -> Self {
        Self {
            keys,
            vni,
            own,
            identity,
            nodes: BTreeMap::new(),
            list: 0,
            complete: false,
            unreported: true,
            own_record: None,
            own_changed: false,
            notes: Vec::new(),
        }
    }

    /// Takes in what has happened; what is to be reported.
    pub(super) fn take(&mut self, event: NodeEvent) -> Option<LeaseEvent> {
        match event {
            NodeEvent::ListBegins => {
                self.complete = false;
                self.list = self.list.wrapping_add(1);
                None
            }
            NodeEvent::Listed(record) => {
                self.unreported |= self.apply(record).is_some();
                None
            }
            NodeEvent::ListEnds => self.end_list(),
            NodeEvent::Applied(record) => self.apply(record),
            NodeEvent::Deleted { name } => self.delete(&name),
        }
    }

    /// Takes in how peers reach this node from now on.
    pub(super) fn identify(&mut self, identity: Identity) -> Option<LeaseEvent> {
        self.identity = identity;
        let record = self.own_record.clone()?;
        let event = self.apply_entry(&record);
        if self.complete {
            return event;
        }
        self.unreported |= event.is_some();
        None
    }

    /// What there is to say since the last time.
    pub(super) fn notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// The record of the own Node if it is a new one; `Some(None)` when the Node is gone.
    pub(super) fn own_changed(&mut self) -> Option<Option<NodeRecord>> {
        std::mem::take(&mut self.own_changed).then(|| self.own_record.clone())
    }

    fn end_list(&mut self) -> Option<LeaseEvent> {
        let list = self.list;
        let before = self.nodes.len();
        self.nodes.retain(|_, entry| entry.list == list);
        self.unreported |= self.nodes.len() != before;
        if !self.nodes.contains_key(&self.own) {
            self.lose_own();
        }
        self.complete = true;
        if !std::mem::take(&mut self.unreported) {
            return None;
        }
        // Of two Nodes that claim the same, the one that was there first should keep it, on every node of the cluster.
        let mut leases: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, entry)| !entry.halves.is_empty())
            .collect();
        leases.sort_by_key(|(_, entry)| entry.created);
        let leases = leases.into_iter().map(|(name, entry)| lease(name, entry.halves));
        Some(LeaseEvent::Replace(leases.collect()))
    }

    fn apply(&mut self, record: NodeRecord) -> Option<LeaseEvent> {
        if record.name().is_empty() {
            return None;
        }
        let event = self.apply_entry(&record);
        if record.name() == self.own {
            self.own_record = Some(record);
            self.own_changed = true;
        }
        event
    }

    /// Brings the entry of one Node up to date; the change of its lease, if it has changed.
    fn apply_entry(&mut self, record: &NodeRecord) -> Option<LeaseEvent> {
        let name = record.name();
        let (last, said) = match self.nodes.get(name) {
            Some(entry) if *entry.uid == *record.uid() => (entry.halves, entry.said.as_deref()),
            // What another Node of the same name said is of no use to this one.
            Some(entry) => (Halves::default(), entry.said.as_deref()),
            None => (Halves::default(), None),
        };
        let (halves, level, text) = if name == self.own {
            own(name, self.identity, record)
        } else {
            let (halves, text) = last.after(name, read(&record.view(), &self.keys, self.vni));
            (halves, Level::Error, text)
        };
        match (&text, said) {
            (Some(text), said) if said != Some(text) => self.notes.push(Note {
                level,
                text: text.clone(),
            }),
            (None, Some(_)) => self.notes.push(Note {
                level: Level::Info,
                text: format!("Node {name}: what was wrong is repaired"),
            }),
            (Some(_) | None, _) => {}
        }
        let reported = self.nodes.get(name).map(|entry| entry.halves);
        let entry = Entry {
            uid: record.uid().into(),
            created: record.created(),
            list: self.list,
            halves,
            said: text.map(String::into_boxed_str),
        };
        match self.nodes.get_mut(name) {
            Some(place) => *place = entry,
            None => {
                self.nodes.insert(name.to_owned(), entry);
            }
        }
        let reported = reported.unwrap_or_default();
        match (reported == halves, halves.is_empty()) {
            (true, _) => None,
            (false, true) => Some(LeaseEvent::Remove {
                node: name.to_owned(),
            }),
            (false, false) => Some(LeaseEvent::Upsert(lease(name, halves))),
        }
    }

    fn delete(&mut self, name: &str) -> Option<LeaseEvent> {
        let entry = self.nodes.remove(name)?;
        if name == self.own {
            self.lose_own();
        }
        (!entry.halves.is_empty()).then(|| LeaseEvent::Remove {
            node: name.to_owned(),
        })
    }

    /// The own Node is gone, or was never there.
    fn lose_own(&mut self) {
        if self.own_record.take().is_some() || self.list == 1 {
            self.notes.push(Note {
                level: Level::Error,
                text: format!(
                    "Node {}, this agent's own, does not exist: waiting for it; no lease of this node until then (is \
                     NODE_NAME right?)",
                    self.own
                ),
            });
        }
        self.own_changed = true;
    }
}

/// This node's own lease.
fn own(name: &str, identity: Identity, record: &NodeRecord) -> (Halves, Level, Option<String>) {
    let (subnet, level, text) = match pod_subnet_v4(&record.view()) {
        Ok(Some(subnet)) => (Some(subnet), Level::Info, None),
        Ok(None) => (
            None,
            Level::Warn,
            Some(format!(
                "Node {name}, this agent's own, has no IPv4 podCIDR yet: waiting for it (kube-controller-manager assigns it \
                 with --allocate-node-cidrs)"
            )),
        ),
        Err(bad) => (
            None,
            Level::Error,
            Some(format!(
                "Node {name}, this agent's own: {bad}; no lease of this node until that is repaired"
            )),
        ),
    };
    let v4 = subnet.map(|subnet| FamilyLease {
        subnet: IpNet::V4(subnet),
        public_ip: identity.public_ip,
        vtep_mac: identity.vtep_mac,
    });
    (Halves { v4, v6: None }, level, text)
}

fn lease(name: &str, halves: Halves) -> Lease {
    Lease {
        node: name.to_owned(),
        origin: format!("Node {name}"),
        v4: halves.v4,
        v6: halves.v6,
    }
}
