//! TLS: who may be believed, who stands in between, and what happens where it is not spoken (AUTH-7)

use std::fs::{self, Permissions};
use std::future::ready;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rejoin_core::binding::Binding;
use rejoin_core::ids::Role;
use rejoin_core::wire::message::Outcome;
use rejoin_smol::coordinator::Port;
use rejoin_smol::dial::{DialError, dial};
use rejoin_smol::http::{Limits, serve};
use rejoin_smol::tls::{Certificate, TlsError, Trust};
use rejoin_smol::transport::{Reader, Socket, Writer};
use rejoin_smol::url::Endpoint;
use rejoin_tests::{LOOPBACK, LocalWorker, Rig, endpoint, key, link, run, shell, until};
use smol::future;

const PATIENCE: Duration = Duration::from_secs(20);

/// A certificate authority with its folder
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self::of(params)
    }

    fn of(params: CertificateParams) -> Self {
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("a file");
        Authority { issuer, dir }
    }

    /// Its own certificate, and its key
    fn own_files(&self) -> [PathBuf; 2] {
        let paths = ["ca.pem", "ca.key"].map(|name| self.dir.path().join(name));
        fs::write(&paths[1], self.issuer.key().serialize_pem()).expect("a file");
        fs::set_permissions(&paths[1], Permissions::from_mode(0o600)).expect("a file");
        paths
    }

    fn trust(&self) -> Trust {
        Trust::from_file(&self.dir.path().join("ca.pem")).expect("a certificate")
    }

    /// A certificate for a host, and its key
    fn files(&self, host: &str, adjust: impl FnOnce(&mut CertificateParams)) -> [PathBuf; 2] {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host");
        adjust(&mut params);
        let pair = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&pair, &self.issuer).expect("a certificate");
        let paths = ["certificate", "key"].map(|name| self.dir.path().join(format!("{host}.{name}")));
        fs::write(&paths[0], certificate.pem()).expect("a file");
        fs::write(&paths[1], pair.serialize_pem()).expect("a file");
        fs::set_permissions(&paths[1], Permissions::from_mode(0o600)).expect("a file");
        paths
    }

    fn certificate(&self, host: &str, adjust: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let [certificate, key] = self.files(host, adjust);
        Certificate::from_files(&certificate, &key).expect("a certificate")
    }
}

fn secure(at: SocketAddr) -> Endpoint {
    format!("wss://{at}").parse().expect("an endpoint")
}

async fn rig(certificate: Certificate, binding: Binding) -> Rig {
    let port = Port { listen: LOOPBACK, certificate: Some(certificate) };
    Rig::on(port, |config| config.binding = binding, |journal| journal).await
}

fn worker(rig: &Rig, via: Endpoint, trust: Trust, binding: Binding) -> LocalWorker {
    let mut link = link(key("w0", Role::Worker), &via);
    link.binding = binding;
    rig.worker_trusting(link, via, trust, |_| {})
}

/// What becomes of a dial that cannot succeed
async fn refused(at: SocketAddr, trust: &Trust) -> TlsError {
    match dial(&secure(at), trust, PATIENCE).await {
        Err(DialError::Tls(error)) => error,
        other => panic!("no trouble with TLS: {other:?}"),
    }
}

#[test]
fn auth_7_tasks_run_over_tls_and_the_session_is_bound_to_it() {
    run(async {
        let authority = Authority::new();
        let rig = rig(authority.certificate("127.0.0.1", |_| {}), Binding::Require).await;
        let worker = worker(&rig, secure(rig.address), authority.trust(), Binding::Require);
        worker.connected().await;
        let ended = rig.done("one", &shell("head -c 300000 /dev/zero; echo over TLS")).await;
        assert_eq!((ended.outcome, ended.streams[0].len), (Outcome::Succeeded, 300_009));
    });
}

