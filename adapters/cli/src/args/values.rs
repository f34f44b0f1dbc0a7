//! What the values of options look like

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rejoin_core::about::{Tag, Tags};
use rejoin_core::ids::{ClusterId, TaskId};
use rejoin_core::limits::{HEARTBEAT_MAX, HEARTBEAT_MIN, TITLE_BYTES_MAX};
use rejoin_smol::url::DEFAULT_PORT;

pub(super) const DURATION_HINT: &str =
    "expected a duration such as 500ms, 30s, 5m or 1h30m (a plain number means seconds)";

/// Longest duration in milliseconds
const DURATION_MAX: u64 = 365 * 86_400_000;

/// Units in milliseconds, in the order in which they may follow each other
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A time span
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, rest) = number(text).ok_or(DURATION_HINT)?;
    let millis = if rest.is_empty() { number.checked_mul(1_000) } else { with_units(text)? };
    match millis {
        Some(0) => Err("it must be longer than zero".to_owned()),
        Some(millis) if millis <= DURATION_MAX => Ok(Duration::from_millis(millis)),
        _ => Err("it is at most 365d".to_owned()),
    }
}

/// Milliseconds of a text such as `1h30m`, none if they are beyond all bounds
fn with_units(mut text: &str) -> Result<Option<u64>, String> {
    let mut total = Some(0_u64);
    let mut units = DURATION_UNITS.iter();
    while !text.is_empty() {
        let (count, rest) = number(text).ok_or(DURATION_HINT)?;
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(end);
        // `find` goes on where it stopped, so that a unit comes once and in order.
        let (_, millis) = units.find(|(name, _)| *name == unit).ok_or(DURATION_HINT)?;
        total = total.and_then(|total| total.checked_add(count.checked_mul(*millis)?));
        text = rest;
    }
    Ok(total)
}

const BYTES_HINT: &str = "expected a number of bytes such as 1000, 10k or 64MiB (k, M, G, T or Ki, Mi, Gi, Ti)";

/// Most bytes of output that can be allowed
const BYTES_MAX: u64 = 1 << 40;

/// A number of bytes
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = number(text).ok_or(BYTES_HINT)?;
    let unit = unit.to_ascii_lowercase();
    let factor = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        _ => return Err(BYTES_HINT.to_owned()),
    };
    match number.checked_mul(factor) {
        Some(0) => Err("at least 1 byte must be allowed".to_owned()),
        Some(bytes) if bytes <= BYTES_MAX => Ok(bytes),
        _ => Err("at most 1TiB can be allowed".to_owned()),
    }
}

/// The number a text starts with, as large as can be if it is larger, and the rest
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (!digits.is_empty()).then(|| (digits.parse().unwrap_or(u64::MAX), rest))
}

/// A period of heartbeats (LIVE-1)
pub(super) fn heartbeat(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        period if (HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&period) => Ok(period),
        _ => Err(format!("a heartbeat comes every {HEARTBEAT_MIN:?} to {HEARTBEAT_MAX:?}")),
    }
}

const ADDRESS_HINT: &str = "expected an IP address with a port, such as 127.0.0.1:7878 or [::1]:7878 \
    (0.0.0.0 or [::] listens everywhere)";

/// An address to listen on; the port may be left out
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match (text.parse(), bare.parse::<IpAddr>()) {
        (Ok(address), _) => Ok(address),
        (Err(_), Ok(ip)) => Ok((ip, DEFAULT_PORT).into()),
        (Err(_), Err(_)) => Err(ADDRESS_HINT.to_owned()),
    }
}

/// An address that nobody else reaches
pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let found = address(text)?;
    if found.ip().to_canonical().is_loopback() {
        return Ok(found);
    }
    Err("orders are taken from this machine alone, since anybody could give them: use 127.0.0.1 or [::1]".to_owned())
}

const TASK_HINT: &str = "expected a task id of 32 hexadecimal digits, or id: and the text given to `submit --id`";

/// A task by its id, or by the text that its id was made of
pub(super) fn task(text: &str) -> Result<TaskId, String> {
    if let Some(text) = text.strip_prefix("id:") {
        return id_text(text);
    }
    id(text).map(TaskId).ok_or_else(|| TASK_HINT.to_owned())
}

/// The id of a fleet, as `rejoin status` shows it
pub(super) fn cluster(text: &str) -> Result<ClusterId, String> {
    id(text)
        .map(ClusterId)
        .ok_or_else(|| "expected an id of 32 hexadecimal digits, as `rejoin status` shows it".to_owned())
}

fn id(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in id.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(id)
}

/// The text that a task's id is made of
pub(super) fn id_text(text: &str) -> Result<TaskId, String> {
    if text.is_empty() {
        return Err("the text must not be empty".to_owned());
    }
    Ok(TaskId::from_text(text))
}

/// What people call a task
pub(super) fn title(text: &str) -> Result<String, String> {
    if text.len() > TITLE_BYTES_MAX {
        return Err(format!("a name has at most {TITLE_BYTES_MAX} bytes"));
    }
    // It is shown in terminals, in the middle of a line.
    if text.chars().any(char::is_control) {
        return Err("a name has no control characters in it".to_owned());
    }
    Ok(text.to_owned())
}

/// One label, `K=V`
pub(super) fn label(text: &str) -> Result<(String, Tag), String> {
    let (name, value) = text.split_once('=').ok_or("expected a name and a text such as os=linux")?;
    legal(name, Tag::Label(value.to_owned()))
}

