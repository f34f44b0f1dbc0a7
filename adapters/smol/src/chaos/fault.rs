//! What can break: kinds of fault, and whom one strikes
//!
//! Names and measures are those of the simulator's menu, so that a line of a schedule means the same here and there.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How a kind of fault works
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// What the way is like for a while
    Weather,
    /// What new connections meet for a while
    Dial,
    /// What befalls the open connection
    Blow,
    /// What befalls the next bytes or messages
    Strike,
    /// Nothing that any connection suffers
    Aside,
}

macro_rules! kinds {
    ($($variant:ident = $name:literal, $manner:ident, $directed:literal;)*) => {
        /// A kind of fault, by its name in the simulator's menu
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = concat!("`", $name, "`")] $variant),*
        }

        impl Kind {
            /// All of them
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// What it is called in schedules
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$variant => $name),*
                }
            }

            /// Whether it has a direction
            pub fn is_directed(self) -> bool {
                match self {
                    $(Kind::$variant => $directed),*
                }
            }

            pub(super) fn manner(self) -> Manner {
                match self {
                    $(Kind::$variant => Manner::$manner),*
                }
            }
        }
    };
}

kinds! {
    Delay = "delay", Weather, true;
    Jitter = "jitter", Weather, true;
    Exponential = "exponential", Weather, true;
    LogNormal = "log-normal", Weather, true;
    Pareto = "pareto", Weather, true;
    Bimodal = "bimodal", Weather, true;
    Ramp = "ramp", Weather, true;
    Far = "far", Weather, false;
    Bandwidth = "bandwidth", Weather, true;
    Bloat = "bloat", Weather, true;
    Drip = "drip", Weather, true;
    Rechunk = "rechunk", Weather, true;
    Stall = "stall", Weather, true;
    Partition = "partition", Weather, false;
    Split = "split", Weather, false;
    Swizzle = "swizzle", Weather, false;
    Blocked = "blocked", Weather, true;
    Flap = "flap", Weather, false;
    Refuse = "refuse", Dial, false;
    Hang = "hang", Dial, false;
    SlowDial = "slow-dial", Dial, false;
    Mute = "mute", Dial, false;
    AcceptReset = "accept-reset", Dial, false;
    Reset = "reset", Blow, false;
    MassReset = "mass-reset", Blow, false;
    ResetAfter = "reset-after", Blow, true;
    Close = "close", Blow, false;
    HalfClose = "half-close", Blow, true;
    CutSeenBy = "cut-seen-by", Blow, true;
    LateClose = "late-close", Blow, true;
    HalfOpen = "half-open", Blow, true;
    Dead = "dead", Blow, false;
    Ghost = "ghost", Blow, false;
    Flip = "flip", Strike, true;
    Scramble = "scramble", Strike, true;
    Snip = "snip", Strike, true;
    Insert = "insert", Strike, true;
    Truncate = "truncate", Strike, true;
    Lie = "lie", Strike, true;
    Drop = "drop", Strike, true;
    Duplicate = "duplicate", Strike, true;
    Swap = "swap", Strike, true;
    Hold = "hold", Strike, true;
    Replay = "replay", Strike, true;
    Splice = "splice", Strike, true;
    Stranger = "stranger", Aside, false;
    Impostor = "impostor", Aside, false;
    // Of WebSockets alone: the simulator has none.
    HttpStatus = "http-status", Dial, false;
    NoPong = "no-pong", Weather, true;
    Ping = "ping", Strike, true;
    CloseFrame = "close-frame", Strike, true;
    Fragment = "fragment", Strike, true;
    WrongMask = "wrong-mask", Strike, true;
    ReservedBits = "reserved-bits", Strike, true;
    Segment = "segment", Strike, true;
    ResetFrame = "reset-frame", Strike, true;
}

impl Kind {
    /// The kind of this name
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether nothing arrives while it lasts
    pub(super) fn holds_up(self) -> bool {
        matches!(self, Kind::Stall) || self.cuts_off()
    }

    /// Whether dials hang as well while nothing arrives
    pub(super) fn cuts_off(self) -> bool {
        matches!(self, Kind::Partition | Kind::Split | Kind::Swizzle)
    }

    /// Whether it strikes a share of all connections, in thousandths
    pub(super) fn is_of_a_share(self) -> bool {
        matches!(self, Kind::Split | Kind::MassReset)
    }