#[test]
fn auth_7_a_certificate_that_proves_nothing_is_not_believed() {
    run(async {
        let authority = Authority::new();
        let port = |certificate| Rig::on(Port { listen: LOOPBACK, certificate }, |_| {}, |journal| journal);
        let good = port(Some(authority.certificate("127.0.0.1", |_| {}))).await;
        let stranger = refused(good.address, &Authority::new().trust()).await;
        assert!(matches!(stranger, TlsError::Untrusted) && stranger.to_string().contains(": name the file"));
        let old = |params: &mut CertificateParams| {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        };
        let expired = port(Some(authority.certificate("127.0.0.1", old))).await;
        let expired = refused(expired.address, &authority.trust()).await;
        assert!(matches!(expired, TlsError::Expired) && expired.to_string().contains(": renew it"));
        let young = |params: &mut CertificateParams| params.not_before = date_time_ymd(3001, 1, 1);
        let young = port(Some(authority.certificate("127.0.0.1", young))).await;
        assert!(matches!(refused(young.address, &authority.trust()).await, TlsError::Early));
        let other = port(Some(authority.certificate("box.example", |_| {}))).await;
        let other = refused(other.address, &authority.trust()).await;
        assert!(matches!(other, TlsError::OtherHost) && other.to_string().contains(": dial the name"));
        // As others' tools make certificates: one that is its own authority.
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a host");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = Authority::of(params);
        let [path, private] = own.own_files();
        let shows_own = port(Some(Certificate::from_files(&path, &private).expect("a certificate"))).await;
        let error = refused(shows_own.address, &own.trust()).await;
        assert!(matches!(error, TlsError::Authority) && error.to_string().contains(": show one"), "{error}");
        // A client says so, too.
        let config = rejoin_core::client::Config::new(link(key("client", Role::Client), &secure(good.address)));
        let client = rejoin_smol::client::Connection::new(vec![secure(good.address)], config).expect("a client");
        let mut client = client.trusting(Authority::new().trust());
        while client.trouble().is_none() {
            future::or(async { _ = client.next().await }, async { _ = smol::Timer::after(PATIENCE / 100).await }).await;
        }
        assert!(client.trouble().expect("trouble").contains("signed by nobody who is trusted"));
    });
}

#[test]
fn auth_7_whoever_speaks_the_wrong_language_is_told_so() {
    run(async {
        let authority = Authority::new();
        let secured = rig(authority.certificate("127.0.0.1", |_| {}), Binding::Prefer).await;
        let plain = Rig::start().await;
        let error = dial(&endpoint(secured.address), &Trust::system(), PATIENCE).await.expect_err("no TLS");
        assert!(
            matches!(error, DialError::Http { status: 400, .. }) && error.to_string().contains("wss://"),
            "{error}"
        );
        let error = refused(plain.address, &authority.trust()).await;
        assert!(matches!(error, TlsError::Plain) && error.to_string().contains("ws://"), "{error}");
        let address = secured.address;
        let answer = smol::unblock(move || {
            let mut tcp = TcpStream::connect(address).expect("a connection");
            tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
            tcp.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").expect("a request");
            let mut answer = String::new();
            tcp.read_to_string(&mut answer).expect("an answer and a clean end");
            answer
        });
        let answer = answer.await;
        let body = answer.split_once("\r\n\r\n").expect("a header").1;
        assert!(answer.starts_with("HTTP/1.1 400 ") && body.contains("this port speaks TLS only"), "{answer}");
        assert!(answer.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
    });
}

#[test]
fn auth_7_a_handshake_of_tls_has_its_time() {
    run(async {
        let certificate = Authority::new().certificate("127.0.0.1", |_| {});
        let listener = smol::net::TcpListener::bind(LOOPBACK).await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (upgraded, _links) = smol::channel::unbounded();
        let limits = Limits { tls_timeout: Duration::from_millis(50), connections_max: 2, ..Limits::default() };
        let server = smol::spawn(serve(listener, limits, Some(certificate), |_| ready(Ok(((), None))), upgraded));
        let silent = smol::unblock(move || {
            // The last one is beyond the limit; whichever it is, all of them end.
            for said in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03"] {
                let mut tcp = TcpStream::connect(address).expect("a connection");
                tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
                tcp.write_all(said).expect("a word");
                let mut rest = Vec::new();
                assert!(tcp.read_to_end(&mut rest).is_ok() || !said.is_empty(), "closed by the server");
            }
        });
        silent.await;
        server.cancel().await;
    });
}

#[test]
fn auth_7_another_certificate_is_shown_without_a_session_being_dropped() {
    run(async {
        let (old, new) = (Authority::new(), Authority::new());
        let certificate = old.certificate("127.0.0.1", |_| {});
        let rig = rig(certificate.clone(), Binding::Require).await;
        let worker = worker(&rig, secure(rig.address), old.trust(), Binding::Require);
        worker.connected().await;
        let [path, key] = new.files("127.0.0.1", |_| {});
        let [_, other] = old.files("box.example", |_| {});
        assert!(matches!(certificate.replace(&path, &other), Err(TlsError::Apart(..))));
        assert!(dial(&secure(rig.address), &old.trust(), PATIENCE).await.is_ok(), "nothing has changed");
        certificate.replace(&path, &key).expect("a certificate");
        assert!(dial(&secure(rig.address), &new.trust(), PATIENCE).await.is_ok());
        assert!(matches!(refused(rig.address, &old.trust()).await, TlsError::Untrusted));
        assert_eq!(rig.done("two", &shell("true")).await.outcome, Outcome::Succeeded);
        assert_eq!(worker.glance().stats.reconnections, 0);
    });
}

