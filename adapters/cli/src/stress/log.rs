//! What the processes of a fleet say of their connections, read from their logs
//!
//! Their own log lines are all that is looked at, as anybody who runs them could: no counter of the machines takes part.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Most bytes of a log that are read; one beyond has something wrong with it
const LOG_BYTES_MAX: u64 = 256 << 20;
/// Most bytes read at a time
const READ_BYTES_MAX: u64 = 8 << 20;

/// A time in microseconds since 1970, the same for all processes of this machine
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(pub(crate) u64);

impl Stamp {
    /// The time now
    pub(crate) fn now() -> Stamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Stamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// Microseconds from an earlier time to this one, 0 if it is later
    pub(crate) fn since(self, earlier: Stamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Something that a process said
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// When
    pub(crate) at: Stamp,
    /// What
    pub(crate) word: Word,
}

/// What a line of a log is about; whatever else it may be is left out
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// A worker is connected
    Connected,
    /// A worker gives its connection up, and why
    GaveUp(String),
    /// A worker has no connection any more
    ConnectionLost,
    /// The coordinator has welcomed a peer
    Welcomed {
        /// Whom
        peer: String,
        /// Whether its session went on
        resumed: bool,
    },
    /// The coordinator has no connection to a peer any more, and why, if it was its own doing
    Parted {
        /// To whom
        peer: String,
        /// Why
        reason: Option<String>,
    },
    /// The coordinator takes a worker for lost
    Lost {
        /// Which one
        peer: String,
    },
    /// A worker that was asked did not hold what it should
    Drifted,
    /// A task goes on from a checkpoint
    Restored,
    /// The coordinator has turned a connection away
    Refused,
    /// A panic: a bug of ours
    Panic(String),
}

/// A log, as far as it was read
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    offset: u64,
    rest: String,
    /// All that was said
    pub(crate) said: Vec<Said>,
    /// Whether a worker is connected, by its own log
    pub(crate) connected: bool,
    /// Who is, by the coordinator's
    pub(crate) peers: BTreeSet<String>,
}

impl Log {
    /// A log that may not be there yet
    pub(crate) fn new(path: PathBuf) -> Log {
        Log { path, offset: 0, rest: String::new(), said: Vec::new(), connected: false, peers: BTreeSet::new() }
    }

    /// Reads on
    pub(crate) fn read(&mut self) -> io::Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.offset > LOG_BYTES_MAX {
            return Err(io::Error::other(format!("{}: more than {LOG_BYTES_MAX} bytes of log", self.path.display())));
        }
        file.seek(SeekFrom::Start(self.offset))?;
        loop {
            let mut bytes = Vec::new();
            let count = (&mut file).take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            self.offset += count as u64;
            let text = std::mem::take(&mut self.rest) + &String::from_utf8_lossy(&bytes);
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            self.rest = text[whole..].to_owned();
            text[..whole].lines().filter_map(said).for_each(|said| self.note(said));
        }
    }

    /// Takes down what a line has changed
    fn note(&mut self, said: Said) {
        match &said.word {
            Word::Connected => self.connected = true,
            Word::GaveUp(_) | Word::ConnectionLost => self.connected = false,
            Word::Welcomed { peer, .. } => _ = self.peers.insert(peer.clone()),
            Word::Parted { peer, .. } => _ = self.peers.remove(peer),
            Word::Lost { .. } | Word::Drifted | Word::Restored | Word::Refused | Word::Panic(_) => {}
        }
        self.said.push(said);
    }
}

/// What a line says, if it is of interest
fn said(line: &str) -> Option<Said> {
    if let Some(panic) = line.strip_prefix("thread ").filter(|line| line.contains("panicked at")) {
        return Some(Said { at: Stamp::now(), word: Word::Panic(panic.to_owned()) });
    }
    let (time, rest) = line.split_once(' ')?;
    let at = stamp(time)?;
    // Behind the level and the name of the module.
    let text = rest.trim_start().split_once(": ")?.1;
    word(text).map(|word| Said { at, word })
}

