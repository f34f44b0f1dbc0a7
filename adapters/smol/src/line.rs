//! The dialling end's transport: one WebSocket at a time, opened and closed as the machine wants it

use std::collections::BTreeSet;
use std::time::Duration;

use rejoin_core::Loss;
use rejoin_core::link::Reason;
use smol::channel::bounded;
use smol::future::FutureExt;

use crate::dial::{DialError, Opened, Upgraded, open};
use crate::pump::{Pump, Queue, Report};
use crate::seen::Seen;
use crate::tls::Trust;
use crate::url::Endpoint;

const QUEUE: usize = 64;

/// What happened to the transport, to be told to the machine; `attempt` is its name for the connection
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineEvent {
    /// It is open; the first message goes along with its upgrade to a WebSocket (AUTH-9)
    Connected {
        /// Which dial
        attempt: u64,
        /// What only the two ends of the TLS connection beneath can derive; none without TLS (AUTH-7)
        binding: Option<[u8; 32]>,
    },
    /// A message arrived
    Message {
        /// Which dial
        attempt: u64,
        /// The whole message
        bytes: Vec<u8>,
    },
    /// It is gone, or could not be opened
    Disconnected {
        /// Which dial
        attempt: u64,
        /// Who ended it
        loss: Loss,
    },
    /// It takes more again, after [`Line::send`] said that it does not
    Writable {
        /// Which dial
        attempt: u64,
    },
}

/// A transport that is dialled again and again; dropping it closes it
///
/// Its methods are the answers to what a worker or client asks for, and never wait but in [`next`](Self::next).
#[derive(Debug)]
pub struct Line {
    endpoints: Vec<Endpoint>,
    dial_time: Duration,
    trust: Trust,
    /// Where the last dial leads
    endpoint: usize,
    /// Why the last dial failed
    trouble: Option<String>,
    /// The dial that is under way or was the last one
    current: Option<u64>,
    /// Open, and waiting for the first message
    opened: Option<(u64, usize, Opened)>,
    pump: Option<(u64, Pump)>,
    /// Which endpoint the last dial leads to, if the first message went along with its upgrade
    greeted: Option<usize>,
    /// Endpoints to which a first message cannot go with the upgrade: something on the way drops, changes or refuses it
    deaf: BTreeSet<usize>,
    dialling: Option<smol::Task<()>>,
    /// The last words on the connection that was closed last
    farewell: Option<smol::Task<()>>,
    reports: Queue<(u64, Report)>,
    dialled: Queue<Dialled>,
}

type Dialled = (u64, usize, Result<Stage, DialError>);

/// How far a dial has come
#[derive(Debug)]
enum Stage {
    /// A message can be sent, and goes along with the upgrade
    Opened(Opened),
    /// The first message went along, or is to follow
    Upgraded { upgraded: Box<Upgraded>, hello: Vec<u8> },
}

impl Line {
    /// Makes a transport that is not open; a dial takes no longer than `dial_time`
    ///
    /// The endpoints are those of the machine's [`LinkConfig`](rejoin_core::link::LinkConfig), in the same order.
    pub fn new(endpoints: Vec<Endpoint>, dial_time: Duration) -> Self {
        let (reports, dialled) = (bounded(QUEUE), bounded(1));
        let trust = Trust::system();
        Line {
            endpoints,
            dial_time,
            trust,
            endpoint: 0,
            trouble: None,
            current: None,
            opened: None,
            pump: None,
            greeted: None,
            deaf: BTreeSet::new(),
            dialling: None,
            farewell: None,
            reports,
            dialled,
        }
    }

    /// Believes others than those that the system believes when a coordinator says by TLS which host it is
    pub fn trusting(self, trust: Trust) -> Self {
        Line { trust, ..self }
    }