/// Ends TLS in between, with a certificate that is believed, and passes everything on in both directions
async fn stand_between(authority: &Authority, to: Endpoint) -> (SocketAddr, smol::Task<()>) {
    let certificate = authority.certificate("127.0.0.1", |_| {});
    let listener = smol::net::TcpListener::bind(LOOPBACK).await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let (upgraded, links) = smol::channel::unbounded();
    let trust = authority.trust();
    let standing = smol::spawn(async move {
        let serving = async {
            _ = serve(listener, Limits::default(), Some(certificate), |_| ready(Ok(((), None))), upgraded).await
        };
        let relaying = async {
            while let Ok(link) = links.recv().await {
                let Some(near) = link.socket else { continue };
                let Ok(far) = dial(&to, &trust, PATIENCE).await else { continue };
                relay(near, far).await;
            }
        };
        future::or(serving, relaying).await;
    });
    (address, standing)
}

async fn relay(near: Socket, far: Socket) {
    async fn pass(mut from: Reader, mut to: Writer) {
        while let Ok(message) = from.next().await {
            if to.send(&message).await.is_err() || to.flush().await.is_err() {
                break;
            }
        }
    }
    let ((near_reader, near_writer), (far_reader, far_writer)) = (near.split(), far.split());
    future::or(pass(near_reader, far_writer), pass(far_reader, near_writer)).await;
}

#[test]
fn auth_7_a_man_in_the_middle_with_another_certificate_is_found_by_the_binding() {
    run(async {
        let authority = Authority::new();
        let rig = rig(authority.certificate("127.0.0.1", |_| {}), Binding::Prefer).await;
        let (between, _standing) = stand_between(&authority, secure(rig.address)).await;
        let fooled = worker(&rig, secure(between), authority.trust(), Binding::Off);
        fooled.connected().await;
        drop(fooled);
        rig.until_connected("w0", false).await;
        let opened = rig.overview().await.stats.opened;
        let careful = worker(&rig, secure(between), authority.trust(), Binding::Prefer);
        until(async || careful.glance().slow).await;
        assert_eq!((careful.glance().stats.opened, rig.overview().await.stats.opened), (0, opened));
    });
}

#[test]
fn auth_7_require_refuses_a_peer_without_a_binding_on_either_side() {
    run(async {
        let authority = Authority::new();
        let strict = rig(authority.certificate("127.0.0.1", |_| {}), Binding::Require).await;
        let lax = worker(&strict, secure(strict.address), authority.trust(), Binding::Off);
        until(async || lax.glance().slow).await;
        assert_eq!(strict.overview().await.stats.opened, 0);
        let lax = Rig::start().await;
        let strict = worker(&lax, endpoint(lax.address), Trust::system(), Binding::Require);
        until(async || strict.glance().slow).await;
        let prefers = worker(&lax, endpoint(lax.address), Trust::system(), Binding::Prefer);
        prefers.connected().await;
    });
}

#[test]
fn files_that_cannot_be_used_are_told_apart() {
    let authority = Authority::new();
    let [certificate, key] = authority.files("box.example", |_| {});
    let told = |certificate: &Path, key: &Path| match Certificate::from_files(certificate, key) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it is good"),
    };
    assert!(told(&authority.dir.path().join("none"), &key).contains("No such file"));
    assert!(told(&key, &key).contains("no certificate is in it"));
    assert!(told(&certificate, &certificate).contains("chmod o="));
    fs::set_permissions(&certificate, Permissions::from_mode(0o600)).expect("a file");
    assert!(told(&certificate, &certificate).contains("no private key is in it"));
    fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("a file");
    assert!(told(&certificate, &key).contains("others may read"));
    assert!(Trust::from_file(&key).is_err());
    let long = authority.dir.path().join("long");
    fs::File::create(&long).and_then(|file| file.set_len((4 << 20) + 1)).expect("a file");
    assert!(told(&long, &key).contains("more than 4 MiB"));
    // One that is signed by itself is its own authority.
    assert!(Trust::from_file(&certificate).is_ok());
}
