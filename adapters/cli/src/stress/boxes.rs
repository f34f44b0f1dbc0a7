//! A worker behind a packet box: true loss, latency and bandwidth beneath the system's own TCP
//!
//! The worker runs in `rejoin netbox`, in a network of its own. On the other side of the box a relay takes its connections to a Unix socket,
//! which is outside; from there they go on through the worker's cable, so that they can be cut like any other.
//!
//! ```text
//! worker – packets, some of which are lost – relay – Unix socket – cable – coordinator
//! ```

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use super::scenario::Trouble;

/// Where the relay listens, on the coordinator's side of the box
const LISTEN: &str = "192.0.2.1:7878";
const PORT: &str = "7878";
/// Bytes that are taken along at a time
const BUFFER_BYTES: usize = 16 * 1024;

/// Why there can be no box on this machine, if there can be none
pub(super) fn unavailable(program: &Path) -> io::Result<Option<String>> {
    let tried = Command::new(program).args(["netbox", "--", "true"]).stdin(Stdio::null()).output()?;
    if tried.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&tried.stderr);
    Ok(Some(said.lines().last().unwrap_or("it does not say why").to_owned()))
}

/// A command that runs inside of a box with these conditions, and is to dial what is returned beside it
pub(super) fn around(
    mut netbox: Command,
    program: &Path,
    name: &str,
    conditions: &[String],
    seed: u64,
) -> Result<(Command, String), Trouble> {
    let program = program.to_str().ok_or_else(|| Trouble::new("the path of this program is no text"))?;
    let quoted = program.replace('\'', "'\\''");
    netbox.args(["--json", "--report", &report(name), "--seed", &seed.to_string()]).args(conditions);
    netbox.args(["--serve", &format!("exec '{quoted}' stress-relay {LISTEN} {}", socket(name))]);
    netbox.args(["--wait-for", PORT, "--", program]);
    Ok((netbox, format!("ws://{LISTEN}")))
}

fn report(name: &str) -> String {
    format!("{name}.box")
}

fn socket(name: &str) -> String {
    format!("{name}.sock")
}

/// Takes whatever comes out of a box on to a worker's cable, for as long as this process lives
pub(super) fn bridge(dir: &Path, name: &str, cable: SocketAddr) -> io::Result<()> {
    let listener = UnixListener::bind(dir.join(socket(name)))?;
    std::thread::spawn(move || {
        for inner in listener.incoming().flatten() {
            std::thread::spawn(move || {
                if let Ok(outer) = TcpStream::connect(cable) {
                    join(&inner, &outer);
                }
            });
        }
    });
    Ok(())
}

/// Packets that were lost in a box, and all of them, once it has ended
pub(super) fn lost(dir: &Path, name: &str) -> io::Result<(u64, u64)> {
    let text = fs::read_to_string(dir.join(report(name)))?;
    let summary: serde_json::Value =
        text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let sum = |what: &str| {
        let ways = ["towards_peer", "towards_coordinator"];
        ways.iter().filter_map(|way| summary[way][what].as_u64()).sum()
    };
    Ok((sum("lost"), sum("packets")))
}

/// Takes connections at an address to a Unix socket; does so until it is ended
pub(super) fn relay(listen: SocketAddr, socket: &Path) -> io::Result<()> {
    for inner in TcpListener::bind(listen)?.incoming().flatten() {
        let outer = UnixStream::connect(socket)?;
        // Whoever comes this way has waited for the box already.
        inner.set_nodelay(true)?;
        std::thread::spawn(move || join(&outer, &inner));
    }
    Ok(())
}

/// Carries bytes both ways until both are over
fn join(unix: &UnixStream, tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            carry(unix, tcp);
            let _ = tcp.shutdown(Shutdown::Write);
        });
        carry(tcp, unix);
        // Whatever has ended it: nothing comes from there any more.
        let _ = unix.shutdown(Shutdown::Both);
    });
}

fn carry(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_through_relay_and_bridge_and_an_end_arrives() {
        let dir = tempfile::tempdir().expect("a directory");
        let service = TcpListener::bind("127.0.0.1:0").expect("a port");
        bridge(dir.path(), "w0", service.local_addr().expect("an address")).expect("a socket");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let socket = dir.path().join("w0.sock");
        std::thread::spawn(move || relay(free, &socket));
        let mut client = loop {
            if let Ok(client) = TcpStream::connect(free) {
                break client;
            }
        };
        client.write_all(b"there").expect("an open connection");
        let (mut served, _) = service.accept().expect("a connection");
        let mut bytes = [0; 5];
        served.read_exact(&mut bytes).expect("what was sent");
        served.write_all(b"back!").expect("an open connection");
        client.read_exact(&mut bytes).expect("what was sent");
        assert_eq!(&bytes, b"back!");
        drop(served);
        assert_eq!(client.read(&mut bytes).expect("an end"), 0);
    }
}
