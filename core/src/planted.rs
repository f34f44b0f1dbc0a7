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
    DedupByLife = 3, "what was counted in an earlier session or epoch is counted again";
    DialledTwice = 9, "a dial that is under way is begun again";
    NoHeartbeatAfterResume = 10, "nobody listens for silence on a connection that was resumed";
    ResumesTooLate = 13, "one message too few is sent again";
    AttemptReused = 20, "a task that is given out again keeps its attempt number";
    CancelledDispatched = 21, "a waiting task that was cancelled is given out";
    TagWithoutCounter = 24, "the place of a frame is not under its tag";
    TagCompared = 25, "a tag is compared on its first byte alone";
    InFlightTwice = 30, "recovery has work that is at a worker waiting as well";
    OwnSendsAreLife = 31, "what an end sends itself keeps the link alive";
    TokensReused = 32, "tokens start again where the last epoch began";
    TimerSpins = 34, "a timer that is due now is not fired";
    DrainDropsResults = 35, "a drained worker leaves before its results are settled";
}

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
