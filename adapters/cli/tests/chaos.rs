//! `rejoin chaos` as a process, in front of real services

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Chaos, Fleet, Process, until};
use serde_json::Value;

/// An echo service, for as long as the test lasts
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut back = stream.try_clone().expect("a stream");
                let _ = std::io::copy(&mut &stream, &mut back);
                let _ = back.shutdown(Shutdown::Write);
            });
        }
    });
    address
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rejoin"));
    command.env_remove("REJOIN_LOG").stdin(Stdio::null()).args(["chaos", "--listen", "127.0.0.1:0"]).args(words);
    command
}

/// A proxy in front of a service, with its files in a directory
fn start(dir: &Path, to: &str, words: &[&str]) -> Chaos {
    let (out, err) = (dir.join("out"), dir.join("err"));
    let mut command = command(&["--to", to, "--control", "127.0.0.1:0"]);
    command.args(words).stdout(File::create(&out).expect("a file")).stderr(File::create(&err).expect("a file"));
    Chaos::of(Process::of(command.spawn().expect("the program to start"), out, err))
}

fn refused(words: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command(words).output().expect("the program to start");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn nothing_breaks_until_it_is_told_to_and_a_summary_says_what_did() {
    let dir = tempfile::tempdir().expect("a directory");
    let chaos = start(dir.path(), &echo(), &["--seed", "7"]);
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stream = TcpStream::connect(&chaos.address).expect("a connection");
    let mut writer = stream.try_clone().expect("a stream");
    let sent = data.clone();
    let sending = std::thread::spawn(move || {
        writer.write_all(&sent).expect("an open connection");
        writer.shutdown(Shutdown::Write).expect("an open connection");
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("all of it");
    sending.join().expect("no panic");
    assert!(back == data, "{} bytes came back", back.len());
    assert_eq!(chaos.status()["effects"], 0);

    assert!(chaos.order("crash w0").starts_with("error: crash befalls a process"), "{}", chaos.order("crash w0"));
    assert!(chaos.order("help").contains("heal"));
    assert_eq!(chaos.order("flip all towards=coordinator amount=0"), "ok");
    until("a place to be free", || chaos.status()["open"] == 0);
    assert_eq!(chaos.order("flip w0 towards=coordinator amount=5"), "ok");
    let mut stream = TcpStream::connect(&chaos.address).expect("a connection");
    stream.write_all(b"abcd").expect("an open connection");
    let mut read = [0; 4];
    stream.read_exact(&mut read).expect("an echo");
    assert_eq!(&read, b"Abcd");
    assert_eq!(chaos.order("reset w0"), "ok");
    assert!(stream.read_exact(&mut read).is_err());
    chaos.process.signal("TERM");
    let ended = chaos.process.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.contains("2 connections; 3 faults came, 2 effects; seed 7"), "{}", ended.out);
}

#[test]
fn a_service_may_have_a_name_which_is_looked_up_for_each_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let port = echo().rsplit(':').next().expect("a port").to_owned();
    for (name, there) in [("localhost", true), ("no-such-host.invalid", false)] {
        let chaos = start(dir.path(), &format!("{name}:{port}"), &[]);
        for _ in 0..2 {
            let echoed = TcpStream::connect(&chaos.address).and_then(|mut stream| {
                stream.write_all(b"x")?;
                stream.read_exact(&mut [0])
            });
            assert_eq!(echoed.is_ok(), there, "{name}: {echoed:?}");
        }
        chaos.process.signal("TERM");
        assert_eq!(chaos.process.end().code, Some(0));
    }
}

#[test]
fn a_schedule_strikes_in_its_time_and_then_everything_heals() {
    let dir = tempfile::tempdir().expect("a directory");
    let schedule = dir.path().join("x.sched");
    let text = "rejoin schedule 1\nseed 3\nsafety 0.5\nset slots 2\n0 far all amount=20000\n0.1 refuse all for=100\n";
    fs::write(&schedule, text).expect("a file");
    let chaos = start(dir.path(), &echo(), &["--schedule", schedule.to_str().expect("UTF-8"), "--json"]);
    until("a refusal", || {
        let refused = TcpStream::connect(&chaos.address).and_then(|mut stream| {
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])
        });
        refused.is_err()
    });
    until("an end of that", || {
        let echoed = TcpStream::connect(&chaos.address).and_then(|mut stream| {
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])
        });
        echoed.is_ok()
    });
    assert!(chaos.process.err().contains("line 4: slots is a setting of machines"), "{}", chaos.process.err());
    chaos.process.signal("INT");
    let ended = chaos.process.end();
    let last: Value = serde_json::from_str(ended.out.lines().last().expect("a line")).expect("JSON");
    assert_eq!((ended.code, &last["type"], &last["seed"]), (Some(0), &"summary".into(), &3.into()));
    assert!(last["faults"]["refuse"]["effects"].as_u64() > Some(0), "{last}");
}

