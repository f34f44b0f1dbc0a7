//! `rejoin key` as its users run it: processes, their output, what they leave behind

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn rejoin(dir: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rejoin"));
    command.current_dir(dir).args(words.split(' ')).stdin(Stdio::null());
    command
}

/// Runs the program in that folder: its exit status, what it wrote to both streams
fn run(dir: &Path, words: &str) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = rejoin(dir, words).output().expect("the program to run");
    let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    (status.code(), out, err)
}

fn secret_of(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a key file");
    text.trim_end().rsplit(' ').next().expect("a secret").to_owned()
}

#[test]
fn a_key_is_made_used_up_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (code, out, err) = run(dir, "key new lab-3 --out lab-3.key --keys all");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, "made lab-3.key, the key of worker lab-3; next: rejoin worker --coordinator URL --key lab-3.key\n");
    let secret = secret_of(&dir.join("lab-3.key"));
    assert!(secret.len() == 64 && !out.contains(&secret));
    for file in ["lab-3.key", "all"] {
        assert_eq!(fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    for (words, part) in [
        ("key new lab-3 --out other --keys all", "rejoin key revoke lab-3 --keys all"),
        ("key new lab-3 --role client --out other --keys all", "a name has one role"),
        ("key new lab-4 --out lab-3.key --keys all", "no key is ever overwritten"),
        ("key revoke nobody --keys all", "nobody has no key in all"),
    ] {
        let (code, out, err) = run(dir, words);
        assert!(code == Some(255) && out.is_empty() && err.contains(part), "{err}");
    }
    assert_eq!(run(dir, "key revoke lab-3 --keys all").0, Some(0));
    assert_eq!(run(dir, "key revoke lab-3 --keys all").0, Some(0), "once more is no error");
    assert_eq!(run(dir, "key new lab-3 --out other --keys all").0, Some(0));
    let all = fs::read_to_string(dir.join("all")).unwrap();
    let keys: Vec<&str> = all.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(keys.len() == 2 && keys[0].ends_with(&format!("{secret} revoked")), "the old key is kept");
    assert!(keys[1].ends_with(&secret_of(&dir.join("other"))));
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("all"), "").unwrap();
    fs::set_permissions(dir.path().join("all"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, err) = run(dir.path(), "key new a --out a.key --keys all");
    assert!(code == Some(254) && err.contains("run `chmod 600 all`"), "{err}");
    assert!(!dir.path().join("a.key").exists());
}

#[test]
fn processes_that_make_keys_at_the_same_time_lose_none() {
    let dir = tempfile::tempdir().unwrap();
    let makers: Vec<_> = (0..12)
        .map(|number| {
            let words = format!("key new w{number} --out {number} --keys all");
            rejoin(dir.path(), &words).stdout(Stdio::null()).spawn().expect("the program to start")
        })
        .collect();
    for mut maker in makers {
        assert!(maker.wait().expect("an exit status").success());
    }
    let all = fs::read_to_string(dir.path().join("all")).unwrap();
    for number in 0..12 {
        assert!(all.contains(&secret_of(&dir.path().join(number.to_string()))), "the key of w{number} is lost");
    }
}

#[test]
fn makers_that_are_killed_leave_no_key_that_no_coordinator_knows() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..60 {
        let words = format!("key new w{number} --out {number} --keys all");
        let mut maker = rejoin(dir.path(), &words).stdout(Stdio::null()).spawn().expect("the program to start");
        // Sooner or later within its work, or after it: whenever it is, the same must hold.
        std::thread::sleep(std::time::Duration::from_micros(number * 100));
        let _ = maker.kill();
        maker.wait().expect("an exit status");
        let all = fs::read_to_string(dir.path().join("all")).unwrap_or_default();
        let holders = fs::read_to_string(dir.path().join(number.to_string())).unwrap_or_default();
        for key in holders.lines().filter(|line| !line.starts_with('#')) {
            assert!(all.lines().any(|line| line == key), "a key that nobody knows: w{number}");
        }
    }
    // And whatever happened, the coordinator's file is whole.
    assert_eq!(run(dir.path(), "key new last --out last --keys all").0, Some(0));
}

#[test]
fn a_log_level_that_is_none_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let output = rejoin(dir.path(), "key revoke a --keys all").env("REJOIN_LOG", "loud").output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8(output.stderr).unwrap().contains("set it to error, warn, info, debug or trace"));
}
