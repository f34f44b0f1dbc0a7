//! The options of `rejoin netbox`

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rejoin_smol::chaos::End;
use rejoin_smol::packets::{Condition, Kind, MTU, Measure};

use super::values;

/// What `rejoin netbox` is called with
#[derive(Debug, Args)]
pub struct Netbox {
    /// Run this on the service's side, 192.0.2.1, by `sh`; what it prints goes to standard error
    ///
    /// It starts first, gets SIGTERM when CMD has ended, and SIGKILL ten seconds later.
    #[arg(long, value_name = "COMMAND")]
    pub serve: Option<OsString>,

    /// Start CMD when the service accepts connections at this port
    #[arg(long, value_name = "PORT", requires = "serve", value_parser = clap::value_parser!(u16).range(1..))]
    pub wait_for: Option<u16>,

    /// Repeat what is drawn [default: drawn]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Lose that share of the packets, such as 5% or '20% towards=peer'
    ///
    /// Every condition may be followed by `towards=peer` (CMD's side) or
    /// `towards=coordinator` (the service's side), and by `for=3s`, all in one argument.
    #[arg(long, value_name = "SHARE", verbatim_doc_comment, value_parser = |text: &str| condition(Kind::Loss, text))]
    pub loss: Vec<Condition>,

    /// Have that share of the packets come twice
    #[arg(long, value_name = "SHARE", value_parser = |text: &str| condition(Kind::Duplicate, text))]
    pub duplicate: Vec<Condition>,

    /// Have that share of the packets come 5 to 50 ms late, behind others
    #[arg(long, value_name = "SHARE", value_parser = |text: &str| condition(Kind::Reorder, text))]
    pub reorder: Vec<Condition>,

    /// Flip a bit in that share of the packets, which the system notices and throws away
    #[arg(long, value_name = "SHARE", value_parser = |text: &str| condition(Kind::Corrupt, text))]
    pub corrupt: Vec<Condition>,

    /// Flip a bit of what that share of the packets carry, and mend the checksum
    #[arg(long, value_name = "SHARE", value_parser = |text: &str| condition(Kind::Flip, text))]
    pub flip: Vec<Condition>,

    /// How much longer packets take, each way
    #[arg(long, value_name = "DURATION", value_parser = |text: &str| condition(Kind::Delay, text))]
    pub delay: Vec<Condition>,

    /// How much longer packets take at most, beyond that; their order stays
    #[arg(long, value_name = "DURATION", value_parser = |text: &str| condition(Kind::Jitter, text))]
    pub jitter: Vec<Condition>,

    /// How much gets through in a second: 64kbit, 10Mbit, or bytes such as 8k
    #[arg(long, value_name = "RATE", value_parser = |text: &str| condition(Kind::Bandwidth, text))]
    pub bandwidth: Vec<Condition>,

    /// How much may wait for that; the rest is lost [default: 16KiB, or 0.25 s of it]
    #[arg(long, value_name = "BYTES", value_parser = |text: &str| condition(Kind::Queue, text))]
    pub queue: Vec<Condition>,

    /// Lose packets of more than so many bytes, of at most 1500, and tell nobody
    #[arg(long, value_name = "BYTES", value_parser = |text: &str| condition(Kind::Blackhole, text))]
    pub blackhole: Vec<Condition>,

    /// So long after CMD has started, have a condition come, such as 'loss 50% for=3s'
    ///
    /// Beside those above there are partition, down, roam, and heal, which ends all.
    #[arg(long, num_args = 2, value_names = ["DURATION", "CONDITION"], action = clap::ArgAction::Append)]
    pub at: Vec<String>,

    /// Take orders at this address, on loopback: a condition, heal, status or help
    #[arg(long, value_name = "ADDR", value_parser = values::loopback)]
    pub control: Option<SocketAddr>,

    /// Write seed, addresses and summary to this file, and not to standard error
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Say that as objects
    #[arg(long)]
    pub json: bool,

    /// It is in its namespaces already; for the program's own use
    #[arg(long, hide = true)]
    pub inside: bool,

    /// What to run on the side that dials, 192.0.2.2
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub command: Vec<OsString>,
}

/// What is told to a box
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The way is like this from now on
    Set(Condition),
    /// All conditions end
    Heal,
}

impl Netbox {
    /// What the way is like from the start
    pub fn conditions(&self) -> impl Iterator<Item = Condition> {
        let all = [
            &self.loss,
            &self.duplicate,
            &self.reorder,
            &self.corrupt,
            &self.flip,
            &self.delay,
            &self.jitter,
            &self.bandwidth,
            &self.queue,
            &self.blackhole,
        ];
        all.into_iter().flatten().copied()
    }