#[test]
fn what_no_proxy_can_do_is_refused_with_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let schedule = dir.path().join("x.sched");
    fs::write(&schedule, "rejoin schedule 1\n1.0 reset w0\n2.0 restart coordinator\n").expect("a file");
    let schedule = schedule.to_str().expect("UTF-8");
    let (code, err) = refused(&["--to", "127.0.0.1:1", "--schedule", schedule]);
    assert_eq!(code, Some(255));
    assert!(err.contains("x.sched: line 3: restart befalls a process, its clock or its store"), "{err}");
    let (code, err) = refused(&["--to", "127.0.0.1:1", "--schedule", "/nowhere"]);
    assert!(code == Some(254) && err.contains("/nowhere: No such file"), "{err}");
    let (code, err) = refused(&["--to", "wss://example.org:443"]);
    assert!(code == Some(255) && err.contains("no scheme, such as example.org:443"), "{err}");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, err) = refused(&["--to", "127.0.0.1:1", "--control", &address]);
    assert!(code == Some(254) && err.contains(&address), "{err}");
}

#[test]
fn faults_of_messages_are_refused_where_these_are_encrypted() {
    let dir = tempfile::tempdir().expect("a directory");
    let chaos = start(dir.path(), &echo(), &["--seed", "7"]);
    let mut stream = TcpStream::connect(&chaos.address).expect("a connection");
    // As TLS begins.
    let hello = [0x16, 3, 1, 0, 1, 1];
    stream.write_all(&hello).expect("an open connection");
    let mut read = [0; 6];
    stream.read_exact(&mut read).expect("an echo");
    let refused = chaos.order("drop w0");
    assert!(refused.starts_with("error: drop is impossible") && refused.contains("encrypted (TLS)"), "{refused}");
    until("that it is counted", || chaos.status()["faults"]["drop"]["impossible"] == 1);
    assert!(chaos.process.err().contains("drop is impossible on connection 0"), "{}", chaos.process.err());
    assert_eq!(chaos.order("flip w0 amount=0"), "ok");
    stream.write_all(&hello).expect("an open connection");
    stream.read_exact(&mut read).expect("an echo");
    assert_eq!(read, [0x17, 3, 1, 0, 1, 1]);
    chaos.process.signal("TERM");
    let ended = chaos.process.end();
    assert!(ended.out.contains("on 1 connections that was impossible"), "{}", ended.out);
}

#[test]
fn a_storm_in_front_of_a_coordinator_loses_nothing_and_does_nothing_twice() {
    let mut fleet = Fleet::start(&["--heartbeat", "100ms"]);
    let chaos = fleet.chaos(&["--profile", "storm", "--seed", "7"]);
    let address = chaos.address.clone();
    let _workers: Vec<_> = (0..3).map(|n| fleet.worker_at(&address, &format!("w{n}"), &["--slots", "4"])).collect();
    fs::create_dir(fleet.path("starts")).expect("a directory");
    let script = format!("echo x >> {}/$1; sleep 0.2; echo done $1", fleet.path("starts").display());
    let items: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    let args = ["--keep-order", "--", "sh", "-c", &script, "_", "{}", ":::"];
    let run = fleet.client_at(&address, "run", args.into_iter().chain(items.iter().map(String::as_str)));
    until("a good deal of a storm", || chaos.status()["effects"].as_u64() >= Some(40));
    assert_eq!(chaos.order("heal"), "ok");
    let ended = run.end();
    let expected: String = items.iter().map(|n| format!("done {n}\n")).collect();
    assert_eq!((ended.code, ended.out), (Some(0), expected), "{}", ended.err);
    for n in &items {
        let starts = fs::read_to_string(fleet.path("starts").join(n)).expect("it was started");
        assert_eq!(starts, "x\n", "task {n} was executed again");
    }
    chaos.process.signal("TERM");
    let ended = chaos.process.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}