    /// Starts to open a transport to one of the endpoints
    pub fn connect(&mut self, attempt: u64, endpoint: usize) {
        let Some(url) = self.endpoints.get(endpoint).cloned() else { return };
        self.endpoint = endpoint;
        self.saw(attempt, Seen::Dials);
        let (dial_time, trust, dialled) = (self.dial_time, self.trust.clone(), self.dialled.0.clone());
        (self.current, self.opened, self.greeted) = (Some(attempt), None, None);
        self.dialling = Some(smol::spawn(async move {
            let opened = open(&url, &trust, dial_time).await.map(Stage::Opened);
            // If nobody waits for it any more, the connection closes here.
            let _ = dialled.send((attempt, endpoint, opened)).await;
        }));
    }

    /// Closes the transport, or gives up to open it
    pub fn disconnect(&mut self, reason: Reason) {
        if let Some(attempt) = self.current {
            self.saw(attempt, Seen::Closes(reason));
        }
        (self.dialling, self.current, self.opened) = (None, None, None);
        if matches!(
            reason,
            Reason::NotAuthenticated | Reason::Rejected | Reason::Version | Reason::Unbound | Reason::Audience
        ) {
            // It may have been an old answer out of somebody's memory, or one to something else than was said.
            self.deaf.extend(self.greeted);
        }
        if let Some((_, pump)) = self.pump.take() {
            // Each has its own time.
            if let Some(before) = std::mem::replace(&mut self.farewell, pump.close(reason.close_code())) {
                before.detach();
            }
        }
    }

    /// Waits until the last words have left, a second at most; for whoever ends the process next
    pub async fn finish(&mut self) {
        if let Some(farewell) = self.farewell.take() {
            farewell.await;
        }
    }

    /// Why the last dial failed, with what to do about it; `None` once one has succeeded
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Queues a message; returns the connection's name when it takes no more for now
    pub fn send(&mut self, bytes: &[u8]) -> Option<u64> {
        if let Some((attempt, endpoint, opened)) = self.opened.take() {
            self.upgrade(attempt, endpoint, opened, bytes.into());
            return None;
        }
        let (attempt, pump) = self.pump.as_ref()?;
        if pump.send(bytes) { None } else { Some(*attempt) }
    }

    fn upgrade(&mut self, attempt: u64, endpoint: usize, opened: Opened, hello: Vec<u8>) {
        let (dial_time, dialled) = (self.dial_time, self.dialled.0.clone());
        let along = !self.deaf.contains(&endpoint);
        self.greeted = Some(endpoint).filter(|_| along);
        self.dialling = Some(smol::spawn(async move {
            let upgraded = opened.upgrade(along.then_some(&hello), dial_time).await;
            let upgraded = upgraded.map(|upgraded| Stage::Upgraded { upgraded: Box::new(upgraded), hello });
            let _ = dialled.send((attempt, endpoint, upgraded)).await;
        }));
    }

    /// Returns the connection's name if part of a message has come in since anything was last heard (LIVE-2)
    pub fn arriving(&mut self) -> Option<u64> {
        let (attempt, pump) = self.pump.as_mut()?;
        pump.is_arriving().then_some(*attempt)
    }

    /// Waits for what happens next; may be dropped and called again
    pub async fn next(&mut self) -> LineEvent {
        loop {
            let report = async { Ok(self.reports.1.recv().await) };
            let dialled = async { Err(self.dialled.1.recv().await) };
            match report.or(dialled).await {
                Ok(Ok((attempt, report))) => {
                    let event = self.reported(attempt, report);
                    return self.seen(event);
                }
                Err(Ok(dialled)) => {
                    if let Some(event) = self.dialled(dialled) {
                        return self.seen(event);
                    }
                }
                // This end keeps a sender of each, so that they never close.
                Ok(Err(_)) | Err(Err(_)) => smol::future::pending().await,
            }
        }
    }

    /// Returns what has happened already
    pub fn try_next(&mut self) -> Option<LineEvent> {
        if let Ok((attempt, report)) = self.reports.1.try_recv() {
            let event = self.reported(attempt, report);
            return Some(self.seen(event));
        }
        let dialled = self.dialled.1.try_recv().ok()?;
        self.dialled(dialled).map(|event| self.seen(event))
    }