    /// What comes later, in the order of time
    ///
    /// # Errors
    ///
    /// Which pair of words is no time and order.
    pub fn orders(&self) -> Result<Vec<(Duration, Order)>, clap::Error> {
        let orders = self.at.chunks(2).map(|pair| {
            let [at, order] = pair else { return Err("--at takes a time and a condition".to_owned()) };
            let bad = |problem| format!("--at {at} '{order}': {problem}");
            Ok((values::duration(at).map_err(bad)?, order.parse().map_err(bad)?))
        });
        let mut orders: Vec<(Duration, Order)> = orders
            .collect::<Result<_, _>>()
            .map_err(|problem| super::usage("netbox", clap::error::ErrorKind::ValueValidation, &problem))?;
        orders.sort_by_key(|(at, _)| *at);
        Ok(orders)
    }
}

impl std::str::FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Order, String> {
        let (name, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        match Kind::named(name) {
            Some(kind) => condition(kind, rest).map(Order::Set),
            None if name == "heal" && rest.trim().is_empty() => Ok(Order::Heal),
            None => {
                let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                Err(format!("there is no condition of this name: use {} or heal", names.join(", ")))
            }
        }
    }
}

/// A condition by what follows its name
fn condition(kind: Kind, text: &str) -> Result<Condition, String> {
    let mut words = text.split_whitespace();
    let amount =
        if kind.measure() == Measure::Nothing { 0 } else { amount(kind, words.next().ok_or("it takes an amount")?)? };
    let mut condition = Condition::new(kind, amount);
    for word in words {
        condition = match word.split_once('=') {
            Some(("towards", "peer")) => condition.towards(End::Peer),
            Some(("towards", "coordinator")) => condition.towards(End::Coordinator),
            Some(("for", span)) => condition.lasting(values::duration(span)?),
            _ => return Err(format!("{word}: expected towards=peer, towards=coordinator, or for= and a duration")),
        };
    }
    if kind == Kind::Roam && (condition.towards.is_some() || condition.span.is_some()) {
        return Err("it is the side that dials that roams, and for good: there is neither towards= nor for=".to_owned());
    }
    Ok(condition)
}

/// Longest delay
const DELAY_MAX: Duration = Duration::from_secs(60);
/// Most bytes per second that are told from all of them
const RATE_MAX: u64 = 10_000_000_000;

fn amount(kind: Kind, text: &str) -> Result<u64, String> {
    match kind.measure() {
        Measure::Nothing => Ok(0),
        Measure::Share => share(text),
        Measure::Micros if text == "0" => Ok(0),
        Measure::Micros => match values::duration(text)? {
            span if span <= DELAY_MAX => Ok(span.as_micros() as u64),
            _ => Err(format!("packets take at most {DELAY_MAX:?} longer")),
        },
        Measure::Rate => match rate(text)? {
            rate @ 1..=RATE_MAX => Ok(rate),
            _ => Err(format!("expected 1 to {RATE_MAX} bytes per second")),
        },
        Measure::Bytes => match values::bytes(text)? {
            bytes if kind == Kind::Queue && bytes < MTU as u64 => {
                Err(format!("no whole packet could wait: give at least {MTU} bytes"))
            }
            bytes => Ok(bytes),
        },
    }
}

const SHARE_HINT: &str = "expected a share such as 5%, 0.01% or 100%";

/// A share in millionths
fn share(text: &str) -> Result<u64, String> {
    let percent = text.strip_suffix('%').ok_or(SHARE_HINT)?;
    let (whole, part) = percent.split_once('.').unwrap_or((percent, "0"));
    let is_number = |text: &str| (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) {
        return Err(format!("{SHARE_HINT}, to four places"));
    }
    let digits = format!("{whole}{part:0<4}");
    match digits.parse() {
        Ok(millionths) if millionths <= 1_000_000 => Ok(millionths),
        _ => Err("a share is at most 100%".to_owned()),
    }
}

/// Bytes per second
fn rate(text: &str) -> Result<u64, String> {
    let Some(bits) = text.strip_suffix("bit") else {
        return values::bytes(text)
            .map_err(|_| "expected a rate such as 64kbit, 10Mbit, or bytes such as 8k".to_owned());
    };
    Ok(values::bytes(bits)? / 8)
}

