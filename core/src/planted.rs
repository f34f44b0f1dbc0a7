//! Bugs planted on purpose, to see whether the simulator finds them
//!
//! They exist only where `--cfg rejoin_planted` says so, and then the crate does not compile without debug assertions:
//! no build that anybody ships can have one. Which one is there is chosen while the program runs.

#[cfg(all(rejoin_planted, not(debug_assertions)))]
compile_error!("planted bugs are for tests alone: they need debug assertions");

macro_rules! bugs {
    ($($name:ident = $number:literal, $says:literal;)*) => {
        /// A bug that may be planted
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $(#[doc = $says] $name),*
        }

        impl Bug {
            /// All of them
            pub const ALL: &'static [Bug] = &[$(Bug::$name),*];

            /// Its number, and what is wrong
            pub const fn says(self) -> (u32, &'static str) {
                match self {
                    $(Bug::$name => ($number, $says)),*
                }
            }
        }
    };
}

bugs! {
    AckBeforeDurable = 1, "a result is settled before it is durable";
    ResultForgottenOnSend = 2, "a worker forgets a result once it is sent";
    DedupByLife = 3, "what was counted in an earlier session or epoch is counted again";
    DedupClearedOnReconnect = 4, "what was taken in and not yet acknowledged is taken in again on a new connection";
    DedupByCount = 5, "of the tasks that have ended only the newest few are known when they are submitted again";
    StaleTokenAccepted = 6, "the result of a newer attempt replaces the outcome that retired it";
    OldConnectionCounts = 7, "a connection that was replaced is not closed, and what comes on it still counts";
    LateCloseKills = 8, "the end of a connection that was replaced is taken for the end of the current one";
    DialledTwice = 9, "a dial that is under way is begun again";
    NoHeartbeatAfterResume = 10, "nobody listens for silence on a connection that was resumed";
    SilenceWhileWriting = 11, "a link is not found silent while anything sent on it is not acknowledged";
    ResumesTooEarly = 12, "one message too many is sent again";
    ResumesTooLate = 13, "one message too few is sent again";
    AckOfReceived = 14, "a message is acknowledged when it is received, before it is durable";
    NoJitter = 15, "peers that failed alike dial again at the same time";
    ResetOnConnect = 16, "a transport that opens makes the next loss a first one again";
    BackoffWraps = 17, "the pause between two dials doubles until its bits are gone";
    LeaseFromEcho = 18, "a lease counts from when its renewal arrives, and not from when that was asked for";
    ComparedShort = 19, "numbers are compared on their last byte";
    AttemptReused = 20, "a task that is given out again keeps its attempt number";
    CancelledDispatched = 21, "a waiting task that was cancelled is given out";
    StaleCheckpoint = 22, "a checkpoint of an attempt that was replaced takes the place of a newer one";
    PartialCheckpoint = 23, "a checkpoint can be seen before its last piece";
    TagWithoutCounter = 24, "the place of a frame is not under its tag";
    TagCompared = 25, "a tag is compared on its first byte alone";
    LengthTrusted = 26, "a length in a handshake message is believed before it is looked at";
    DecompressesAll = 27, "a body is decompressed to whatever length it has";
    LogUnbounded = 28, "messages wait for acknowledgement without a bound";
    Starvation = 29, "a task does not become more urgent while it waits";
    InFlightTwice = 30, "recovery has work that is at a worker waiting as well";
    OwnSendsAreLife = 31, "what an end sends itself keeps the link alive";
    TokensReused = 32, "tokens start again where the last epoch began";
    UnorderedDispatch = 33, "which of several idle workers gets a task depends on more than what happened";
    TimerSpins = 34, "a timer that is due now is not fired";
    DrainDropsResults = 35, "a drained worker leaves before its results are settled";
    ResumesExpired = 36, "a session goes on that had ended before its peer came back";
    AssignmentForgotten = 37, "a worker takes an assignment in and forgets it";
    RetiredUntold = 38, "a worker is not told that an attempt of its own was retired";
}

impl Bug {
    /// The bug of this number
    pub fn numbered(number: u32) -> Option<Bug> {
        Bug::ALL.iter().copied().find(|bug| bug.says().0 == number)
    }
}

/// Bugs of what is not built yet: number, what would be wrong, and what it waits for
pub const WAITING: &[(u32, &str, &str)] = &[];

/// Bugs whose smallest known schedules need several faults together, or a fault and a setting, and what these are
///
/// The schedules are in `sim/planted`; `rejoin sim mutants` sees that each fails, and with one fault or setting less does not.
pub const TOGETHER: &[(Bug, &str)] = &[
    (Bug::DedupByLife, "an attempt fails, and the coordinator restarts before its worker learns that this was counted"),
    (Bug::NoJitter, "links of two peers at least break, again and again"),
    (Bug::ResetOnConnect, "a link breaks, and the one that follows breaks as well"),
    (Bug::BackoffWraps, "dials fail for long, and the longest pause is set to be short"),
    (Bug::LeaseFromEcho, "answers are long under way, and then nothing reaches the coordinator any more"),
    (Bug::StaleCheckpoint, "a worker is taken for lost and comes back, and both attempts make checkpoints"),
    (Bug::LengthTrusted, "a link breaks, and a length is altered in the handshake that follows"),
    (Bug::Starvation, "more urgent tasks come while the coordinator is away, and ageing is set to be fast"),
    (Bug::DrainDropsResults, "a worker is told to leave while all are cut off one after another, and syncs are slow"),
    (
        Bug::RetiredUntold,
        "the coordinator's disk is full, a client's late link comes and goes, and nothing of a worker arrives for a while",
    ),
];

#[cfg(rejoin_planted)]
static CHOSEN: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

/// Plants a bug in this process; none with `None`
#[cfg(rejoin_planted)]
pub fn plant(bug: Option<Bug>) {
    CHOSEN.store(bug.map_or(0, |bug| bug.says().0), core::sync::atomic::Ordering::Relaxed);
}

/// Whether this bug is there
#[cfg(rejoin_planted)]
pub(crate) fn is(bug: Bug) -> bool {
    CHOSEN.load(core::sync::atomic::Ordering::Relaxed) == bug.says().0
}

/// Whether this bug is there: never, where none can be
#[cfg(not(rejoin_planted))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

/// A number that no state determines, as the seed of a hash map is
#[cfg(rejoin_planted)]
pub(crate) fn whim() -> usize {
    static CALLS: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(0);
    CALLS.fetch_add(1, core::sync::atomic::Ordering::Relaxed)
}

/// A number that no state determines: there is none
#[cfg(not(rejoin_planted))]
pub(crate) const fn whim() -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_up_to_38_is_planted_or_waits_once() {
        let planted = Bug::ALL.iter().map(|bug| bug.says().0);
        let mut all: alloc::vec::Vec<u32> = planted.chain(WAITING.iter().map(|(number, ..)| *number)).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(1..=38));
        assert!(Bug::ALL.iter().all(|bug| Bug::numbered(bug.says().0) == Some(*bug)));
    }
}
