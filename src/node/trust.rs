//! Whom a node hears, by the disks that the log knows and by who was removed (SAFETY: M05, M06), and what keeps the node
//! itself from its work.
//!
//! Everything is written by consensus and the log store, and read where requests arrive.

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::{
    node::{Trouble, shared::Shared},
    raft::{LogPosition, Membership, NodeId, Request},
    transport::{Caller, WrongPeer},
};

/// What keeps the node from its work. Written by consensus and the log store.
#[derive(Default)]
pub(crate) struct Troubles {
    /// The write in flight finds no room.
    pub disk_full: AtomicBool,
    /// A peer said that this node was removed, or its own log does.
    pub removed: AtomicBool,
    /// A peer knows this node by another disk, and its own log does not say better.
    pub wiped: AtomicBool,
}

impl Troubles {
    pub(crate) fn worst(&self) -> Option<Trouble> {
        let is = |trouble: &AtomicBool| trouble.load(Relaxed);
        if is(&self.wiped) {
            Some(Trouble::Wiped)
        } else if is(&self.removed) {
            Some(Trouble::Removed)
        } else {
            is(&self.disk_full).then_some(Trouble::DiskFull)
        }
    }
}

impl Shared {
    /// The disk of a peer as the log has it, kept up to date.
    pub(crate) fn known_disk(&self, peer: NodeId) -> Arc<AtomicU64> {
        self.known_disks.write().unwrap_or_else(PoisonError::into_inner).entry(peer).or_default().clone()
    }

    /// Takes over what the membership in force says of disks.
    pub(crate) fn know_disks(&self, membership: &Membership) {
        let mut known = self.known_disks.write().unwrap_or_else(PoisonError::into_inner);
        for id in membership.incarnations.keys() {
            known.entry(*id).or_default();
        }
        for (id, disk) in known.iter() {
            disk.store(membership.incarnations.get(id).copied().unwrap_or(0), Relaxed);
        }
    }

    /// Whether a request may be heard: it is for this disk, and not from a server that must not be heard any more.
    ///
    /// Only who asks for a vote is judged by the membership that is known here: a leader may be ahead
    /// of it (§6), and a leader was elected by others who knew it.
    pub(crate) fn admits(&self, from: &Caller, request: &Request) -> Result<(), WrongPeer> {
        let (node, own) = (self.id(), self.incarnation.load(Relaxed));
        if from.knows != 0 && own != 0 && from.knows != own {
            return Err(WrongPeer::OwnDisk { node, incarnation: own, known: from.knows });
        }
        let last_log = match request {
            Request::RequestVote(request) => request.last_log,
            Request::PreVote(request) => request.last_log,
            _ => return Ok(()),
        };
        if self.troubles.wiped.load(Relaxed) {
            // What this disk has forgotten may be a vote.
            return Err(WrongPeer::OwnDisk { node, incarnation: own, known: 0 });
        }
        let standing = self.standing.borrow();
        let membership = &standing.membership;
        if membership.removed.contains(&from.id) && !membership.contains(from.id) {
            return Err(WrongPeer::Removed { node, peer: from.id });
        }
        let known = membership.incarnations.get(&from.id).copied().unwrap_or(0);
        // With a log that is ahead of this one it has been replaced in due form, and this node does not know it yet.
        let (term, index) = (self.progress.last_term.load(Relaxed), self.progress.last_index.load(Relaxed));
        if known != 0 && from.incarnation != 0 && known != from.incarnation && last_log <= (LogPosition { term, index })
        {
            return Err(WrongPeer::Replaced { node, peer: from.id, known, found: from.incarnation });
        }
        Ok(())
    }
}
