//! What can break: the menu of faults, a row for each
//!
//! The row says who is struck, what the numbers of a fault mean, and from which range they are drawn. What a fault does
//! is in `simulation/faults.rs`. Each kind has a mark beside its count: that it not only happened, but had an effect.

/// Who may be struck
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The network of a worker or client
    Link,
    /// A worker
    Worker,
    /// The coordinator
    Coordinator,
    /// Anybody
    Anybody,
}

/// One row of the menu
#[derive(Clone, Copy, Debug)]
pub struct Dish {
    /// What it is called in schedules
    pub name: &'static str,
    /// What happens
    pub says: &'static str,
    /// Who may be struck
    pub scope: Scope,
    /// Whether it has a direction
    pub directed: bool,
    /// How long it lasts, from and to, in milliseconds; 0 for what has no length
    pub span_ms: (u64, u64),
    /// How much, from and to, in the unit that `says` names; 0 for what has no measure
    pub amount: (u64, u64),
    /// Most of a minute's worth of it: so often in 60 s, when it is drawn at all
    pub per_minute: u64,
}

macro_rules! menu {
    ($($variant:ident = $name:literal, $says:literal, $scope:ident, $directed:literal, $span:expr, $amount:expr, $rate:literal;)*) => {
        /// A kind of fault
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = $says] $variant),*
        }

        impl Kind {
            /// All of them
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// Its row of the menu
            pub fn dish(self) -> &'static Dish {
                match self {
                    $(Kind::$variant => &Dish {
                        name: $name, says: $says, scope: Scope::$scope, directed: $directed,
                        span_ms: $span, amount: $amount, per_minute: $rate,
                    }),*
                }
            }
        }
    };
}

const NONE: (u64, u64) = (0, 0);

