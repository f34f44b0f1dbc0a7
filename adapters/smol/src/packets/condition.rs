//! What the way between the two sides can be like, and for how long

use std::time::Duration;

use crate::chaos::End;

/// How a kind of condition is measured
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Not at all
    Nothing,
    /// As a share of the packets, in millionths
    Share,
    /// In microseconds
    Micros,
    /// In bytes per second
    Rate,
    /// In bytes
    Bytes,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $measure:ident;)*) => {
        /// A kind of condition; where the simulator's menu has the same, it has the same name there
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $variant),*
        }

        impl Kind {
            /// All of them
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// What it is called
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$variant => $name),*
                }
            }

            /// What its amount means
            pub fn measure(self) -> Measure {
                match self {
                    $(Kind::$variant => Measure::$measure),*
                }
            }
        }
    };
}

kinds! {
    /// Packets are lost
    Loss = "loss", Share;
    /// Packets come twice
    Duplicate = "duplicate", Share;
    /// Packets come 5 to 50 ms late, behind others
    Reorder = "reorder", Share;
    /// A bit behind the IP header is flipped, and the checksum left wrong: the system throws the packet away
    Corrupt = "corrupt", Share;
    /// A bit of what TCP or UDP carries is flipped, and the checksum mended: the damage arrives
    Flip = "flip", Share;
    /// Packets take so much longer
    Delay = "delay", Micros;
    /// Packets take longer by up to so much; their order stays
    Jitter = "jitter", Micros;
    /// So many bytes per second get through
    Bandwidth = "bandwidth", Rate;
    /// Most bytes that wait where the bandwidth is short; what comes beyond is lost
    Queue = "queue", Bytes;
    /// Packets of more than so many bytes are lost, and nobody is told
    Blackhole = "blackhole", Bytes;
    /// No packet gets through
    Partition = "partition", Nothing;
    /// The device of the side towards which it goes is down, and the programs there know it
    Down = "down", Nothing;
    /// The side that dials has another address from now on, and the one before no more
    Roam = "roam", Nothing;
}

impl Kind {
    /// The kind of this name
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// What the way is like from now on
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is
    pub kind: Kind,
    /// How much of it, as [`Kind::measure`] says
    pub amount: u64,
    /// Towards which side packets go that feel it; both if it does not say
    pub towards: Option<End>,
    /// For how long, after which what was before holds again; until it is healed or replaced if it does not say
    pub span: Option<Duration>,
}

impl Condition {
    /// A condition of both ways that lasts
    pub fn new(kind: Kind, amount: u64) -> Condition {
        Condition { kind, amount, towards: None, span: None }
    }

    /// The same for packets towards one side
    #[must_use]
    pub fn towards(self, end: End) -> Condition {
        Condition { towards: Some(end), ..self }
    }

    /// The same for so long
    #[must_use]
    pub fn lasting(self, span: Duration) -> Condition {
        Condition { span: Some(span), ..self }
    }

    /// The sides towards which it is felt
    pub(super) fn ends(&self) -> impl Iterator<Item = End> + use<> {
        let towards = self.towards;
        End::BOTH.into_iter().filter(move |end| towards.is_none_or(|towards| towards == *end))
    }
}
