//! The thread that writes what is to be kept, so that a slow disk holds nobody up

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use rejoin_core::ids::Token;
use rejoin_core::wire::message::Stream;
use smol::channel::{Receiver, Sender, unbounded};

use super::Folder;
use super::format::Kept;
use crate::checkpoint::Large;
use crate::exec::{self, Outputs};

/// How long is waited for more to write at once; what is settled by then never costs the disk anything
const GATHER: Duration = Duration::from_millis(20);
/// How long after a failure it is tried again
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Something to be kept
#[derive(Debug)]
pub(crate) struct Job {
    /// Lengths, digests and bytes of output are still to be filled in
    pub(crate) kept: Kept,
    /// Where its output is; it has none if it was never executed
    pub(crate) outputs: Option<Outputs>,
    /// What it returned, where that is in a file
    pub(crate) large: Option<Large>,
}

impl Job {
    pub(super) fn output(&self, stream: Stream) -> Option<OutputOf<'_>> {
        self.outputs.as_ref().map(|outputs| OutputOf(outputs, stream))
    }
}

/// One stream of it
pub(super) struct OutputOf<'a>(&'a Outputs, Stream);

impl OutputOf<'_> {
    /// Returns what is in memory, or has what is in a file there from now on
    pub(super) fn keep_as(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.0.keep_as(
            match self.1 {
                Stream::Out => exec::Stream::Stdout,
                Stream::Err => exec::Stream::Stderr,
            },
            path,
        )
    }
}

/// What the thread has done
#[derive(Debug, Default)]
pub(crate) struct Happened {
    /// These are kept
    pub(crate) kept: Vec<Token>,
    /// There is room for so many others
    pub(crate) reserved: u16,
    /// Why something could not be kept, if that is so
    pub(crate) trouble: Option<String>,
}

enum Order {
    Keep(Box<Job>),
    Remove(Token),
}

/// This end of the thread
#[derive(Debug)]
pub(crate) struct Keeper {
    orders: mpsc::Sender<Order>,
    happened: Receiver<Happened>,
    thread: JoinHandle<()>,
}

impl Keeper {
    pub(crate) fn start(folder: Folder) -> io::Result<Keeper> {
        let (orders, ordered) = mpsc::channel();
        let (tell, happened) = unbounded();
        let work = move || Desk { folder, waiting: BTreeMap::new(), told: None, tell }.work(&ordered);
        let thread = std::thread::Builder::new().name("rejoin-results".into()).spawn(work)?;
        Ok(Keeper { orders, happened, thread })
    }

    pub(crate) fn keep(&self, job: Job) {
        // The thread ends when this is dropped, and not before.
        let _ = self.orders.send(Order::Keep(Box::new(job)));
    }

    pub(crate) fn remove(&self, token: Token) {
        let _ = self.orders.send(Order::Remove(token));
    }

    /// What happens next
    pub(crate) async fn next(&self) -> Happened {
        match self.happened.recv().await {
            Ok(happened) => happened,
            Err(_) => smol::future::pending().await,
        }
    }

    pub(crate) fn try_next(&self) -> Option<Happened> {
        self.happened.try_recv().ok()
    }

    /// Waits until everything is done that was ordered
    pub(crate) async fn finish(self) {
        drop(self.orders);
        let thread = self.thread;
        // A panic there was told by then.
        let _ = smol::unblock(move || thread.join()).await;
    }
}

struct Desk {
    folder: Folder,
    /// Still to be written
    waiting: BTreeMap<Token, Box<Job>>,
    /// The room that was told last, and whether there was trouble
    told: Option<(u16, bool)>,
    tell: Sender<Happened>,
}

impl Desk {
    fn work(mut self, orders: &mpsc::Receiver<Order>) {
        self.told = Some((self.folder.reserved(), false));
        loop {
            // Whatever failed is tried again after a while.
            let at_rest = self.waiting.is_empty() && self.folder.is_reserved();
            let first = if at_rest {
                orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                orders.recv_timeout(RETRY_AFTER)
            };
            let over = matches!(first, Err(RecvTimeoutError::Disconnected));
            if let Ok(order) = first {
                self.take(order);
                std::thread::sleep(GATHER);
            }
            while let Ok(order) = orders.try_recv() {
                self.take(order);
            }
            self.write();
            if over {
                return;
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Keep(job) => {
                self.waiting.insert(job.kept.token, job);
            }
            Order::Remove(token) => {
                self.waiting.remove(&token);
                if let Err(error) = self.folder.remove(token) {
                    // What comes back with the next process is stale there.
                    tracing::warn!(%error, "a result that was delivered stays on disk");
                }
            }
        }
    }

    fn write(&mut self) {
        let mut happened = Happened::default();
        let mut written = Vec::new();
        for (token, job) in &self.waiting {
            match self.folder.write(job) {
                Ok(()) => written.push(*token),
                Err(error) => happened.trouble = Some(error.to_string()),
            }
        }
        if !written.is_empty() {
            match self.folder.sync() {
                Ok(()) => happened.kept = written,
                Err(error) => happened.trouble = Some(error.to_string()),
            }
        }
        happened.kept.iter().for_each(|token| drop(self.waiting.remove(token)));
        self.folder.reserve();
        happened.reserved = self.folder.reserved();
        let told = Some((happened.reserved, happened.trouble.is_some()));
        if !happened.kept.is_empty() || told != self.told {
            self.told = told;
            // Without a receiver nobody wants to know.
            let _ = self.tell.try_send(happened);
        }
    }
}
