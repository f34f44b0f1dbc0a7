//! Where a connection stands, and how it got there

use core::fmt;

use crate::ids::ClusterId;
use crate::limits::{WIRE_VERSION, WIRE_VERSION_OLDEST};
use crate::wire::message::Denied;

/// Where the connection of a worker or client stands
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// No connection; the next dial has its time
    Waiting,
    /// The transport is being opened
    Connecting,
    /// M1 is on its way, M2 is awaited
    Greeting,
    /// M3 is on its way, the welcome is awaited
    Proving,
    /// Welcomed to a new session: both sides compare what they hold
    Reconciling,
    /// Work goes on
    Connected,
    /// Stopped for good
    Stopped,
}

/// What can happen to a connection
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkStep {
    Dial,
    Opened,
    Challenged,
    /// Into a session in which both sides know what the other holds
    Resumed,
    /// Into one in which they do not, yet
    Anew,
    Reconciled,
    Lost,
    Stop,
}

impl LinkState {
    /// The table of transitions; `None` is refused
    pub(crate) const fn after(self, step: LinkStep) -> Option<LinkState> {
        use LinkState as S;
        use LinkStep as T;
        match (self, step) {
            (S::Waiting, T::Dial) => Some(S::Connecting),
            (S::Connecting, T::Opened) => Some(S::Greeting),
            (S::Greeting, T::Challenged) => Some(S::Proving),
            (S::Proving, T::Resumed) => Some(S::Connected),
            (S::Proving, T::Anew) => Some(S::Reconciling),
            (S::Reconciling, T::Reconciled) => Some(S::Connected),
            (S::Connecting | S::Greeting | S::Proving | S::Reconciling | S::Connected, T::Lost) => Some(S::Waiting),
            (S::Stopped, T::Stop) => None,
            (_, T::Stop) => Some(S::Stopped),
            _ => None,
        }
    }
}

/// Why this end gives a connection up
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing authenticated was heard for 2.5 heartbeat periods (LIVE-2)
    Silence,
    /// The transport did not open, or the handshake did not end, in time (AUTH-5)
    Timeout,
    /// The peer could not prove who it is (AUTH-2)
    NotAuthenticated,
    /// A frame was damaged on the way (FRAME-2)
    BadTag,
    /// A sealed frame broke the rules (FRAME-2)
    Protocol,
    /// The coordinator asked to come back later (BACK-2)
    RetryAfter,
    /// The coordinator rejected the handshake, without proof of who it is
    Rejected,
    /// The two ends have no wire version in common; without proof of who says so (FRAME-6)
    Version,
    /// One end wants the handshake to be bound to TLS, and it cannot be (AUTH-7)
    Unbound,
    /// The coordinator is not to be reached by the URL that was dialled (AUTH-7)
    Audience,
    /// The coordinator refused this peer, under seal (AUTH-2)
    Denied(Denied),
    /// The coordinator's epoch is lower than one seen before: its journal is an old one (JOURN-2)
    OldCoordinator {
        /// The epoch that it is in
        epoch: u64,
        /// The highest one that was seen
        seen: u64,
    },
    /// The coordinator is of another cluster than the one that this end belongs to (JOURN-2)
    OtherCluster {
        /// The one that it belongs to
        known: ClusterId,
    },
    /// A newer connection of the same session took over (AUTH-4)
    Superseded,
    /// Too many handshakes at once; the oldest goes (AUTH-5)
    Crowded,
    /// The coordinator stops
    Stopping,
    /// The coordinator ends by plan, and has said when to come back (BACK-3)
    GoingAway,
    /// The dialling end has left for good, by its own will (TASK-8)
    Left,
    /// The dialling end has another key now, and comes back with that (AUTH-6)
    Rekeyed,
}