/// One amount, `NAME=AMOUNT`
pub(super) fn amount(text: &str) -> Result<(String, Tag), String> {
    let hint = || format!("expected a name and a whole number from 1 to {} such as gpu=2", u32::MAX);
    let (name, amount) = text.split_once('=').ok_or_else(hint)?;
    let digits = amount.bytes().all(|byte| byte.is_ascii_digit());
    match amount.parse() {
        Ok(amount) if digits && amount > 0 => legal(name, Tag::Amount(amount)),
        _ => Err(hint()),
    }
}

/// Refuses what no task or worker could carry, here where it is known which option it came from (TASK-9)
fn legal(name: &str, tag: Tag) -> Result<(String, Tag), String> {
    Tags::default().insert(name, tag.clone()).map_err(|bad| bad.to_string())?;
    Ok((name.to_owned(), tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("1", 1_000),
            ("0030", 30_000),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1d1h1m1s1ms", 90_061_001),
            ("0h1s", 1_000),
            ("90m", 5_400_000),
            ("365d", DURATION_MAX),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "+1", "1.5", "1.5s", "1h30", "1 s", "30m1h", "1s1s", "1y", "1S", "²s"] {
            assert_eq!(duration(text), Err(DURATION_HINT.to_owned()), "{text}");
        }
        assert!(duration("0").unwrap_err().contains("longer than zero"));
        assert!(duration("0h0ms").unwrap_err().contains("longer than zero"));
        for text in ["366d", "99999999999999999999", "18446744073709551615d"] {
            assert!(duration(text).unwrap_err().contains("at most 365d"), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("1", 1),
            ("1000", 1_000),
            ("10k", 10_000),
            ("10K", 10_000),
            ("10kB", 10_000),
            ("10KiB", 10_240),
            ("10Ki", 10_240),
            ("7B", 7),
            ("64MiB", 64 << 20),
            ("2M", 2_000_000),
            ("1g", 1_000_000_000),
            ("3gib", 3 << 30),
            ("1T", 1_000_000_000_000),
            ("1TiB", BYTES_MAX),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "k", "-1", "1.5M", "1 k", "1kk", "1ib", "1bb", "1P"] {
            assert_eq!(bytes(text), Err(BYTES_HINT.to_owned()), "{text}");
        }
        assert!(bytes("0").unwrap_err().contains("at least 1 byte"));
        for text in ["2TiB", "1099511627777", "99999999999999999999", "18446744073709551615Ti"] {
            assert!(bytes(text).unwrap_err().contains("at most 1TiB"), "{text}");
        }
    }

    #[test]
    fn heartbeats() {
        assert_eq!(heartbeat("50ms"), Ok(HEARTBEAT_MIN));
        assert_eq!(heartbeat("40s"), Ok(HEARTBEAT_MAX));
        for text in ["49ms", "41s"] {
            assert_eq!(heartbeat(text), Err("a heartbeat comes every 50ms to 40s".to_owned()), "{text}");
        }
        assert_eq!(heartbeat("often"), Err(DURATION_HINT.to_owned()));
    }

    #[test]
    fn addresses() {
        for (text, meant) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0", "0.0.0.0:7878"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:7", "[::1]:7"),
            ("[::]", "[::]:7878"),
            ("::1", "[::1]:7878"),
        ] {
            assert_eq!(address(text).map(|address| address.to_string()), Ok(meant.to_owned()), "{text}");
        }
        for text in ["", "localhost:80", ":80", "127.0.0.1:", "127.0.0.1:65536", "ws://127.0.0.1:80", "80", "[::1"] {
            assert_eq!(address(text), Err(ADDRESS_HINT.to_owned()), "{text}");
        }
    }

    #[test]
    fn tasks() {
        let id = TaskId::from_text("nightly");
        assert_eq!(task("id:nightly"), Ok(id));
        assert_eq!(task(&id.to_string()), Ok(id));
        assert_eq!(task(&id.to_string().to_uppercase()), Ok(id));
        assert_eq!(task("id:id:x"), Ok(TaskId::from_text("id:x")));
        for text in ["", "nightly", &"0".repeat(31), &"0".repeat(33), &"g".repeat(32), &"é".repeat(16), "ID:x"] {
            assert_eq!(task(text), Err(TASK_HINT.to_owned()), "{text}");
        }
        let signed = format!("+{}", "0".repeat(31));
        assert_eq!(task(&signed), Err(TASK_HINT.to_owned()));
        assert!(task("id:").unwrap_err().contains("must not be empty"));
    }

    #[test]
    fn titles() {
        assert_eq!(title("größer"), Ok("größer".to_owned()));
        assert_eq!(title(&"x".repeat(200)).map(|title| title.len()), Ok(200));
        assert!(title(&"x".repeat(201)).unwrap_err().contains("at most 200 bytes"));
        assert!(title("a\nb").unwrap_err().contains("control characters"));
        assert!(title("\x1b[31m").unwrap_err().contains("control characters"));
    }

    #[test]
    fn labels_and_amounts() {
        assert_eq!(label("os=linux"), Ok(("os".to_owned(), Tag::Label("linux".to_owned()))));
        assert_eq!(amount("gpu=2"), Ok(("gpu".to_owned(), Tag::Amount(2))));
        assert_eq!(amount("gpu=4294967295"), Ok(("gpu".to_owned(), Tag::Amount(u32::MAX))));
        assert!(label("linux").unwrap_err().contains("os=linux"));
        for text in ["=x", "a b=c", "a=", "a=b=c", "a=ü"] {
            assert!(label(text).unwrap_err().contains("names and labels are 1 to 64 letters"), "{text}");
        }
        for text in ["gpu", "gpu=", "gpu=0", "gpu=-1", "gpu=+1", "gpu=1.5", "gpu=4294967296", "gpu=two"] {
            assert!(amount(text).unwrap_err().contains("such as gpu=2"), "{text}");
        }
        assert!(amount("=1").unwrap_err().contains("names and labels"));
    }
}