    /// Whether it waits for a whole message
    pub(super) fn is_of_messages(self) -> bool {
        let all = [
            Kind::Truncate,
            Kind::Lie,
            Kind::Drop,
            Kind::Duplicate,
            Kind::Swap,
            Kind::Hold,
            Kind::Replay,
            Kind::Splice,
            Kind::Ping,
            Kind::CloseFrame,
            Kind::Fragment,
            Kind::WrongMask,
            Kind::ReservedBits,
            Kind::Segment,
            Kind::ResetFrame,
        ];
        all.contains(&self)
    }

    /// Whether it puts a message of its own in front of another one, and need not wait for that
    pub(super) fn interjects(self) -> bool {
        matches!(self, Kind::Ping | Kind::CloseFrame)
    }

    /// The measures that mean something, for kinds that have few
    pub fn amounts(self) -> Option<RangeInclusive<u64>> {
        #[allow(clippy::wildcard_enum_match_arm, reason = "the others take any number")]
        match self {
            Kind::HttpStatus => Some(200..=599),
            Kind::Ping => Some(0..=125),
            Kind::CloseFrame => Some(0..=65_535),
            Kind::ReservedBits => Some(0..=7),
            Kind::Segment => Some(0..=2),
            _ => None,
        }
    }
}

/// An end of a connection
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Whoever dialled
    Peer,
    /// Whatever stands behind the proxy
    Coordinator,
}

impl End {
    /// Both
    pub(crate) const BOTH: [End; 2] = [End::Peer, End::Coordinator];

    pub(crate) fn other(self) -> End {
        match self {
            End::Peer => End::Coordinator,
            End::Coordinator => End::Peer,
        }
    }
}

/// Whom a fault strikes
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Every connection, those to come included, as long as the fault lasts
    All,
    /// The connection in this place, from 0: a new one takes the lowest that is free
    Place(u64),
}

/// Something that breaks; which of the fields mean something depends on the kind
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What breaks
    pub kind: Kind,
    /// Whose connection
    pub whom: Whom,
    /// The end at which it is felt, for kinds that have a direction
    pub towards: End,
    /// For how long
    pub span: Duration,
    /// How much, in the unit of the kind
    pub amount: u64,
    /// For kinds that wait for a message: how many go before the one that is struck
    pub after: u64,
}

impl Fault {
    /// A fault of all connections without a length or a measure, felt by whoever dialled
    pub fn of_all(kind: Kind) -> Fault {
        let amount = if kind.is_of_a_share() { 1000 } else { 0 };
        Fault { kind, whom: Whom::All, towards: End::Peer, span: Duration::ZERO, amount, after: 0 }
    }

    /// The same for that long
    #[must_use]
    pub fn lasting(self, span: Duration) -> Fault {
        Fault { span, ..self }
    }

    /// Whether it is felt at an end
    pub(super) fn is_felt_at(&self, end: End) -> bool {
        !self.kind.is_directed() || self.towards == end
    }
}

/// How often each kind of fault came, and how often it had an effect
///
/// A fault that lasts has one effect on each connection that feels it, and on each dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted, refused ones included
    pub connections: u64,
    fired: Vec<u64>,
    felt: Vec<u64>,
    impossible: Vec<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        let none = vec![0; Kind::ALL.len()];
        Counts { connections: 0, fired: none.clone(), felt: none.clone(), impossible: none }
    }
}

impl Counts {
    /// How often a kind came
    pub fn fired(&self, kind: Kind) -> u64 {
        self.fired[kind as usize]
    }

    /// How often a kind had an effect
    pub fn felt(&self, kind: Kind) -> u64 {
        self.felt[kind as usize]
    }

    /// On how many connections a kind could have no effect, such as what befalls messages where bytes are encrypted
    pub fn impossible(&self, kind: Kind) -> u64 {
        self.impossible[kind as usize]
    }

    /// How often anything had an effect
    pub fn disruptions(&self) -> u64 {
        self.felt.iter().sum()
    }

    pub(super) fn fire(&mut self, kind: Kind) {
        self.fired[kind as usize] += 1;
    }

    pub(super) fn feel(&mut self, kind: Kind) {
        self.felt[kind as usize] += 1;
    }

    pub(super) fn cannot(&mut self, kind: Kind) {
        self.impossible[kind as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(*kind));
        }
        assert_eq!(Kind::named("crash"), None);
    }
}