pub(super) const HELP: &str = "\
Examples:
  A download at 64 kbit/s with 5 % loss and a round trip of 100 ms, the same packets lost each time:
    rejoin netbox --serve 'python3 -m http.server --bind 192.0.2.1' --wait-for 8000 \\
      --loss 5% --delay 50ms --bandwidth 64kbit --seed 7 \\
      -- curl -s -o copy http://192.0.2.1:8000/file
  A worker whose cable is pulled after 5 s, for 3 s, and which has another address after 10 s:
    rejoin netbox --serve 'rejoin coordinator --listen 192.0.2.1:7878 --insecure-ws …' \\
      --at 5s 'down for=3s' --at 10s roam \\
      -- rejoin worker --coordinator ws://192.0.2.1:7878 --insecure-ws --key lab-1.key
  Look at it from the inside, and break it by hand meanwhile:
    rejoin netbox --control 127.0.0.1:9001 -- bash
    echo 'loss 30% towards=coordinator for=10s' | nc -N 127.0.0.1 9001

docs/packets.md has all conditions.

Exit status:
  0      CMD has succeeded
  1-253  that of CMD; 128 and the number of the signal that has ended it
  254    there can be no such box here, or the service does not start
  255    wrong usage";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parse(words: &[&str]) -> Result<Box<Netbox>, String> {
        let words = ["rejoin", "netbox"].iter().chain(words);
        let command = Cli::try_parse_from(words).map_err(|error| error.to_string())?.command;
        let Command::Netbox(netbox) = command else { panic!("another command") };
        Ok(netbox)
    }

    #[test]
    fn conditions_from_the_start_and_later() {
        let netbox = parse(&[
            "--loss",
            "5%",
            "--loss",
            "20% towards=peer for=3s",
            "--delay",
            "50ms",
            "--bandwidth",
            "64kbit",
            "--at",
            "10s",
            "heal",
            "--at",
            "5s",
            "down towards=coordinator for=2s",
            "--",
            "curl",
            "-s",
            "--at",
        ])
        .expect("a box");
        let loss = Condition::new(Kind::Loss, 50_000);
        let expected = [
            loss,
            Condition { amount: 200_000, ..loss }.towards(End::Peer).lasting(Duration::from_secs(3)),
            Condition::new(Kind::Delay, 50_000),
            Condition::new(Kind::Bandwidth, 8_000),
        ];
        assert_eq!(netbox.conditions().collect::<Vec<_>>(), expected);
        let down = Condition::new(Kind::Down, 0).towards(End::Coordinator).lasting(Duration::from_secs(2));
        let expected = vec![(Duration::from_secs(5), Order::Set(down)), (Duration::from_secs(10), Order::Heal)];
        assert_eq!(netbox.orders().expect("orders"), expected);
        assert_eq!(netbox.command, ["curl", "-s", "--at"]);
    }

    #[test]
    fn amounts() {
        for (text, millionths) in [("5%", 50_000), ("0.01%", 100), ("100%", 1_000_000), ("0%", 0), ("0.0001%", 1)] {
            assert_eq!(share(text), Ok(millionths), "{text}");
        }
        for text in ["5", "%", "-1%", "1.%", ".5%", "101%", "0.00001%", "5 %", "1.5.5%"] {
            assert!(share(text).is_err(), "{text}");
        }
        for (text, bytes) in [("64kbit", 8_000), ("10Mbit", 1_250_000), ("8k", 8_000), ("1MiB", 1 << 20)] {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (order, part) in [
            ("rain", "use loss, duplicate"),
            ("loss", "it takes an amount"),
            ("loss 5", "such as 5%"),
            ("loss 5% towards=me", "towards=peer"),
            ("bandwidth 1bit", "1 to 10000000000 bytes"),
            ("queue 100", "at least 1500"),
            ("delay 2m", "at most 60s"),
            ("roam for=1s", "for good"),
            ("partition 5%", "5%: expected"),
            ("heal all", "no condition of this name"),
        ] {
            let problem = order.parse::<Order>().expect_err("no order");
            assert!(problem.contains(part), "{order}: {problem}");
        }
        for (words, part) in [
            (&["--loss", "5%"][..], "required"),
            (&["--wait-for", "80", "--", "true"], "--serve"),
            (&["--control", "0.0.0.0:1", "--", "true"], "from this machine alone"),
        ] {
            let message = parse(words).expect_err("no box");
            assert!(message.contains(part), "{message}");
        }
        let late = parse(&["--at", "soon", "heal", "--", "true"]).expect("a box").orders();
        assert!(late.expect_err("no time").to_string().contains("--at soon 'heal'"));
    }
}