fn word(text: &str) -> Option<Word> {
    let field = |name: &str| {
        let from = text.find(&format!(" {name}="))? + name.len() + 2;
        Some(text[from..].split(' ').next().unwrap_or_default().to_owned())
    };
    let reason = || text.split_once("reason=").map(|(_, reason)| reason.to_owned());
    if let Some(behind) = text.strip_prefix("connected ") {
        return Some(match field("peer") {
            Some(peer) => Word::Welcomed { peer, resumed: behind.contains("resumed=true") },
            None => Word::Connected,
        });
    }
    if text.starts_with("connection given up ") {
        return Some(Word::GaveUp(reason()?));
    }
    if text.starts_with("connection lost ") {
        return Some(Word::ConnectionLost);
    }
    if text.starts_with("disconnected ") {
        // A reason is the last field, and has spaces in it.
        let peer = field("peer")?;
        let reason = reason().map(|reason| reason.split(" peer=").next().unwrap_or_default().to_owned());
        return Some(Word::Parted { peer, reason });
    }
    if text.starts_with("lost: its tasks go to others") {
        return Some(Word::Lost { peer: field("peer")? });
    }
    if text.starts_with("did not hold what it should") {
        return Some(Word::Drifted);
    }
    if text.starts_with("task goes on from a checkpoint") {
        return Some(Word::Restored);
    }
    text.starts_with("a connection was refused").then_some(Word::Refused)
}

/// Reads a time as the log writes it, such as `2026-01-31T12:00:00.123456Z`
fn stamp(text: &str) -> Option<Stamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.split(':').map(|part| part.parse::<u64>().ok());
    let seconds = (clock.next()?? * 60 + clock.next()??) * 60 + clock.next()??;
    let micros: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let days = u64::try_from(days(year, month, day)).ok()?;
    Some(Stamp((days * 86_400 + seconds) * 1_000_000 + micros))
}

/// Days from 1970 to a date of the Gregorian calendar
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_workers_and_coordinators_are_told_from_each_other() {
        let word = |line: &str| said(line).map(|said| said.word);
        let line = |text: &str| format!("2026-11-26T19:38:28.123456Z  INFO rejoin_smol::worker: {text}");
        assert_eq!(word(&line("connected tasks=3")), Some(Word::Connected));
        assert_eq!(word(&line("connection lost tasks=3")), Some(Word::ConnectionLost));
        assert_eq!(
            word(&line("connection given up reason=no answer in time")),
            Some(Word::GaveUp("no answer in time".into()))
        );
        let peer = "w1".to_owned();
        assert_eq!(
            word(&line("connected peer=w1 resumed=true")),
            Some(Word::Welcomed { peer: peer.clone(), resumed: true })
        );
        assert_eq!(word(&line("disconnected peer=w1")), Some(Word::Parted { peer: peer.clone(), reason: None }));
        let reason = Some("nothing was heard for too long".to_owned());
        let silent = line("disconnected peer=w1 reason=nothing was heard for too long");
        assert_eq!(word(&silent), Some(Word::Parted { peer: peer.clone(), reason }));
        assert_eq!(word(&line("lost: its tasks go to others peer=w1")), Some(Word::Lost { peer }));
        assert_eq!(word(&line("task ended task=1")), None);
        assert!(matches!(word("thread 'main' panicked at core/src/x.rs:1:2:"), Some(Word::Panic(_))));
    }

    #[test]
    fn times_are_microseconds_since_1970() {
        assert_eq!(stamp("1970-01-01T00:00:00.000001Z"), Some(Stamp(1)));
        assert_eq!(stamp("2000-03-01T00:00:00Z"), Some(Stamp(951_868_800_000_000)));
        assert_eq!(stamp("2024-02-29T12:34:56.5Z"), Some(Stamp(1_709_210_096_500_000)));
        assert_eq!(stamp("yesterday"), None);
    }
}