    /// Says of an event that the machine sees it
    fn seen(&self, event: LineEvent) -> LineEvent {
        match event {
            LineEvent::Connected { attempt, .. } => self.saw(attempt, Seen::Opened),
            LineEvent::Message { attempt, .. } => self.saw(attempt, Seen::Hears),
            LineEvent::Disconnected { attempt, .. } => self.saw(attempt, Seen::Lost),
            LineEvent::Writable { .. } => {}
        }
        event
    }

    fn saw(&self, attempt: u64, what: Seen) {
        what.by_peer(self.endpoints.get(self.endpoint), attempt);
    }

    fn reported(&mut self, attempt: u64, report: Report) -> LineEvent {
        let current = self.pump.as_mut().filter(|(current, _)| *current == attempt);
        match report {
            Report::Message { bytes, arrived } => {
                if let Some((_, pump)) = current {
                    pump.heard(arrived);
                }
                LineEvent::Message { attempt, bytes }
            }
            Report::Ended(loss) => {
                if current.is_some() {
                    self.pump = None;
                }
                LineEvent::Disconnected { attempt, loss }
            }
            Report::Writable => LineEvent::Writable { attempt },
        }
    }

    /// Takes a dial's next stage in; none if there is nothing to tell yet, or ever
    fn dialled(&mut self, (attempt, endpoint, stage): Dialled) -> Option<LineEvent> {
        if self.current != Some(attempt) {
            // It was given up meanwhile.
            return None;
        }
        match stage {
            Ok(Stage::Opened(opened)) => {
                let binding = opened.binding();
                self.opened = Some((attempt, endpoint, opened));
                Some(LineEvent::Connected { attempt, binding })
            }
            Ok(Stage::Upgraded { upgraded, hello }) => {
                let Upgraded { socket, challenge } = *upgraded;
                let pump = Pump::start(socket, attempt, self.reports.0.clone());
                self.trouble = None;
                if challenge.is_none() {
                    // It did not get there, or the answer did not get here: once more, and so from now on.
                    self.deaf.extend(self.greeted.take());
                    pump.send(&hello);
                }
                self.pump = Some((attempt, pump));
                challenge.map(|bytes| LineEvent::Message { attempt, bytes })
            }
            Err(error) => {
                self.failed(endpoint, &error);
                Some(LineEvent::Disconnected { attempt, loss: loss(&error) })
            }
        }
    }

    fn failed(&mut self, endpoint: usize, error: &DialError) {
        if let DialError::Http { status: 400..=403 | 405..=428 | 430..=499, .. } = error {
            // Something on the way may have refused a header that it does not know.
            self.deaf.extend(self.greeted.take());
        }
        let Some(endpoint) = self.endpoints.get(endpoint) else { return };
        let trouble = format!("{endpoint}: {error}");
        let known = self.trouble.as_ref() == Some(&trouble);
        self.trouble = Some(trouble);
        // A network heals by itself, a certificate does not.
        if matches!(error, DialError::Tls(_)) && !known {
            tracing::warn!(%endpoint, %error, "cannot reach the coordinator");
        } else {
            tracing::debug!(%endpoint, %error, "cannot reach the coordinator");
        }
    }
}

/// A busy port names a time to stay away, and so do the proxies in front of it (BACK-2)
fn loss(error: &DialError) -> Loss {
    if let DialError::Http { status: 429 | 502 | 503 | 504, retry_after } = error {
        return Loss::Busy { retry_after: retry_after.unwrap_or_default() };
    }
    Loss::Peer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_2_a_busy_port_or_proxy_says_when_to_come_back() {
        let answer = |status, seconds: Option<u64>| {
            loss(&DialError::Http { status, retry_after: seconds.map(Duration::from_secs) })
        };
        for status in [429, 502, 503, 504] {
            assert_eq!(answer(status, Some(7)), Loss::Busy { retry_after: Duration::from_secs(7) });
            assert_eq!(answer(status, None), Loss::Busy { retry_after: Duration::ZERO });
        }
        assert_eq!(answer(404, Some(7)), Loss::Peer);
        assert_eq!(loss(&DialError::TimedOut), Loss::Peer);
    }
}
