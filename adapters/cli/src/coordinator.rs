//! `rejoin coordinator`: a coordinator on its own, with a journal that outlives it

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_signal::{Signal, Signals};
use rejoin_core::Rejected;
use rejoin_core::binding::Binding;
use rejoin_core::coordinator::{Config, Event};
use rejoin_core::ids::{ClusterId, KeyId, TaskId};
use rejoin_smol::clock::entropy;
use rejoin_smol::coordinator::{Handle, Notice, Port, Server};
use rejoin_smol::journal::DurableJournal;
use rejoin_smol::tls::Certificate;
use smol::channel::bounded;
use smol::future::FutureExt;
use smol::stream::StreamExt;

use crate::args::{Coordinator, TOKEN_VALID_MAX};
use crate::caller::Failed;
use crate::certificate::CertificateWatch;
use crate::descriptors;
use crate::keys::{self, Changes, KeysError, KeysWatch, Standing};
use crate::say::{complain, print};

/// Serves until told to stop, or until the journal fails; returns the exit status
pub fn coordinator(args: &Coordinator) -> u8 {
    match smol::block_on(serve(args)) {
        Ok(()) => 0,
        Err(failed) => {
            complain(&failed.to_string());
            failed.status()
        }
    }
}

async fn serve(args: &Coordinator) -> Result<(), Failed> {
    // What changes behind this is found by its first look.
    let mut watch = KeysWatch::new(&args.keys).map_err(|error| Failed::Usage(error.to_string()))?;
    let known = keys::load_keys(&args.keys).map_err(|error| Failed::Usage(error.to_string()))?;
    let cluster = args.cluster.map_or_else(|| entropy().map(ClusterId), Ok)?;
    let mut config = Config::new(cluster, 1, known.iter().map(|(key, _)| key.clone()).collect());
    config.restored = if args.restored { Some(milliseconds()?) } else { None };
    let ids = |those| known.iter().filter(move |(_, standing)| *standing == those).map(|(key, _)| key.id).collect();
    config.revoked = ids(Standing::Revoked);
    config.next = ids(Standing::Next);
    config.tokens = known.iter().filter_map(|(key, standing)| Some((key.id, valid(*standing)?))).collect();
    config.heartbeat = args.heartbeat;
    config.lost_after = args.lost_after;
    config.flapping_within = args.flapping_within;
    config.lease_ttl = Some(args.lease);
    config.lease_grace = args.lease_grace;
    config.pins = args.pins.all();
    config.wire_version = args.wire_version;
    config.recovery_window = args.recovery_window;
    config.forget_after = Some(args.keep_ended);
    config.session_lifetime = args.session_lifetime;
    config.binding = args.shown.binding.unwrap_or_default();
    config.audiences = args.public_urls.iter().map(ToString::to_string).collect();
    let shown = shown(args)?;
    descriptors::raise()?;
    let journal = DurableJournal::open(&args.data).map_err(|error| Failed::Internal(error.to_string()))?;
    let port = Port { listen: args.listen, certificate: shown.as_ref().map(|(certificate, _)| certificate.clone()) };
    let mut server = Server::start(port, config, journal).await.map_err(|error| Failed::Internal(error.to_string()))?;
    let handle = server.handle();
    let recovered = server.recovered();
    if let Some(wanted) = args.cluster.filter(|wanted| *wanted != recovered.cluster) {
        let message = format!(
            "{}: belongs to the fleet {}, and not to {wanted}: leave out --cluster, or give another --data",
            args.data.display(),
            recovered.cluster
        );
        return Err(Failed::Usage(message));
    }
    if args.restored {
        tracing::warn!("started as restored: what was accepted after the journal's last record is not known here");
    }
    tracing::info!(
        epoch = recovered.epoch,
        records = recovered.records,
        open = recovered.open,
        ended = recovered.ended,
        took = ?recovered.took,
        "recovered"
    );
    let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup])?;
    if !print(&format!("listening on {}\n", server.address())) {
        return Err(Failed::Internal("standard output is closed".into()));
    }
    let notices = server.notices();
    let (stranger, strangers) = bounded(1);
    let told = async {
        while let Ok(notice) = notices.recv().await {
            log(&notice);
            keep(&notice, &args.keys, &handle).await;
            if matches!(notice, Notice::Event(Event::UnknownKey { .. })) {
                // One that waits already is enough.
                let _ = stranger.try_send(());
            }
        }
    };
    let reloading = async {
        loop {
            // A key that was just made is looked for when its holder comes, who may be faster than any pause.
            let unknown = async { if strangers.recv().await.is_ok() { None } else { smol::future::pending().await } };
            let changed = async { Some(watch.changed().await) }.or(unknown).await;
            if let Some(changes) = changed.or_else(|| watch.poll()) {
                reload(changes, &handle).await;
            }
        }
    };
    let renewing = async {
        let Some((certificate, paths)) = shown else { return smol::future::pending().await };
        let mut watch = CertificateWatch::new(certificate, paths);
        loop {
            match watch.changed().await {
                Ok(()) => tracing::info!("another certificate is shown from now on"),
                Err(error) => tracing::warn!(%error, "the new certificate cannot be used; the one before stays"),
            }
        }
    };
    let stopped = async {
        signals.next().await;
        tracing::info!(back_in = ?args.back_in, "stopping: workers keep what they have, and come back");
        handle.go_away(args.back_in).await;
        smol::future::pending::<()>().await;
    };
    let side = async {
        reloading.or(renewing).or(told).or(stopped).await;
        smol::future::pending::<io::Result<()>>().await
    };
    server.ended().or(side).await.map_err(|error| Failed::Internal(error.to_string()))
}

