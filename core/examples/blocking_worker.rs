//! A worker on plain threads that answers each task with its own input: `blocking_worker URL NAME KEY_FILE`
use rejoin_core::{Loss, Seed, ids::*, limits, link::LinkConfig, wire::keys::*, wire::message::Outcome, worker::*};
use std::{net::Shutdown, net::TcpStream, sync::mpsc::*, thread, time::Duration, time::Instant};
use tungstenite::{Bytes, Message, WebSocket, protocol, stream::MaybeTlsStream};

enum Event {
    Opened(u64, TcpStream),
    Arrived(u64, Bytes),
    Gone(u64),
    Done(Token, Vec<u8>),
}

/// Works until the coordinator refuses this worker for good; connections and tasks have threads of their own
pub(crate) fn work(config: Config) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (start, url) = (Instant::now(), config.link.endpoints[0].clone());
    let now = || rejoin_core::Instant::from_micros(start.elapsed().as_micros() as u64);
    let mut worker = Worker::new(config, Seed(random()), now())?;
    let (events, happened) = channel();
    let (mut frame, mut current, mut socket) = (vec![0; limits::FRAME_BYTES_MAX], 0, None::<WebSocket<TcpStream>>);
    while worker.stopped().is_none() {
        let wake_at = loop {
            let (url, events) = (url.clone(), events.clone());
            match worker.poll(&mut frame) {
                Output::Connect { attempt, .. } => {
                    current = attempt;
                    thread::spawn(move || (_ = listen(&url, attempt, &events), events.send(Event::Gone(attempt))));
                }
                // If this fails, the listener or the silence will tell.
                Output::Send { bytes } => _ = socket.as_mut().map(|s| s.send(Message::binary(bytes.to_vec()))),
                Output::Disconnect { .. } => _ = socket.take().map(|s| s.get_ref().shutdown(Shutdown::Both)),
                Output::Run { token, .. } => {
                    let input = worker.payload(token).unwrap_or_default().to_vec();
                    worker.handle(now(), Input::Started { token })?;
                    thread::spawn(move || events.send(Event::Done(token, input))); // Here the work would be done.
                }
                Output::Cancel { .. }
                | Output::Keep { .. }
                | Output::Freeze { .. }
                | Output::Thaw { .. }
                | Output::WantCheckpoint { .. }
                | Output::ReadOutput { .. }
                | Output::Checkpointed { .. }
                | Output::ReadCheckpoint { .. }
                | Output::RestorePiece { .. }
                | Output::Forget { .. } => {}
                // Nobody asks for another key here.
                Output::KeepKey => {}
                Output::Idle { wake_at } => break wake_at,
            }
        };
        let event = happened.recv_timeout(wake_at.map_or(Duration::MAX, |at| at.since(now())));
        let input = match &event {
            Ok(Event::Opened(attempt, tcp)) if *attempt == current => {
                socket = Some(WebSocket::from_raw_socket(tcp.try_clone()?, protocol::Role::Client, None));
                Input::Connected { attempt: *attempt, entropy: random(), binding: None }
            }
            Ok(Event::Arrived(attempt, bytes)) => Input::Received { attempt: *attempt, bytes },
            Ok(Event::Gone(attempt)) => Input::Disconnected { attempt: *attempt, loss: Loss::Peer },
            Ok(Event::Done(token, result)) => Input::Finished { token: *token, outcome: Outcome::Succeeded, result },
            Ok(Event::Opened(..)) | Err(_) => Input::Timeout,
        };
        _ = worker.handle(now(), input); // A result that comes too late is refused, and work goes on.
    }
    Ok(())
}

fn listen(url: &str, attempt: u64, events: &Sender<Event>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (mut reader, _) = tungstenite::connect(url)?;
    let MaybeTlsStream::Plain(tcp) = reader.get_mut() else { return Err("only ws:// is spoken here".into()) };
    tcp.set_nodelay(true)?;
    events.send(Event::Opened(attempt, tcp.try_clone()?))?;
    loop {
        if let Message::Binary(bytes) = reader.read()? {
            events.send(Event::Arrived(attempt, bytes))?;
        }
    }
}

fn random<const N: usize>() -> [u8; N] {
    std::array::from_fn(|_| getrandom::u32().expect("the system has randomness") as u8)
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let argument = |n| std::env::args().nth(n).ok_or("usage: URL NAME KEY_FILE, the file with an id and a secret");
    let file = std::fs::read(argument(3)?)?;
    let (id, secret) = file.split_at(file.len().min(8));
    let (id, secret) = (KeyId(id.try_into()?), Secret::new(secret.try_into()?));
    let key = Key { id, secret, name: argument(2)?.parse()?, role: Role::Worker };
    work(Config::new(LinkConfig::new(key, BootId(random()), &argument(1)?)))
}