menu! {
    // What the network is like.
    Delay = "delay", "bytes take so many microseconds more", Link, true, (100, 20_000), (1_000, 2_000_000), 12;
    Jitter = "jitter", "bytes take up to so many microseconds more, drawn anew for each piece", Link, true, (100, 20_000), (1_000, 1_000_000), 12;
    Bandwidth = "bandwidth", "so many bytes per second get through", Link, true, (500, 20_000), (500, 1_000_000), 8;
    Rechunk = "rechunk", "bytes arrive in pieces of so many", Link, true, (1_000, 30_000), (1, 64), 8;
    Stall = "stall", "nothing arrives for a while, then everything at once", Link, true, (50, 10_000), NONE, 20;
    Partition = "partition", "nothing arrives in either direction, and dials hang", Link, false, (100, 15_000), NONE, 8;
    Blocked = "blocked", "the sender's buffer is full", Link, true, (50, 10_000), NONE, 10;
    // What connections suffer.
    Reset = "reset", "the connection breaks, and both ends learn it", Link, false, NONE, NONE, 40;
    ResetAfter = "reset-after", "the connection breaks behind so many more bytes", Link, true, NONE, (1, 20_000), 30;
    Close = "close", "the connection ends behind what is under way", Link, false, NONE, NONE, 10;
    CutSeenBy = "cut-seen-by", "the connection breaks, and only one end ever learns it", Link, true, NONE, NONE, 15;
    LateClose = "late-close", "the connection breaks, one end learns it at once and the other one later", Link, true, (1, 20_000), NONE, 15;
    HalfOpen = "half-open", "nothing more arrives at one end, and nobody is told", Link, true, NONE, NONE, 12;
    Refuse = "refuse", "dials are refused", Link, false, (100, 15_000), NONE, 10;
    Hang = "hang", "dials hang", Link, false, (100, 15_000), NONE, 6;
    AcceptReset = "accept-reset", "connections break so many microseconds after they opened", Link, false, (100, 8_000), (1, 100_000), 8;
    Ghost = "ghost", "what the connection before had under way arrives beside the new one", Link, false, NONE, NONE, 10;
    // What bytes and messages suffer.
    Flip = "flip", "the bit of that number in the next bytes is flipped", Link, true, NONE, (0, 4_000), 12;
    Snip = "snip", "so many of the next bytes are missing", Link, true, NONE, (1, 200), 8;
    Insert = "insert", "so many bytes come in front of the next ones", Link, true, NONE, (1, 200), 8;
    Drop = "drop", "the next message is missing", Link, true, NONE, NONE, 10;
    Duplicate = "duplicate", "the next message comes twice", Link, true, NONE, NONE, 10;
    Swap = "swap", "the next two messages change their order", Link, true, NONE, NONE, 10;
    Replay = "replay", "a message that went so many before the next one comes again", Link, true, NONE, (1, 30), 10;
    Stranger = "stranger", "somebody without a key connects and says so many bytes of nothing", Coordinator, false, NONE, (0, 9_000), 10;
    // What befalls nodes.
    Crash = "crash", "a worker ends with all it knew, and starts again after a while", Worker, false, (0, 20_000), NONE, 8;
    Restart = "restart", "the coordinator ends, so many of its unsynced records survive, and it starts again after a while", Coordinator, false, (0, 10_000), (0, 5), 5;
    Pause = "pause", "a process stands still for a while", Anybody, false, (100, 30_000), NONE, 8;
    Drain = "drain", "a worker is told to leave in order, and starts again after a while", Worker, false, (100, 20_000), NONE, 3;
    // What befalls clocks.
    ClockStep = "clock-step", "the clock jumps ahead by so many microseconds", Anybody, false, NONE, (1_000, 30_000_000), 4;
    ClockBack = "clock-back", "the clock jumps back by so many microseconds", Anybody, false, NONE, (1_000, 30_000_000), 4;
    Drift = "drift", "the clock runs so many thousandths fast", Anybody, false, (1_000, 60_000), (1, 100), 4;
    Coarse = "coarse", "the clock shows whole multiples of so many microseconds", Anybody, false, (1_000, 60_000), (1_000, 15_600), 4;
    // What befalls the store.
    SlowSync = "slow-sync", "a sync takes so many microseconds more", Coordinator, false, (100, 15_000), (1_000, 3_000_000), 8;
    SyncError = "sync-error", "the next sync fails, so that the coordinator ends; it starts again after a while", Coordinator, false, (0, 5_000), NONE, 3;
}

impl Kind {
    /// The kind of this name
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// What it is called in schedules
    pub fn name(self) -> &'static str {
        self.dish().name
    }
}

/// How often each kind happened, and how often that had an effect
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// By kind
    pub fired: Vec<u64>,
    /// By kind
    pub hit: Vec<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally { fired: vec![0; Kind::ALL.len()], hit: vec![0; Kind::ALL.len()] }
    }
}

impl Tally {
    pub(crate) fn fire(&mut self, kind: Kind) {
        self.fired[kind as usize] += 1;
    }

    pub(crate) fn hit(&mut self, kind: Kind) {
        self.hit[kind as usize] += 1;
    }

    /// Adds another one
    pub fn add(&mut self, other: &Tally) {
        self.fired.iter_mut().zip(&other.fired).for_each(|(sum, n)| *sum += n);
        self.hit.iter_mut().zip(&other.hit).for_each(|(sum, n)| *sum += n);
    }

    /// How many kinds had an effect
    pub fn kinds_hit(&self) -> usize {
        self.hit.iter().filter(|count| **count > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name_and_its_row_is_sound() {
        for kind in Kind::ALL {
            let dish = kind.dish();
            assert_eq!(Kind::named(dish.name), Some(*kind));
            assert!(dish.span_ms.0 <= dish.span_ms.1 && dish.amount.0 <= dish.amount.1 && dish.per_minute > 0);
            assert!(!dish.directed || dish.scope == Scope::Link, "{} has a direction without a network", dish.name);
        }
    }
}
