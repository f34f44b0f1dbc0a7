//! Which variants there are: a new one does not compile until it is named here, and then wants a vector

use std::collections::BTreeSet;

use rejoin_core::about::Tag;
use rejoin_core::journal::Record;
use rejoin_core::terms::{Class, OnReturn, Replace};
use rejoin_core::wire::handshake::{Refusal, RejectCode};
use rejoin_core::wire::message::{
    CancelReason, CheckpointRefused, Control, Denied, Failure, Follow, FromClient, FromWorker, Held, Outcome, Refused,
    Settlement, Stream, ToClient, ToWorker, Verdict,
};
use rejoin_core::wire::view::{Forgetting, Question, Why, WorkerState};

/// An enum whose variants are counted
pub(crate) trait Variants {
    const TYPE: &'static str;
    const ALL: &'static [&'static str];

    fn variant(&self) -> &'static str;
}

macro_rules! variants {
    ($($name:ident $(<$life:lifetime>)?: $($variant:ident)*;)*) => {$(
        impl Variants for $name $(<$life>)? {
            const TYPE: &'static str = stringify!($name);
            const ALL: &'static [&'static str] = &[$(stringify!($variant)),*];

            fn variant(&self) -> &'static str {
                match self {
                    $($name::$variant { .. } => stringify!($variant)),*
                }
            }
        }
    )*};
}

variants! {
    Control: Welcome Denied Confirm Begin Ack Credit Beat Echo Bye Lease Digest Compare GoAway Mtbf NextKey;
    FromWorker<'_>: Inventory Running Result GivenBack Output Offers Draining Checkpoint Offer Piece RestoreNeed RestoreBad Holdings LargeResult;
    ToWorker<'_>: Assign Cancel Recall Verdict Settled Kept Restore Checkpointed Drain Need RestoreOffer RestorePiece AssignUnder AssignLarge;
    FromClient<'_>: Submit Watch Cancel Taken Ask SubmitLarge InputPiece;
    ToClient<'_>: Accepted Refused Progress Output Outcome Answer Forgotten LargeOutcome InputNeed;
    Record<'_>: Epoch Tokens Submit Assign Result Cancel Forget Output Checkpoint Piece Chunk Manifest Unreadable Gone Forgotten Lapsed Lease Restored SubmitLarge;
    CheckpointRefused: Stale TooLarge Full Damaged;
    Follow: Acceptance Outcome Output;
    Question: Status Workers Tasks Task Drain Terms Brake Checkpoints CheckpointPiece DropCheckpoints Forget RotateKey;
    Forgetting: Done Open Unknown;
    Why: NotDurable NoWorker NothingFits WorkersBusy Pausing WaitsToRunAlone AtWorker Runs WorkerAway Ended LeaseHeld;
    WorkerState: Unknown Connected Suspect Draining Disconnected Lost Flapping Revoked;
    Tag: Label Amount;
    Denied: Revoked Removed TakenOver Version Config Busy Protocol Spent;
    Outcome: Succeeded Failed Cancelled;
    Failure: Exit Signal TimedOut CannotStart OutputTooLarge ResultTooLarge Poisonous WorkerLost Error Stalled;
    Class: Pure Idempotent Exclusive;
    Replace: Never WhenLost After;
    OnReturn: FirstResult KeepReplacement;
    Held: Waiting Running Finished;
    CancelReason: Requested Replaced;
    Verdict: Keep SendResult Discard;
    Settlement: Applied Duplicate Stale;
    Stream: Out Err;
    Refused: Conflict Unknown Full TooLarge BadSpec Damaged;
    Refusal: RetryAfter Reject;
    RejectCode: Malformed UnknownKey Version Unbound Audience;
}

/// Passes on values that have every variant of their type among them
pub(crate) fn every<T: Variants, const N: usize>(values: [T; N]) -> [T; N] {
    let have: BTreeSet<_> = values.iter().map(Variants::variant).collect();
    let want: BTreeSet<_> = T::ALL.iter().copied().collect();
    assert_eq!(have, want, "every variant of {} has a vector", T::TYPE);
    values
}
