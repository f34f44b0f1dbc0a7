//! A worker on plain threads: no async runtime, blocking sockets, one loop
//!
//! It answers each task with the task's own input. One thread owns the machine; another one dials and reads, and each
//! task has its own. All they tell goes through one channel, and waiting is a `recv_timeout` on it.
//!
//! `blocking_worker ws://127.0.0.1:7878/v1/worker NAME KEY_FILE`, where the file holds the key's id and secret, 8 and
//! 32 bytes.

use std::error::Error;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rejoin_core::ids::{BootId, KeyId, Role, Token};
use rejoin_core::limits::FRAME_BYTES_MAX;
use rejoin_core::link::{LinkConfig, Reason};
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::Outcome;
use rejoin_core::worker::{Config, Input, Output, Worker};
use rejoin_core::{Loss, Seed};
use tungstenite::protocol::Role as End;
use tungstenite::{Message, WebSocket};

type Failure = Box<dyn Error + Send + Sync>;

enum Event {
    Opened(u64, TcpStream),
    Arrived(u64, Message),
    Gone(u64),
    Done(Token, Vec<u8>),
}

/// Works until the coordinator refuses this worker for good
pub fn work(config: Config) -> Result<Reason, Failure> {
    let start = Instant::now();
    let now = || rejoin_core::Instant::from_micros(start.elapsed().as_micros() as u64);
    let url = config.link.audience.clone();
    let mut worker = Worker::new(config, Seed(random()?), now())?;
    let mut frame = vec![0; FRAME_BYTES_MAX];
    let (events, happened) = channel();
    let mut socket: Option<WebSocket<TcpStream>> = None;
    loop {
        let wake_at = loop {
            match worker.poll(&mut frame) {
                Output::Connect { attempt } => {
                    let (url, events) = (url.clone(), events.clone());
                    thread::spawn(move || events.send(read(&url, attempt, &events).unwrap_or(Event::Gone(attempt))));
                }
                Output::Disconnect { .. } => socket.take().into_iter().for_each(close),
                Output::Send { bytes } => {
                    let sent = socket.as_mut().map(|socket| socket.send(Message::binary(bytes.to_vec())));
                    // The reader will say that it is gone.
                    if let Some(Err(_)) = sent {
                        socket.take().into_iter().for_each(close);
                    }
                }
                Output::Run { token, .. } => {
                    let (input, events) = (worker.payload(token).unwrap_or_default().to_vec(), events.clone());
                    worker.handle(now(), Input::Started { token })?;
                    // Here the work would be done.
                    thread::spawn(move || events.send(Event::Done(token, input)));
                }
                // These tasks end by themselves, and write to no stream.
                Output::Cancel { .. } | Output::ReadOutput { .. } | Output::Forget { .. } => {}
                Output::Idle { wake_at } => break wake_at,
            }
        };
        if let Some(reason) = worker.stopped() {
            return Ok(reason);
        }
        let patience = wake_at.map_or(Duration::MAX, |at| at.since(now()));
        let handled = match happened.recv_timeout(patience) {
            Ok(Event::Opened(attempt, tcp)) => {
                socket = Some(WebSocket::from_raw_socket(tcp, End::Client, None));
                worker.handle(now(), Input::Connected { attempt, entropy: random()? })
            }
            Ok(Event::Arrived(attempt, message)) => {
                worker.handle(now(), Input::Received { attempt, bytes: &message.into_data() })
            }
            Ok(Event::Gone(attempt)) => worker.handle(now(), Input::Disconnected { attempt, loss: Loss::Peer }),
            Ok(Event::Done(token, result)) => {
                worker.handle(now(), Input::Finished { token, outcome: Outcome::Succeeded, result: &result })
            }
            Err(_) => worker.handle(now(), Input::Timeout),
        };
        handled?;
    }
}