/// The time in milliseconds since 1970, by which epochs and tokens are beyond all that was seen before (JOURN-2)
fn milliseconds() -> Result<u64, Failed> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
    let ms = since.and_then(|since| u64::try_from(since.as_millis()).ok());
    ms.ok_or_else(|| Failed::Usage("this machine's clock is before 1970: set it, since --restored goes by it".into()))
}

/// How long a join token is good from now on (AUTH-6)
fn valid(standing: Standing) -> Option<Duration> {
    match standing {
        Standing::Token(until) => Some(left_until(until)),
        Standing::Good | Standing::Next | Standing::Revoked => None,
    }
}

fn left_until(until: u64) -> Duration {
    // A time beyond all bounds is as good as any long one.
    Duration::from_secs(until.saturating_sub(keys::now_s())).min(TOKEN_VALID_MAX)
}

/// The certificate to show, if there is to be TLS, and the files it comes from (AUTH-7)
fn shown(args: &Coordinator) -> Result<Option<(Certificate, [PathBuf; 2])>, Failed> {
    let (Some(certificate), Some(key)) = (&args.shown.tls_cert, &args.shown.tls_key) else {
        if args.shown.binding == Some(Binding::Require) {
            return Err(Failed::Usage("--binding require needs TLS: give --tls-cert and --tls-key".into()));
        }
        if !args.listen.ip().to_canonical().is_loopback() && !args.shown.insecure_ws {
            return Err(Failed::Usage(format!(
                "{}: others on the way could read all tasks and results: give --tls-cert and --tls-key (`rejoin cert` \
                 makes them), or --insecure-ws if you trust the network, or a proxy in front ends TLS",
                args.listen
            )));
        }
        return Ok(None);
    };
    let read = Certificate::from_files(certificate, key).map_err(|error| Failed::Usage(error.to_string()))?;
    Ok(Some((read, [certificate.clone(), key.clone()])))
}

/// Takes over what has changed in the keys file (AUTH-6)
async fn reload(changes: Result<Changes, KeysError>, handle: &Handle) {
    let changes = match changes {
        Ok(changes) => changes,
        Err(error) => {
            return tracing::warn!(%error, "the keys file cannot be used; the keys known before stay in force");
        }
    };
    for key in changes.revoked.into_iter().chain(changes.vanished) {
        revoke(handle, key).await;
    }
    for key in changes.barred {
        let id = key.id;
        // One that came about by rotation is known already, and must not be good for a moment.
        if handle.revoke_key(id).await == Err(Rejected::Unknown) {
            let _ = handle.add_key(key).await;
            revoke(handle, id).await;
        }
    }
    for key in changes.added {
        let name = key.name.clone();
        match handle.add_key(key).await {
            Ok(()) => tracing::info!(%name, "key added"),
            Err(error) => tracing::warn!(%name, %error, "key not added"),
        }
    }
    for (token, until) in changes.tokens {
        let name = token.name.clone();
        match handle.add_token(token, left_until(until)).await {
            Ok(()) => tracing::info!(%name, "join token added"),
            Err(error) => tracing::warn!(%name, %error, "join token not added"),
        }
    }
}

