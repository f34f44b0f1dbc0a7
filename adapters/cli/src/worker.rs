//! `rejoin worker`: a worker on its own

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_signal::{Signal, Signals};
use rejoin_core::about::Tags;
use rejoin_core::ids::{KeyId, Role};
use rejoin_core::link::Reason;
use rejoin_core::wire::message::Denied;
use rejoin_core::worker::Config;
use rejoin_smol::worker::{Ended, KeyKeeper, Options, Order, Watch, run};
use smol::channel::{Sender, bounded};
use smol::future::FutureExt;
use smol::stream::StreamExt;

use crate::args::Worker;
use crate::caller::Failed;
use crate::fleet::guardian;
use crate::report::EXIT_INTERNAL;
use crate::say::complain;
use crate::{access, descriptors, keys};

/// Works until told to leave, or refused for good; returns the exit status
pub fn worker(args: &Worker, offers: Tags) -> u8 {
    match smol::block_on(work(args, offers)) {
        Ok(Ended::Left) => 0,
        Ok(ended @ Ended::LeftWaiting(_)) => {
            complain(&ended.to_string());
            0
        }
        Ok(ended @ (Ended::LeftBehind(_) | Ended::Refused(_) | Ended::Failed(_))) => {
            complain(&ended.to_string());
            EXIT_INTERNAL
        }
        Err(failed) => {
            complain(&failed.to_string());
            failed.status()
        }
    }
}

async fn work(args: &Worker, offers: Tags) -> Result<Ended, Failed> {
    let token_file = args.token_file.as_ref().filter(|_| !args.access.key.exists());
    let read = match token_file {
        Some(file) => keys::load_token(file).map(|token| (token, None)),
        None => keys::holders_key(&args.access.key),
    };
    let (key, cluster) = read.map_err(|error| Failed::Usage(error.to_string()))?;
    if key.role != Role::Worker {
        let message = format!("{}: this is a client's key; make one with --role worker", args.access.key.display());
        return Err(Failed::Usage(message));
    }
    descriptors::provide(1, args.slots)?;
    let (mut link, trust) = access::link(&args.access, key.clone())?;
    link.heartbeat = args.heartbeat;
    link.pins = args.pins.all();
    link.wire_version = args.wire_version;
    link.cluster = cluster;
    if token_file.is_some() {
        access::check_token(&args.access).map_err(Failed::Usage)?;
        link.token = true;
    }
    let mut config = Config::new(link);
    config.slots = args.slots;
    config.prefetch = args.slots;
    config.attempts_max = args.slots.saturating_mul(4).clamp(64, 512);
    config.offers = offers;
    let (spool_dir, _temporary) = spool_dir(args)?;
    let path = args.access.key.clone();
    let in_use = Arc::new(Mutex::new(key.id));
    let kept_id = in_use.clone();
    let options = Options {
        endpoints: args.access.coordinators.clone(),
        trust,
        config,
        spool_dir,
        keep_bytes_max: args.data.as_ref().map(|_| args.spool_max),
        start_log: None,
        drain_within: args.drain_timeout,
        guardian: guardian()?,
        key_keeper: Some(KeyKeeper::new(move |key, enrolled| {
            let kept = match enrolled {
                Some(cluster) => keys::enrol_key(&path, key, cluster),
                None => keys::replace_key(&path, key),
            };
            kept.map(|()| *kept_id.lock().unwrap_or_else(PoisonError::into_inner) = key.id)
                .map_err(std::io::Error::other)
        })),
    };
    tracing::info!(name = %key.name, slots = args.slots, "worker started");
    let (order, orders) = bounded(2);
    let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup])?;
    let told = async {
        obey(&mut signals, &order).await;
        smol::future::pending().await
    };
    let ended = run(options, Watch::default(), orders).or(told).await;
    if let Ended::Refused(Reason::Denied(denied)) = &ended {
        let (enrols, file) = (token_file.is_some(), &args.access.key);
        let in_use = *in_use.lock().unwrap_or_else(PoisonError::into_inner);
        what_to_do(*denied, enrols, file, in_use).into_iter().for_each(|hint| complain(&hint));
    }
    Ok(ended)
}

/// How a worker that was refused for good comes to a key that is good
fn what_to_do(denied: Denied, enrols: bool, path: &Path, in_use: KeyId) -> Option<String> {
    let file = path.display();
    if keys::load_key(path).is_ok_and(|key| key.id != in_use) {
        let why = "another process has the same key file, and was given another key: one of the two is too many";
        return Some(format!("{file} has another key by now: {why}"));
    }
    if enrols && !path.exists() {
        let why = "the join token is of no use: used already, revoked, or too old";
        return Some(format!("{why}; ask for another one (`rejoin key token`)"));
    }
    let why = if enrols { " (perhaps since another worker has used the same join token before it)" } else { "" };
    let then = "remove that file, and ask for another key (`rejoin key new`) or a join token (`rejoin key token`)";
    (denied == Denied::Revoked).then(|| format!("the key in {file} is revoked{why}: {then}"))
}

/// Signals that follow each other this closely are one: some programs signal a process, and then its group
const ONE_SIGNAL: Duration = Duration::from_millis(100);

/// The first signal is a request to drain, the second one an order to leave (TASK-8)
async fn obey(signals: &mut Signals, orders: &Sender<Order>) {
    for order in [Order::Drain, Order::Leave] {
        if signals.next().await.is_none() {
            return;
        }
        let burst = async { while signals.next().await.is_some() {} };
        burst.or(async { _ = smol::Timer::after(ONE_SIGNAL).await }).await;
        match order {
            Order::Drain => complain("draining: nothing new is taken; another signal stops everything at once"),
            Order::Leave => complain("leaving at once"),
        }
        if orders.send(order).await.is_err() {
            return;
        }
    }
}

/// Where output and checkpoints wait; a temporary directory goes with the worker
fn spool_dir(args: &Worker) -> Result<(PathBuf, Option<tempfile::TempDir>), Failed> {
    match &args.data {
        Some(path) => {
            let named = |error: std::io::Error| Failed::Usage(format!("{}: {error}", path.display()));
            std::fs::create_dir_all(path).map_err(named)?;
            // Tasks find it from whatever directory they are in.
            Ok((path.canonicalize().map_err(named)?, None))
        }
        None => {
            let dir = tempfile::Builder::new().prefix("rejoin-worker-").tempdir()?;
            Ok((dir.path().to_path_buf(), Some(dir)))
        }
    }
}
