//! What all pages are told: the last frames, held once, and what a page that comes now has to know.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::{broadcast, watch};

use super::{
    timeline::Kind,
    words::{Happened, Hello, Lag, sse},
};
use crate::raft::NodeId;

/// Frames that a page may be behind: some six seconds.
pub(super) const BEHIND: usize = 64;

/// Lines of the Timeline that a new page is told.
const REMEMBERED: usize = 200;

/// How long, in milliseconds, a browser waits before it comes back after a break.
const RETRY: &[u8] = b"retry: 1000\n\n";

/// Between the collector and the pages.
pub(super) struct Hub {
    frames: broadcast::Sender<Bytes>,
    pages: watch::Sender<usize>,
    max_pages: usize,
    latest: Mutex<Latest>,
}

/// What a page that comes now has to know.
#[derive(Default)]
struct Latest {
    hello: Hello,
    happened: VecDeque<Happened>,
    /// Lines of the Timeline that no frame has told yet.
    new: Vec<Happened>,
    count: u64,
    /// `hello` and `happened` as they are told, once somebody has asked, for all who ask before they change.
    told: Option<Bytes>,
}

impl Hub {
    pub(super) fn new(max_pages: usize) -> Self {
        let (frames, _) = broadcast::channel(BEHIND);
        let (pages, _) = watch::channel(0);
        Hub { frames, pages, max_pages, latest: Mutex::default() }
    }

    /// How many pages are open.
    pub(super) fn pages(&self) -> usize {
        *self.pages.borrow()
    }

    /// Waits until there is a page, or none.
    pub(super) async fn watched(&self, watched: bool) {
        let mut pages = self.pages.subscribe();
        // The sender is ours.
        let _ = pages.wait_for(|pages| (*pages > 0) == watched).await;
    }

    /// Tells every page. Costs nothing where one is slow: what it has not read is overwritten.
    pub(super) fn tell(&self, frame: Bytes) {
        // Without a page, nobody hears it.
        let _ = self.frames.send(frame);
    }

    /// Writes a line on the Timeline.
    pub(super) fn note(&self, kind: Kind, node: Option<NodeId>, text: String) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        self.note_of(at, kind, node, text);
    }

    /// Writes a line on the Timeline about what happened so many milliseconds after 1970 began.
    pub(super) fn note_of(&self, at: u64, kind: Kind, node: Option<NodeId>, text: String) {
        let mut latest = self.latest();
        latest.count += 1;
        latest.told = None;
        let happened = Happened { id: latest.count, at, kind, node, text };
        if latest.happened.len() == REMEMBERED {
            latest.happened.pop_front();
        }
        latest.happened.push_back(happened.clone());
        if self.pages() > 0 && latest.new.len() < REMEMBERED {
            latest.new.push(happened);
        }
    }

    /// The lines that no frame has told yet.
    pub(super) fn take_new(&self) -> Vec<Happened> {
        std::mem::take(&mut self.latest().new)
    }

    /// Changes what a new page is told.
    pub(super) fn update(&self, change: impl FnOnce(&mut Hello)) {
        let mut latest = self.latest();
        latest.told = None;
        change(&mut latest.hello);
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hello(&self) -> Bytes {
        let mut latest = self.latest();
        let Latest { hello, happened, told, .. } = &mut *latest;
        let tell = || sse("hello", &Hello { timeline: happened.iter().cloned().collect(), ..hello.clone() });
        told.get_or_insert_with(tell).clone()
    }

    /// What one page is told, from now on. `None`: there are too many.
    pub(super) fn open(self: &Arc<Self>) -> Option<impl Stream<Item = Bytes> + Send + use<>> {
        let mut is_room = false;
        self.pages.send_if_modified(|pages| {
            is_room = *pages < self.max_pages;
            *pages += usize::from(is_room);
            is_room
        });
        let frames = self.frames.subscribe();
        let page = is_room.then(|| Page { hub: self.clone(), frames, greeted: false, next: None })?;
        Some(stream::unfold(page, |mut page| async { Some((page.next().await?, page)) }))
    }
}

/// One open page. It is counted until it is dropped.
struct Page {
    hub: Arc<Hub>,
    frames: broadcast::Receiver<Bytes>,
    greeted: bool,
    /// What it is told before the next frame.
    next: Option<Bytes>,
}

impl Page {
    async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            self.greeted = true;
            self.next = Some(Bytes::from_static(RETRY));
            return Some(self.hub.hello());
        }
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        match self.frames.recv().await {
            Ok(frame) => Some(frame),
            Err(broadcast::error::RecvError::Closed) => None,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                // It goes on with what is now, and not with what it has just missed.
                self.frames = self.frames.resubscribe();
                self.next = Some(self.hub.hello());
                Some(sse("lag", &Lag { missed }))
            }
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.hub.pages.send_modify(|pages| *pages -= 1);
    }
}
