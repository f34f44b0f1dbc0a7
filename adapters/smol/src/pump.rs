//! Moves messages between one WebSocket and the task that owns a machine
//!
//! A reader and a writer per connection, each with a bounded queue: a flush that waits for the peer never keeps this
//! side from reading, or both ends could wait for each other for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rejoin_core::Loss;
use smol::channel::{Receiver, Sender, bounded};

use crate::transport::{Reader, Socket, Writer};

/// Both ends of a queue, kept by the owner so that it never closes
pub(crate) type Queue<T> = (Sender<T>, Receiver<T>);

/// Frames that may wait for the writer
const WRITE_QUEUE: usize = 4;

/// What a connection reports
#[derive(Debug)]
pub(crate) enum Report {
    /// A message arrived, and the raw bytes that had arrived by then
    Message { bytes: Vec<u8>, arrived: u64 },
    /// The connection is over
    Ended(Loss),
    /// The writer has caught up
    Writable,
}

/// A connection in use; dropping it closes the socket at once
#[derive(Debug)]
pub(crate) struct Pump {
    frames: Sender<Job>,
    blocked: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    /// Raw bytes that had arrived when something was last heard
    seen: u64,
    reader: Option<smol::Task<()>>,
    writer: Option<smol::Task<()>>,
}

#[derive(Debug)]
enum Job {
    Frame(Vec<u8>),
    Close(u16),
}

impl Pump {
    /// Starts to move messages; each report is told with the name that the owner uses for this connection
    pub(crate) fn start<N: Clone + Send + 'static>(socket: Socket, name: N, reports: Sender<(N, Report)>) -> Self {
        let (reader, writer) = socket.split();
        let (frames, queue) = bounded(WRITE_QUEUE);
        let blocked = Arc::new(AtomicBool::new(false));
        let arrived = reader.arrived();
        Pump {
            frames,
            seen: 0,
            reader: Some(smol::spawn(read(reader, arrived.clone(), name.clone(), reports.clone()))),
            writer: Some(smol::spawn(write(writer, queue, blocked.clone(), name, reports))),
            blocked,
            arrived,
        }
    }

    /// Queues a frame; `false` when no more should come until [`Report::Writable`]
    pub(crate) fn send(&self, frame: &[u8]) -> bool {
        // Only a last word is ever sent against a full queue, and the connection is closed behind it anyway.
        let _ = self.frames.try_send(Job::Frame(frame.into()));
        if self.frames.is_full() {
            self.blocked.store(true, Ordering::SeqCst);
            // The writer may have caught up before it could see that somebody waits.
            return !self.frames.is_full() && self.blocked.swap(false, Ordering::SeqCst);
        }
        true
    }

    /// Notes that a message was taken in
    pub(crate) fn heard(&mut self, arrived: u64) {
        self.seen = self.seen.max(arrived);
    }

    /// Whether bytes have arrived since anything was last heard: part of a message (LIVE-2)
    pub(crate) fn is_arriving(&mut self) -> bool {
        let arrived = self.arrived.load(Ordering::Relaxed);
        arrived > std::mem::replace(&mut self.seen, arrived)
    }

    /// Says why, then closes; what was queued goes out before, if it can
    ///
    /// Returns what does so, bounded in time by the transport's own limit on closing; dropping it closes at once.
    pub(crate) fn close(mut self, code: u16) -> Option<smol::Task<()>> {
        self.reader = None;
        let writer = self.writer.take();
        writer.filter(|_| self.frames.try_send(Job::Close(code)).is_ok())
    }
}

async fn read<N: Clone>(mut reader: Reader, arrived: Arc<AtomicU64>, name: N, reports: Sender<(N, Report)>) {
    loop {
        let (report, over) = match reader.next().await {
            Ok(bytes) => {
                let arrived = arrived.load(Ordering::Relaxed);
                (Report::Message { bytes: bytes.into(), arrived }, false)
            }
            Err(_) => (Report::Ended(Loss::Peer), true),
        };
        if reports.send((name.clone(), report)).await.is_err() || over {
            return;
        }
    }
}

async fn write<N: Clone>(
    mut writer: Writer,
    queue: Receiver<Job>,
    blocked: Arc<AtomicBool>,
    name: N,
    reports: Sender<(N, Report)>,
) {
    while let Ok(first) = queue.recv().await {
        let mut next = Some(first);
        // One flush for all that is there: a flush per message costs half of the throughput.
        while let Some(job) = next {
            match job {
                Job::Frame(frame) => {
                    if writer.send(&frame).await.is_err() {
                        return end(name, reports).await;
                    }
                }
                Job::Close(code) => return writer.close(code).await,
            }
            next = queue.try_recv().ok();
        }
        if writer.flush().await.is_err() {
            return end(name, reports).await;
        }
        if blocked.swap(false, Ordering::SeqCst) && reports.send((name.clone(), Report::Writable)).await.is_err() {
            return;
        }
    }
}

async fn end<N>(name: N, reports: Sender<(N, Report)>) {
    // The owner may be gone already.
    let _ = reports.send((name, Report::Ended(Loss::Peer))).await;
}
