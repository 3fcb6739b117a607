//! One server of the real core, and peers that say whatever can be decoded: lying, confused, or from another world.
//!
//! A walk is a list of moves, each a few numbers, so that proptest and libFuzzer drive the same code. The disk, the state
//! machine and the snapshotter around the core are honest, and late as it comes.
//!
//! What must hold: the core never panics, but for the two proofs that the protocol was broken elsewhere ([`PROOFS`]); and
//! whatever it says itself to its peers, they can decode.

#[path = "lies/said.rs"]
mod said;
#[path = "lies/server.rs"]
mod server;
#[path = "lies/understood.rs"]
mod understood;

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use ractor_raft::raft::LARGEST;

use server::Server;

/// How the panics begin that a lie may cause: another leader of this server's own term, and a leader that lacks what is
/// committed here. Both show that a majority forgot a vote or an entry; to go on would be to serve two histories.
pub const PROOFS: [&str; 2] = ["Election Safety:", "Leader Completeness:"];

/// What happens next, and with which numbers.
#[derive(Clone, Debug)]
pub struct Move {
    pub kind: u8,
    pub picks: [u16; 16],
}

/// How a walk ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All its moves were made.
    Done,
    /// The core stopped itself: what it was told it had acknowledged is not there (L08).
    Condemned,
    /// One of [`PROOFS`].
    Proof(String),
}

thread_local! {
    /// A panic is caught, and told by whoever caught it.
    static EXPECTING: Cell<bool> = const { Cell::new(false) };
}

/// Makes the moves against a server in the state that `begin` says.
///
/// # Panics
/// The core did, and with no proof.
pub fn walk(begin: Move, moves: impl IntoIterator<Item = Move>) -> End {
    static HUSHED: Once = Once::new();
    HUSHED.call_once(|| {
        let aloud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTING.get() {
                aloud(info)
            }
        }));
    });
    let mut server = Server::begin(&mut Picks::of(&begin));
    for next in moves {
        EXPECTING.set(true);
        let made = catch_unwind(AssertUnwindSafe(|| server.make(&next)));
        EXPECTING.set(false);
        if let Err(cause) = made {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
            if PROOFS.iter().any(|proof| text.starts_with(proof)) {
                return End::Proof(text);
            }
            panic!("the core fell over {next:?}, {}: {text}", server.last_input);
        }
        if server.condemned {
            return End::Condemned;
        }
    }
    End::Done
}

/// The numbers of a move, one after the other.
struct Picks<'a>(&'a Move, usize);

impl<'a> Picks<'a> {
    fn of(from: &'a Move) -> Self {
        Picks(from, 0)
    }

    fn next(&mut self) -> u64 {
        let pick = self.0.picks[self.1 % 16];
        self.1 += 1;
        u64::from(pick.rotate_left(self.1 as u32 / 16 * 3))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// As a rule one that lies near `near`; sometimes one from the ends of the world.
    fn number(&mut self, near: u64) -> u64 {
        let pick = self.next();
        let rest = pick / 64;
        match pick % 64 {
            0..=3 => 0,
            4..=7 => 1,
            8..=50 => near.saturating_sub(2).saturating_add(rest % 5),
            51..=56 => rest % 24,
            57 => near.saturating_add(1 << 40),
            58 => LARGEST,
            59 => LARGEST - rest % 8,
            60 => LARGEST + 1,
            61 => i64::MAX as u64,
            62 => i64::MAX as u64 + 1 + rest % 2,
            _ => u64::MAX - rest % 2,
        }
    }
}
