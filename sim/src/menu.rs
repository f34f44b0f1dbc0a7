//! What can break: the menu of faults, a row for each
//!
//! The row says who is struck, what the numbers of a fault mean, and from which range they are drawn. What a fault does
//! is in `simulation/faults/`. Each kind has a mark beside its count: that it not only happened, but had an effect.

use crate::draws::mix;

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

/// Faults of WebSockets: virtual sockets have none, so that only a proxy in front of real ones can do these
pub const OF_WEBSOCKETS: [&str; 9] = [
    "close-frame",
    "fragment",
    "http-status",
    "no-pong",
    "ping",
    "reserved-bits",
    "reset-frame",
    "segment",
    "wrong-mask",
];

menu! {
    // What the network is like.
    Delay = "delay", "bytes take so many microseconds more", Link, true, (100, 20_000), (1_000, 2_000_000), 8;
    Jitter = "jitter", "bytes take up to so many microseconds more, drawn anew for each piece", Link, true, (100, 20_000), (1_000, 1_000_000), 8;
    Exponential = "exponential", "bytes take more by an exponential law with a mean of so many microseconds", Link, true, (100, 20_000), (1_000, 500_000), 5;
    LogNormal = "log-normal", "bytes take more by a log-normal law with a median of so many microseconds", Link, true, (100, 20_000), (1_000, 200_000), 5;
    Pareto = "pareto", "bytes take at least so many microseconds more, now and then very many", Link, true, (100, 20_000), (1_000, 100_000), 5;
    Bimodal = "bimodal", "one piece in eight takes so many microseconds more", Link, true, (100, 20_000), (1_000, 2_000_000), 5;
    Ramp = "ramp", "bytes take more and more, up to so many microseconds", Link, true, (1_000, 30_000), (10_000, 2_000_000), 5;
    Far = "far", "bytes take so many microseconds more both ways, for good", Link, false, NONE, (1_000, 400_000), 2;
    Bandwidth = "bandwidth", "so many bytes per second get through", Link, true, (500, 20_000), (500, 1_000_000), 6;
    Bloat = "bloat", "so many bytes per second get through, and a buffer in front takes everything else in", Link, true, (500, 15_000), (500, 300_000), 4;
    Drip = "drip", "bytes arrive one by one, so many microseconds apart", Link, true, (500, 15_000), (10, 20_000), 4;
    Rechunk = "rechunk", "bytes arrive in pieces of so many", Link, true, (1_000, 30_000), (1, 64), 6;
    Stall = "stall", "nothing arrives for a while, then everything at once", Link, true, (50, 10_000), NONE, 10;
    Partition = "partition", "nothing arrives in either direction, and dials hang", Link, false, (100, 15_000), NONE, 6;
    Split = "split", "so many thousandths of all peers are cut off from the coordinator", Coordinator, false, (100, 12_000), (100, 1_000), 2;
    Swizzle = "swizzle", "so many peers are cut off one after another, and come back in another order", Coordinator, false, (1_000, 15_000), (2, 8), 2;
    Flap = "flap", "the connection breaks again and again: each half, whole or double heartbeat, as the amount is 0, 1 or 2", Link, false, (2_000, 20_000), (0, 2), 2;
    Blocked = "blocked", "the sender's buffer is full", Link, true, (50, 10_000), NONE, 6;
    // What connections suffer.
    Reset = "reset", "the connection breaks, and both ends learn it", Link, false, NONE, NONE, 20;
    MassReset = "mass-reset", "the connections of so many thousandths of all peers break at once", Coordinator, false, NONE, (100, 1_000), 2;
    ResetAfter = "reset-after", "the connection breaks behind so many more bytes", Link, true, NONE, (1, 20_000), 12;
    Close = "close", "the connection ends behind what is under way", Link, false, NONE, NONE, 8;
    HalfClose = "half-close", "one end learns that no more will come, and closes in its turn", Link, true, NONE, NONE, 6;
    CutSeenBy = "cut-seen-by", "the connection breaks, and only one end ever learns it", Link, true, NONE, NONE, 8;
    LateClose = "late-close", "the connection breaks, one end learns it at once and the other one later", Link, true, (1, 20_000), NONE, 8;
    HalfOpen = "half-open", "nothing more arrives at one end, and nobody is told", Link, true, NONE, NONE, 8;
    Dead = "dead", "nothing more arrives at either end, and nobody is told", Link, false, NONE, NONE, 6;
    Refuse = "refuse", "dials are refused", Link, false, (100, 15_000), NONE, 6;
    Hang = "hang", "dials hang", Link, false, (100, 15_000), NONE, 5;
    SlowDial = "slow-dial", "dials take so many microseconds more", Link, false, (500, 15_000), (10_000, 9_000_000), 5;
    Mute = "mute", "dials open, and nothing ever arrives at either end", Link, false, (100, 8_000), NONE, 4;
    AcceptReset = "accept-reset", "connections break so many microseconds after they opened", Link, false, (100, 8_000), (1, 100_000), 6;
    Ghost = "ghost", "what the connection before had under way arrives beside the new one", Link, false, NONE, NONE, 10;
    // What bytes and messages suffer.
    Flip = "flip", "the bit of that number in the next bytes is flipped", Link, true, NONE, (0, 4_000), 8;
    Scramble = "scramble", "in the next bytes the one at that place and its neighbour change places", Link, true, NONE, (0, 500), 5;
    Snip = "snip", "so many of the next bytes are missing", Link, true, NONE, (1, 200), 6;
    Truncate = "truncate", "so many bytes are missing at the end of the next message", Link, true, NONE, (1, 200), 5;
    Insert = "insert", "so many bytes come in front of the next ones", Link, true, NONE, (1, 200), 6;
    Lie = "lie", "the next message says that it is so many bytes longer than it is", Link, true, NONE, (1, 100_000), 5;
    Drop = "drop", "the next message is missing", Link, true, NONE, NONE, 8;
    Duplicate = "duplicate", "the next message comes twice", Link, true, NONE, NONE, 8;
    Swap = "swap", "the next two messages change their order", Link, true, NONE, NONE, 8;
    Hold = "hold", "the next message of one kind, and all behind it, comes later: 0 handshake, 1 welcome, 2 ack, 3 heartbeat, 4 work", Link, true, (10, 12_000), (0, 4), 8;
    Replay = "replay", "a message that went so many before the next one comes again", Link, true, NONE, (1, 30), 8;
    Splice = "splice", "a message of another peer, so many further, comes in front of the next one", Link, true, NONE, (1, 7), 6;
    Downgrade = "downgrade", "somebody on the way takes capabilities or versions out of the next greeting", Link, false, NONE, (0, 1), 5;
    Regreet = "regreet", "the next greeting comes twice, and its first answer is lost on the way", Link, false, NONE, NONE, 6;
    Stranger = "stranger", "somebody without a key connects and says so many bytes of nothing", Coordinator, false, NONE, (0, 9_000), 6;
    Impostor = "impostor", "somebody without a key says again, on a connection of his own, the first so many messages of a peer", Link, false, NONE, (1, 16), 5;
    Rogue = "rogue", "somebody with a key of his own says what nobody may say, of that kind", Coordinator, false, NONE, (0, 12), 5;
    // What befalls nodes.
    Crash = "crash", "a worker ends with all it knew but for its store, and starts again after a while", Worker, false, (0, 20_000), NONE, 6;
    CrashLoop = "crash-loop", "for a while, a worker ends so many microseconds after each start", Worker, false, (500, 6_000), (1_000, 2_000_000), 1;
    CrashResuming = "crash-resuming", "a worker ends so many microseconds after its next connection opened", Worker, false, (0, 3_000), (0, 20_000), 5;
    MassCrash = "mass-crash", "so many thousandths of all workers end, and start again within a while", Coordinator, false, (0, 10_000), (100, 1_000), 1;
    Restart = "restart", "the coordinator ends, so many of its unsynced records survive, and it starts again after a while", Coordinator, false, (0, 10_000), (0, 5), 6;
    RestartAgain = "restart-again", "the coordinator ends so many microseconds after its next start, and starts again after a while", Coordinator, false, (0, 2_000), (0, 2_000_000), 4;
    Pause = "pause", "a process stands still for a while", Anybody, false, (100, 30_000), NONE, 6;
    Slow = "slow", "a process runs only every other span of so many microseconds", Anybody, false, (500, 20_000), (10_000, 800_000), 4;
    Snapshot = "snapshot", "a worker is put back after a while to what it was now", Worker, false, (10, 15_000), NONE, 3;
    Clone = "clone", "another process with a worker's key runs beside it for a while", Worker, false, (100, 15_000), NONE, 3;
    WrongKey = "wrong-key", "a worker starts anew with a wrong secret, and after a while with the right one", Worker, false, (100, 10_000), NONE, 2;
    Rekey = "rekey", "a worker's key is revoked, and after a while it starts anew with another one", Worker, false, (100, 10_000), NONE, 2;
    Token = "token", "a worker's key is revoked, and after a while it starts anew with a join token; each end takes so many microseconds to keep the key that follows", Worker, false, (100, 10_000), (0, 2_000_000), 3;
    Rotate = "rotate", "a connected worker is given another key, which each end takes so many microseconds to keep", Worker, false, NONE, (0, 2_000_000), 4;
    Drain = "drain", "a worker is told to leave in order, and starts again after a while", Worker, false, (100, 20_000), NONE, 3;
    Upgrade = "upgrade", "a worker ends, and starts again after a while with wire version so many", Worker, false, (0, 10_000), (1, 2), 3;
    PlannedRestart = "planned-restart", "the coordinator tells everybody when to come back, ends, and starts again after a while", Coordinator, false, (0, 10_000), NONE, 3;
    Roll = "roll", "the coordinator ends, and starts again after a while with wire version so many", Coordinator, false, (0, 5_000), (1, 2), 2;
    Frozen = "frozen", "what is broken at a worker when all else heals stays so until everything else has come to rest", Worker, false, NONE, NONE, 3;
    // What befalls clocks.
    ClockStep = "clock-step", "the clock jumps ahead by so many microseconds", Anybody, false, NONE, (1_000, 3_600_000_000), 4;
    ClockBack = "clock-back", "the clock jumps back by so many microseconds", Anybody, false, NONE, (1_000, 30_000_000), 3;
    ClockAge = "clock-age", "the clock jumps ahead by so many days", Anybody, false, NONE, (1, 10_000), 1;
    Drift = "drift", "the clock runs so many thousandths fast", Anybody, false, (1_000, 60_000), (1, 100), 3;
    DriftSlow = "drift-slow", "the clock runs so many thousandths slow", Anybody, false, (1_000, 60_000), (1, 100), 3;
    Wander = "wander", "the clock runs fast, then slow, then fast, by so many thousandths", Anybody, false, (2_000, 60_000), (1, 300), 3;
    Suspend = "suspend", "a process stands still for a while, and so does its clock", Anybody, false, (100, 30_000), NONE, 4;
    Coarse = "coarse", "the clock shows whole multiples of so many microseconds", Anybody, false, (1_000, 60_000), (1_000, 15_600), 3;
    LateTimers = "late-timers", "a process is woken so many microseconds late", Anybody, false, (500, 20_000), (100, 1_000_000), 4;
    // What befalls the store.
    SlowSync = "slow-sync", "a sync takes so many microseconds more", Coordinator, false, (100, 15_000), (1_000, 3_000_000), 6;
    SyncError = "sync-error", "the next sync fails, so that the coordinator ends; it starts again after a while", Coordinator, false, (0, 5_000), NONE, 3;
    DiskFull = "disk-full", "for a while every sync fails, and the coordinator with it", Coordinator, false, (100, 4_000), NONE, 1;
    RestoreOld = "restore-old", "the coordinator ends, its store goes back to what was durable so many microseconds before, and after a while it starts as restored", Coordinator, false, (0, 5_000), (100_000, 60_000_000), 1;
    Wipe = "wipe", "the coordinator ends, its store is lost, and after a while it starts as restored on an empty one", Coordinator, false, (0, 5_000), NONE, 1;
    OldStore = "old-store", "for a while, a coordinator runs on a copy of the store that is so many microseconds old, and of epochs that are long past", Coordinator, false, (500, 10_000), (0, 30_000_000), 1;
    ReadError = "read-error", "for a while nothing can be read, so that no coordinator starts", Coordinator, false, (100, 6_000), NONE, 2;
    WipeStore = "wipe-store", "a worker ends, and starts again after a while with an empty store", Worker, false, (0, 10_000), NONE, 4;
    SwapStores = "swap-stores", "a worker and the next one end, and start again after a while with each other's store, which is refused, or taken nonetheless if the amount is odd", Worker, false, (0, 10_000), (0, 1), 4;
    OldSpool = "old-spool", "after a while a worker ends, and starts again with the store that it had now", Worker, false, (10, 15_000), NONE, 4;
    StoreFull = "store-full", "for a while a worker's store takes nothing more than there is room reserved for", Worker, false, (100, 15_000), NONE, 4;
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

    /// Whether it waits for a message, and may let others go before
    pub fn is_of_messages(self) -> bool {
        let all = [
            Kind::Truncate,
            Kind::Lie,
            Kind::Drop,
            Kind::Duplicate,
            Kind::Swap,
            Kind::Hold,
            Kind::Replay,
            Kind::Splice,
        ];
        all.contains(&self)
    }

    /// Whether it takes away what was promised, so that few seeds are to have it
    pub(crate) fn is_drastic(self) -> bool {
        [Kind::RestoreOld, Kind::Wipe, Kind::OldStore].contains(&self)
    }

    /// Whether it means something only where workers keep what they have finished
    pub(crate) fn is_of_stores(self) -> bool {
        matches!(self, Kind::WipeStore | Kind::SwapStores | Kind::OldSpool | Kind::StoreFull)
    }

    /// Its stream of draws; from its name, so that a new kind moves no other
    pub(crate) fn stream(self) -> u64 {
        self.name().bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)))
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
            let twins = Kind::ALL.iter().filter(|other| other.stream() == kind.stream());
            assert_eq!(twins.count(), 1, "{} would be drawn as another one is", dish.name);
        }
    }
}