/// Writes down what becomes of keys that are replaced while their holders are connected (AUTH-6)
async fn keep(notice: &Notice, path: &Path, handle: &Handle) {
    let path = path.to_owned();
    match notice {
        Notice::KeepKey { key, after } => {
            let (key, after, name, id) = (key.clone(), *after, key.name.clone(), key.id);
            let kept = smol::unblock(move || keys::keep_next(&path, &key, after)).await;
            match &kept {
                Ok(true) => tracing::info!(%name, key = %id, "another key is kept, and its holder is told"),
                Ok(false) => tracing::warn!(%name, "its key was revoked meanwhile: it gets no other one"),
                Err(error) => tracing::error!(%name, %error, "another key cannot be kept: the one before stays in use"),
            }
            let _ = handle.key_kept(id, kept.unwrap_or(false)).await;
        }
        Notice::Event(Event::KeyUsed { peer, key }) => {
            let (name, id) = (peer.clone(), *key);
            if let Err(error) = smol::unblock(move || keys::key_used(&path, &name, id)).await {
                tracing::error!(%peer, %error, "cannot keep that the key before is retired: a restart would let it in");
            }
        }
        Notice::Event(Event::KeyUntold { key }) => {
            let id = *key;
            if let Err(error) = smol::unblock(move || keys::drop_next(&path, id)).await {
                tracing::warn!(key = %id, %error, "a key that nobody was told of stays in the keys file");
            }
        }
        Notice::Event(_) | Notice::Ended(_) => {}
    }
}

async fn revoke(handle: &Handle, key: KeyId) {
    match handle.revoke_key(key).await {
        Ok(()) => tracing::info!(%key, "key revoked"),
        // Retired by another one, which is why it is marked.
        Err(Rejected::Unknown) => tracing::debug!(%key, "a key that nobody knows any more is revoked"),
        Err(error) => tracing::warn!(%key, %error, "key not revoked"),
    }
}

fn log(notice: &Notice) {
    match notice {
        // That is told when it is done.
        Notice::KeepKey { .. } => {}
        Notice::Ended(ended) => {
            let (task, attempt) = (ended.task, ended.attempt);
            tracing::info!(%task, attempt, outcome = ?ended.outcome, "task ended");
        }
        Notice::Event(event) => match event {
            Event::Connected { peer, resumed } => tracing::info!(%peer, resumed, "connected"),
            Event::Disconnected { peer, reason } => match reason {
                Some(reason) => tracing::info!(%peer, %reason, "disconnected"),
                None => tracing::info!(%peer, "disconnected"),
            },
            Event::Lost { peer } => tracing::warn!(%peer, "lost: its tasks go to others"),
            Event::Drifted { peer, lost, discarded } => {
                tracing::warn!(%peer, lost, discarded, "did not hold what it should: mended, and something is wrong there or here");
            }
            Event::Unknown { peer, attempts, tasks } => {
                let tasks: Vec<String> = tasks.iter().map(TaskId::to_string).collect();
                tracing::warn!(
                    %peer, attempts, tasks = tasks.join(" "),
                    "held attempts that this journal knows nothing of, and was told to forget them: the journal is older than that; \
                     submit those tasks again"
                );
            }
            Event::Outdated { peer, epoch, seen } => tracing::error!(
                %peer,
                "this journal is older than what workers have seen (epoch {epoch}, and {seen} was seen): work that was accepted in \
                 between is not in it; stop, and either put the right journal back or start with --restored. Unproven: it is what \
                 somebody says who claims to be {peer}, whose own log says it for sure"
            ),
            Event::KeyUsed { peer, key } => {
                tracing::info!(%peer, %key, "its new key is used: those before are retired")
            }
            Event::KeyUntold { key } => tracing::debug!(%key, "its holder was gone before it was told of its new key"),
            Event::UnknownKey { key } => tracing::debug!(%key, "somebody came with a key that is not known"),
            Event::Accepted { task } => tracing::debug!(%task, "task accepted"),
            Event::Running { task, token } => tracing::debug!(%task, %token, "task runs"),
            Event::Again { task } => tracing::info!(%task, "attempt failed or lost; another follows"),
            Event::Ended { .. } => {}
            Event::Stopped => tracing::error!("the journal failed: nothing more is accepted"),
        },
    }
}