impl Reason {
    /// The WebSocket close code that says it
    ///
    /// 4000 to 4499 invite to come back; 4500 and above mean it only behind a sealed refusal.
    pub fn close_code(self) -> u16 {
        match self {
            Reason::Stopping | Reason::GoingAway | Reason::Superseded | Reason::Left | Reason::Rekeyed => 4000,
            Reason::Crowded | Reason::RetryAfter => 4001,
            Reason::Silence | Reason::Timeout => 4003,
            Reason::NotAuthenticated
            | Reason::Rejected
            | Reason::Version
            | Reason::Unbound
            | Reason::Audience
            | Reason::OldCoordinator { .. }
            | Reason::OtherCluster { .. } => 4100,
            Reason::BadTag => 4101,
            Reason::Protocol | Reason::Denied(Denied::Protocol | Denied::Busy { .. }) => 4102,
            Reason::Denied(_) => 4500,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Version => {
                return write!(
                    f,
                    "the two ends have no wire version in common (this one can speak {WIRE_VERSION_OLDEST} to \
                     {WIRE_VERSION}): bring the older one of the two programs up to the release of the other, or one \
                     that still speaks its version, and see that neither is held at a version by --wire-version"
                );
            }
            Reason::OldCoordinator { epoch, seen } => {
                return write!(
                    f,
                    "the coordinator's journal is older than what was seen here (epoch {epoch}, and {seen} was seen): \
                     work that was accepted in between is not in it; stop that coordinator, and either put the right \
                     journal back or start it with --restored"
                );
            }
            Reason::OtherCluster { known } => {
                return write!(
                    f,
                    "the coordinator is of another cluster than this end, which belongs to {known}: dial the right one; \
                     one that has lost its journal is to be started with --restored and --cluster {known}"
                );
            }
            Reason::Silence => "nothing was heard for too long",
            Reason::Timeout => "no answer in time",
            Reason::NotAuthenticated => {
                "the other end could not prove who it is: check that the key is of this cluster, and that nothing in \
                 between ends TLS unless channel binding is off"
            }
            Reason::BadTag => "a frame was damaged on the way",
            Reason::Protocol => "a sealed frame broke the rules: check that both ends are of one version",
            Reason::RetryAfter => "the coordinator is busy",
            Reason::Unbound => {
                "channel binding is required and cannot be had: both ends must speak TLS, with nothing in between that \
                 ends it, and neither may have binding off"
            }
            Reason::Audience => {
                "the coordinator is not to be reached by this URL: dial its public URL, or have this one added there"
            }
            Reason::Rejected => "the coordinator does not know this key: add it to its keys file, or use another",
            Reason::Denied(Denied::Revoked) => "its key has been revoked: get a new one",
            Reason::Denied(Denied::Removed) => "it was removed by an operator",
            Reason::Denied(Denied::TakenOver) => "another holder of the same key has taken its place",
            Reason::Denied(Denied::Version) => {
                "the wire version that both ends speak is too old for a join token: use a newer release there, or a \
                 key of `rejoin key new` in its place"
            }
            Reason::Denied(Denied::Config) => "its settings contradict the coordinator's",
            Reason::Denied(Denied::Busy { .. }) => "another holder of the same key is connected and answers",
            Reason::Denied(Denied::Spent) => "the join token's time is over, or it was tried too often: get a new one",
            Reason::Denied(Denied::Protocol) => "the coordinator says that a rule was broken",
            Reason::Superseded => "a newer connection has taken over",
            Reason::Crowded => "too many others connect at once",
            Reason::Stopping => "the coordinator stops",
            Reason::GoingAway => "the coordinator is restarted, and has said when to come back",
            Reason::Left => "it has left",
            Reason::Rekeyed => "it comes back with its new key",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::string::ToString;

    #[test]
    fn every_state_and_step_of_a_link_is_legal_or_refused_as_the_table_says() {
        use LinkState as S;
        use LinkStep as T;
        let states = [S::Waiting, S::Connecting, S::Greeting, S::Proving, S::Reconciling, S::Connected, S::Stopped];
        let steps = [T::Dial, T::Opened, T::Challenged, T::Resumed, T::Anew, T::Reconciled, T::Lost, T::Stop];
        let none = None;
        let stop = Some(S::Stopped);
        let wait = Some(S::Waiting);
        let table = [
            [Some(S::Connecting), none, none, none, none, none, none, stop],
            [none, Some(S::Greeting), none, none, none, none, wait, stop],
            [none, none, Some(S::Proving), none, none, none, wait, stop],
            [none, none, none, Some(S::Connected), Some(S::Reconciling), none, wait, stop],
            [none, none, none, none, none, Some(S::Connected), wait, stop],
            [none, none, none, none, none, none, wait, stop],
            [none; 8],
        ];
        for (state, row) in states.into_iter().zip(table) {
            for (step, expected) in steps.into_iter().zip(row) {
                assert_eq!(state.after(step), expected, "{state:?} × {step:?}");
            }
        }
    }

    #[test]
    fn every_reason_has_its_close_code_and_words_of_its_own() {
        use Denied as D;
        use Reason as R;
        let other = R::OtherCluster { known: ClusterId([1; 16]) };
        let busy = R::Denied(D::Busy { retry_after_us: 1 });
        let denied = [D::Revoked, D::Removed, D::TakenOver, D::Version, D::Config].map(R::Denied);
        let table: [(u16, &[Reason]); 7] = [
            (4000, &[R::Stopping, R::GoingAway, R::Superseded, R::Left, R::Rekeyed]),
            (4001, &[R::Crowded, R::RetryAfter]),
            (4003, &[R::Silence, R::Timeout]),
            (4100, &[R::NotAuthenticated, R::Rejected, R::Version, R::OldCoordinator { epoch: 3, seen: 7 }, other]),
            (4101, &[R::BadTag]),
            (4102, &[R::Protocol, R::Denied(D::Protocol), busy]),
            (4500, &denied),
        ];
        let mut words = BTreeSet::new();
        for (code, reason) in table.iter().flat_map(|(code, reasons)| reasons.iter().map(move |r| (*code, *r))) {
            assert_eq!(reason.close_code(), code, "{reason:?}");
            assert!(words.insert(reason.to_string()), "{reason:?} reads like another one");
            // Who is told 4500 is not to come back, and that is so behind a final refusal alone (AUTH-2).
            let is_final = matches!(reason, R::Denied(denied) if denied.is_final());
            assert_eq!(code >= 4500, is_final, "{reason:?}");
        }
    }
}
