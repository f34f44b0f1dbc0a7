//! A worker on plain threads: no async runtime, blocking sockets, one loop
//!
//! It answers each task with the task's own input. One thread owns the machine; another one reads the socket, and each
//! task has its own. What they tell goes through one channel, and to wait is a `recv_timeout` on it.
//!
//! `blocking_worker ws://127.0.0.1:7878/v1/worker NAME KEY_FILE`, where the file holds the key's id and its secret,
//! 8 and 32 bytes.

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
use tungstenite::{Bytes, Message, WebSocket, protocol};

type Failure = Box<dyn std::error::Error + Send + Sync>;

enum Event {
    Arrived(u64, Bytes),
    Gone(u64),
    Done(Token, Vec<u8>),
}

/// Works until the coordinator refuses this worker for good
pub(crate) fn work(config: Config) -> Result<Reason, Failure> {
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
                    socket = dial(&url, attempt, events.clone()).ok();
                    let opened = Input::Connected { attempt, entropy: random()? };
                    let failed = Input::Disconnected { attempt, loss: Loss::Peer };
                    worker.handle(now(), if socket.is_some() { opened } else { failed })?;
                }
                // If that fails, the reader or the silence will tell.
                Output::Send { bytes } => {
                    _ = socket.as_mut().map(|socket| socket.send(Message::binary(bytes.to_vec())));
                }
                Output::Disconnect { .. } => _ = socket.take().map(|socket| socket.get_ref().shutdown(Shutdown::Both)),
                Output::Run { token, .. } => {
                    let (input, events) = (worker.payload(token).unwrap_or_default().to_vec(), events.clone());
                    worker.handle(now(), Input::Started { token })?;
                    // Here the work would be done.
                    thread::spawn(move || events.send(Event::Done(token, input)));
                }
                // These tasks end by themselves, and have no streams.
                Output::Cancel { .. } | Output::ReadOutput { .. } | Output::Forget { .. } => {}
                Output::Idle { wake_at } => break wake_at,
            }
        };
        if let Some(reason) = worker.stopped() {
            return Ok(reason);
        }
        let event = happened.recv_timeout(wake_at.map_or(Duration::MAX, |at| at.since(now())));
        let input = match &event {
            Ok(Event::Arrived(attempt, bytes)) => Input::Received { attempt: *attempt, bytes },
            Ok(Event::Gone(attempt)) => Input::Disconnected { attempt: *attempt, loss: Loss::Peer },
            Ok(Event::Done(token, result)) => Input::Finished { token: *token, outcome: Outcome::Succeeded, result },
            Err(_) => Input::Timeout,
        };
        // A result may come too late, when the task is not this worker's any more: then it is refused, and work goes on.
        _ = worker.handle(now(), input);
    }
}

/// Opens a connection, and starts to read from it
fn dial(url: &str, attempt: u64, events: Sender<Event>) -> Result<WebSocket<TcpStream>, Failure> {
    let host = url.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).ok_or("not a ws:// URL")?;
    let tcp = TcpStream::connect(host)?;
    tcp.set_nodelay(true)?;
    tcp.set_write_timeout(Some(Duration::from_secs(10)))?;
    tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut reader, _) = tungstenite::client(url, tcp.try_clone()?)?;
    // From here on the machine knows how long silence may last.
    tcp.set_read_timeout(None)?;
    thread::spawn(move || {
        while let Ok(message) = reader.read() {
            if let Message::Binary(bytes) = message {
                events.send(Event::Arrived(attempt, bytes))?;
            }
        }
        events.send(Event::Gone(attempt))
    });
    Ok(WebSocket::from_raw_socket(tcp, protocol::Role::Client, None))
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, name, key_file] = &arguments[..] else { return Err("usage: URL NAME KEY_FILE".into()) };
    let bytes = std::fs::read(key_file)?;
    let (id, secret) = bytes.split_at_checked(8).ok_or("the key file is too short")?;
    let (id, secret) = (KeyId(id.try_into()?), Secret::new(secret.try_into()?));
    let key = Key { id, secret, name: name.parse()?, role: Role::Worker };
    let reason = work(Config::new(LinkConfig::new(key, BootId(random()?), url)))?;
    Err(format!("refused: {reason:?}").into())
}
