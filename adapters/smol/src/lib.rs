//! rejoin on smol: real sockets, real processes, and the coordinator's port
//!
//! Thin adapters around the machines of [`rejoin_core`]: [`worker`] and [`client`] dial, [`coordinator`] listens.
//! Each is one task that owns its machine, tells it what happened, and does what it asks for.
//!
//! [`worker`] runs commands. A worker for tasks of another kind is one loop around the machine and a
//! [`Line`](line::Line). This one answers each task with the task's own input:
//!
//! ```
//! use rejoin_core::limits::FRAME_BYTES_MAX;
//! use rejoin_core::wire::message::Outcome;
//! use rejoin_core::worker::{Config, Input, Output, Worker};
//! use rejoin_smol::clock::{Clock, entropy, seed};
//! use rejoin_smol::line::{Line, LineEvent};
//! use smol::future::FutureExt;
//!
//! async fn work(mut line: Line, config: Config) -> Result<(), Box<dyn std::error::Error>> {
//!     let clock = Clock::start();
//!     let mut worker = Worker::new(config, seed()?, clock.now())?;
//!     let mut frame = vec![0; FRAME_BYTES_MAX];
//!     while worker.stopped().is_none() {
//!         let wake_at = loop {
//!             match worker.poll(&mut frame) {
//!                 Output::Connect { attempt, endpoint } => line.connect(attempt, endpoint),
//!                 Output::Disconnect { reason, .. } => line.disconnect(reason),
//!                 Output::Send { bytes } => {
//!                     if let Some(attempt) = line.send(bytes) {
//!                         worker.handle(clock.now(), Input::Writable { attempt, writable: false })?;
//!                     }
//!                 }
//!                 Output::Run { token, .. } => {
//!                     let result = worker.payload(token).unwrap_or_default().to_vec();
//!                     worker.handle(clock.now(), Input::Started { token })?;
//!                     let finished = Input::Finished { token, outcome: Outcome::Succeeded, result: &result };
//!                     worker.handle(clock.now(), finished)?;
//!                 }
//!                 // These tasks end as they start: none is there to be cancelled, none prints or makes a checkpoint.
//!                 Output::Cancel { .. } | Output::ReadOutput { .. } => {}
//!                 // Nothing is kept for a later process.
//!                 Output::Keep { .. } | Output::Forget { .. } => {}
//!                 Output::Freeze { .. } | Output::Thaw { .. } | Output::WantCheckpoint { .. } => {}
//!                 // Nor is the key replaced.
//!                 Output::KeepKey => {}
//!                 Output::ReadCheckpoint { .. } | Output::RestorePiece { .. } | Output::Checkpointed { .. } => {}
//!                 Output::Idle { wake_at } => break wake_at,
//!             }
//!         };
//!         let time = async { clock.wait_until(wake_at).await; None };
//!         let happened = async { Some(line.next().await) }.or(time).await;
//!         worker.handle(clock.now(), match &happened {
//!             Some(LineEvent::Connected { attempt, binding }) => {
//!                 Input::Connected { attempt: *attempt, entropy: entropy()?, binding: *binding }
//!             }
//!             Some(LineEvent::Message { attempt, bytes }) => Input::Received { attempt: *attempt, bytes },
//!             Some(LineEvent::Writable { attempt }) => Input::Writable { attempt: *attempt, writable: true },
//!             Some(LineEvent::Disconnected { attempt, loss }) => Input::Disconnected { attempt: *attempt, loss: *loss },
//!             None => Input::Timeout,
//!         })?;
//!     }
//!     Ok(())
//! }
//! # use rejoin_core::{coordinator, ids::*, link::LinkConfig, wire::keys::*, wire::message::TaskSpec};
//! # use rejoin_smol::coordinator::{Notice, Server};
//! # use rejoin_smol::journal::{MemoryJournal, OutputStore};
//! # smol::block_on(async {
//! # let key = Key { id: KeyId([1; 8]), secret: Secret::new([2; 32]), name: "w".parse()?, role: Role::Worker };
//! # let config = coordinator::Config::new(ClusterId([3; 16]), 1, vec![key.clone()]);
//! # let outputs = OutputStore::new(std::env::temp_dir().into());
//! # let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
//! # let server = Server::start(loopback, config, MemoryJournal::new(outputs)).await?;
//! # let (task, spec) = (TaskId::from_text("echo"), TaskSpec { priority: 2, retries: 0 });
//! # server.handle().submit(task, spec, vec![], b"hello".to_vec()).await?;
//! # let url = format!("ws://{}", server.address());
//! # let link = LinkConfig::new(key, BootId(entropy()?), &url);
//! # let line = Line::new(vec![url.parse()?], link.handshake_time);
//! # let answered = async {
//! #     loop {
//! #         if let Notice::Ended(ended) = server.notices().recv().await? {
//! #             assert_eq!(ended.result, b"hello");
//! #             return Ok::<(), Box<dyn std::error::Error>>(());
//! #         }
//! #     }
//! # };
//! # answered.or(work(line, Config::new(link))).await
//! # }).unwrap();
//! ```

pub mod chaos;
pub mod checkpoint;
pub mod client;
pub mod clock;
pub mod command;
pub mod coordinator;
pub mod crowd;
pub mod dial;
pub mod exec;
mod greeting;
pub mod guardian;
pub mod http;
pub mod journal;
pub mod line;
pub mod packets;
mod pump;
pub mod results;
pub mod seen;
pub mod spool;
pub mod tls;
pub mod transport;
pub mod url;
mod wire;
pub mod worker;
