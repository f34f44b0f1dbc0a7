//! One authenticated connection, seen from either end: frames, heartbeats, acknowledgements and credit
//!
//! A channel lives as long as its connection. What outlives it is the [`Session`](crate::session::Session).

use core::time::Duration;

use crate::heartbeat::{Heartbeat, Pulse};
use crate::limits::{BULK_WINDOW_BYTES, BULK_WINDOW_BYTES_MIN, HEARTBEAT_MAX, HEARTBEAT_MIN, SESSION_UNACKED_MAX};
use crate::outline::Outline;
use crate::pace::Pace;
use crate::pins::Pins;
use crate::planted::{self, Bug};
use crate::rng::Rng;
use crate::session::{Log, Session};
use crate::stats::LawStats;
use crate::time::{Instant, earliest, micros};
use crate::wire::codec::{Codec, HEADER_BYTES, OpenError, Scratch};
use crate::wire::message::{BodyWriter, Class, Control, Credit};

/// A sealed frame broke the rules (FRAME-2)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation;

/// One end of one connection
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    codec: Codec,
    /// The wire version that both ends speak here (FRAME-6)
    pub(crate) version: u16,
    heartbeat: Option<Heartbeat>,
    writable: bool,
    beat: bool,
    /// A beat is due that asks whether bulk has arrived
    mark: bool,
    echo: Option<u64>,
    ack: bool,
    /// How much may come beyond what has been dealt with
    bulk_window: u64,
    bulk_granted: u64,
    pace: Pace,
    pins: Pins,
    bulk_arrived: u64,
    bulk_used: u64,
    told: Credit,
    /// Last round trip of a heartbeat, in microseconds
    pub(crate) rtt_us: Option<u64>,
    /// When the newest heartbeat that was echoed had left
    pub(crate) echoed: Option<Instant>,
    /// From when on a lease counts that the newest echo has renewed (TASK-4)
    pub(crate) renewed: Option<Instant>,
    /// A heartbeat has left, and no digest behind it yet (SESS-8)
    pub(crate) digest_due: bool,
}

impl Channel {
    /// Starts a channel on which `bulk_granted` bytes of bulk may be sent for now
    pub(crate) fn new(mut codec: Codec, version: u16, bulk_granted: u64, pins: Pins) -> Self {
        codec.compress_from(pins.compress_from);
        Channel {
            codec,
            version,
            heartbeat: None,
            writable: true,
            beat: false,
            mark: false,
            echo: None,
            ack: false,
            bulk_window: BULK_WINDOW_BYTES,
            bulk_granted,
            pace: Pace::new(pins),
            pins,
            bulk_arrived: 0,
            bulk_used: 0,
            told: Credit::default(),
            rtt_us: None,
            echoed: None,
            renewed: None,
            digest_due: false,
        }
    }

    /// Starts to watch the link; the end that dialled beats (LIVE-1)
    pub(crate) fn watch(&mut self, now: Instant, period: Duration, beats: bool, rng: &mut Rng) {
        let period = period.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
        self.heartbeat = Some(Heartbeat::new(now, period, beats, self.pins.suspect_after, rng));
    }

    pub(crate) fn set_writable(&mut self, writable: bool) {
        self.writable = writable;
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Bytes of an unfinished frame have come in (LIVE-2)
    pub(crate) fn arriving(&mut self, now: Instant) {
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.arriving(now);
        }
    }

    /// Whether the peer has been silent for longer than is usual with it, and was asked (LIVE-3)
    pub(crate) fn is_suspect(&self) -> bool {
        self.heartbeat.as_ref().is_some_and(Heartbeat::is_suspect)
    }

    /// Whether this end has not looked for a long time; said until [`Self::expire`] (LIVE-5)
    pub(crate) fn is_stalled(&mut self, now: Instant) -> bool {
        self.heartbeat.as_mut().is_some_and(|heartbeat| heartbeat.is_stalled(now))
    }

    /// Asks the peer for a sign of life
    pub(crate) fn probe(&mut self) {
        self.beat = true;
    }

    /// Verifies and opens a frame; a good one is life (LIVE-1)
    pub(crate) fn open<'a>(
        &mut self,
        now: Instant,
        frame: &'a [u8],
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], OpenError> {
        let body = self.codec.open(frame, scratch)?;
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.heard(now);
        }
        Ok(body)
    }

    /// Seals the body that stands in `frame` behind the room for the header
    pub(crate) fn seal(&mut self, frame: &mut [u8], body_len: usize, scratch: &mut Scratch) -> usize {
        self.codec.seal(frame, body_len, scratch)
    }

    /// Takes in what both ends may say to each other; `None` is a message for one end only
    pub(crate) fn control<L: Log>(
        &mut self,
        now: Instant,
        control: &Control,
        session: &mut Session<L>,
    ) -> Result<Option<Credit>, Violation> {
        let credit = match *control {
            Control::Ack { received } => {
                session.acknowledge(received).map_err(|_| Violation)?;
                return Ok(None);
            }
            Control::Credit(credit) => credit,
            Control::Beat { stamp, credit } => {
                self.echo = Some(stamp);
                credit
            }
            Control::Echo { stamp, credit } => {
                self.rtt_us = Some(now.as_micros().saturating_sub(stamp));
                if let Some(found) = self.pace.echoed(now, stamp) {
                    session.bulk_found(found);
                }
                self.mark |= self.pace.wants_mark();
                self.echoed = self.echoed.max(Some(Instant::from_micros(stamp).min(now)));
                self.renewed = if planted::is(Bug::LeaseFromEcho) { Some(now) } else { self.echoed };
                credit
            }
            Control::Welcome(_)
            | Control::Denied(_)
            | Control::Confirm { .. }
            | Control::Begin { .. }
            | Control::Bye
            | Control::Lease { .. }
            | Control::Digest { .. }
            | Control::Compare
            | Control::GoAway { .. }
            | Control::Mtbf { .. }
            | Control::NextKey => {
                return Err(Violation);
            }
        };
        session.grant(credit.messages);
        self.bulk_granted = self.bulk_granted.max(credit.bulk);
        Ok(Some(credit))
    }

    /// Most bytes of the bulk piece that may be sent now, if any may (FRAME-4, LANES-2)
    pub(crate) fn next_piece(&self) -> Option<u64> {
        let piece = self.pace.next_piece()?;
        let credit = self.bulk_granted.saturating_sub(self.pace.sent());
        // No crumbs: credit comes in larger portions.
        (credit >= piece.min(BULK_WINDOW_BYTES_MIN)).then(|| piece.min(credit))
    }

    /// Before a bulk piece: `true` if it has to wait for the next frame, because this one finds out how long the link
    /// takes without it (FRAME-4)
    pub(crate) fn measure<L: Log>(
        &mut self,
        now: Instant,
        body: &mut BodyWriter<'_>,
        session: &Session<L>,
        tasks: u64,
    ) -> bool {
        self.pace.is_unmeasured(now) && self.push_beat(now, body, session, tasks)
    }

    /// Counts bulk bytes sent, and asks whether they have arrived
    pub(crate) fn bulk_sent<L: Log>(
        &mut self,
        now: Instant,
        body: &mut BodyWriter<'_>,
        session: &Session<L>,
        tasks: u64,
        bytes: u64,
    ) {
        self.pace.bulk_sent(now, bytes);
        // One that does not fit goes into the next frame.
        self.mark |= self.pace.wants_mark() && !self.push_beat(now, body, session, tasks);
    }

    /// What was sent on trust in a session that did not go on counts as never sent (AUTH-3)
    pub(crate) fn forget_bulk_sent(&mut self) {
        self.pace = Pace::new(self.pins);
    }

    /// Begins with what the connection before has found out (FRAME-4)
    pub(crate) fn begin_bulk<L: Log>(&mut self, session: &mut Session<L>) {
        self.pace.begin(session.begin_bulk());
    }

    /// What the laws of this connection have come to (LIVE-6)
    pub(crate) fn laws(&self) -> LawStats {
        LawStats {
            bulk_piece_bytes: self.pace.piece_bytes(),
            bulk_under_way_bytes: self.pace.under_way_max(),
            shortest_round_trip_us: self.pace.shortest_us(),
            compress_from_bytes: self.codec.compresses_from() as u64,
            suspect_after_us: self.heartbeat.as_ref().map_or(0, |heartbeat| micros(heartbeat.suspect_after())),
        }
    }

    /// Takes less than usual at a time
    pub(crate) fn narrow_bulk(&mut self, window: u64) {
        self.bulk_window = window;
    }

    /// Counts bulk bytes that arrived; more than were granted is a breach (LANES-2)
    pub(crate) fn bulk_arrived(&mut self, bytes: u64) -> Result<(), Violation> {
        self.bulk_arrived += bytes;
        // The first window is granted without a word.
        if self.bulk_arrived > self.told.bulk.max(self.bulk_window) { Err(Violation) } else { Ok(()) }
    }

    /// Whether a message of this number is within what was granted (LANES-2)
    pub(crate) fn grants(&self, number: u64) -> bool {
        number <= self.told.messages
    }

    /// Counts bulk bytes received and dealt with; they make room for others
    pub(crate) fn bulk_dealt_with(&mut self, bytes: u64) {
        self.bulk_used += bytes;
    }

    /// What this end grants, with `tasks` as its owner counts them
    pub(crate) fn credit<L: Log>(&self, session: &Session<L>, tasks: u64) -> Credit {
        let messages = session.offered();
        Credit { tasks, messages, bulk: self.bulk_used + self.bulk_window }
    }

    /// Notes that the peer learned this credit another way
    pub(crate) fn credit_told(&mut self, credit: Credit) {
        self.told = credit;
    }

    /// Has what arrived acknowledged as soon as it may be, because the peer waits for that
    pub(crate) fn ack_soon(&mut self) {
        self.ack = true;
    }

    /// Whether a frame must leave for this channel's own sake
    pub(crate) fn has_news<L: Log>(&self, now: Instant, session: &Session<L>, tellable: u64, tasks: u64) -> bool {
        let credit = self.credit(session, tasks);
        self.beat
            || self.mark
            || self.echo.is_some()
            || (self.ack && session.ack_useful(tellable))
            || session.ack_due(now, tellable)
            || credit.tasks > self.told.tasks
            || credit.messages >= self.told.messages + SESSION_UNACKED_MAX as u64 / 4
            || credit.bulk >= self.told.bulk + self.bulk_window / 4
    }

    /// Writes acknowledgement, heartbeat, echo and credit into a frame, as far as they say anything new
    pub(crate) fn write<L: Log>(
        &mut self,
        now: Instant,
        body: &mut BodyWriter<'_>,
        session: &mut Session<L>,
        tellable: u64,
        tasks: u64,
    ) {
        let credit = self.credit(session, tasks);
        if session.ack_useful(tellable) && body.push(Class::Control, &Control::Ack { received: tellable }) {
            session.ack_told(now, tellable);
            self.ack = false;
        }
        if (self.beat || self.mark) && self.push_beat(now, body, session, tasks) {
            self.digest_due |= self.beat;
            (self.beat, self.mark) = (false, false);
        }
        if let Some(stamp) = self.echo
            && body.push(Class::Control, &Control::Echo { stamp, credit })
        {
            self.echo = None;
            self.told = credit;
        }
        if credit != self.told && body.push(Class::Control, &Control::Credit(credit)) {
            self.told = credit;
        }
    }

    /// Writes a heartbeat; `false` when the frame is full
    fn push_beat<L: Log>(&mut self, now: Instant, body: &mut BodyWriter<'_>, session: &Session<L>, tasks: u64) -> bool {
        let credit = self.credit(session, tasks);
        let fits = body.push(Class::Control, &Control::Beat { stamp: now.as_micros(), credit });
        if fits {
            self.told = credit;
            self.pace.beat_sent(now);
        }
        fits
    }

    /// Fires what is due; `true` when the link is dead (LIVE-2)
    pub(crate) fn expire<L: Log>(
        &mut self,
        now: Instant,
        session: Option<&Session<L>>,
        tellable: u64,
        rng: &mut Rng,
    ) -> bool {
        if session.and_then(|s| s.ack_at(tellable)).is_some_and(|at| at <= now) {
            self.ack = true;
        }
        while let Some(heartbeat) = &mut self.heartbeat {
            match heartbeat.expire(now, rng) {
                Some(Pulse::Beat) => self.beat = true,
                Some(Pulse::Dead)
                    if planted::is(Bug::SilenceWhileWriting) && session.is_some_and(|s| !s.is_acknowledged()) =>
                {
                    // The answer to what is under way will tell.
                    heartbeat.heard(now);
                }
                Some(Pulse::Dead) => return true,
                None => break,
            }
        }
        false
    }

    /// Whether something follows by now from what was not heard
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.deadline() <= now)
    }

    /// The earliest of the channel's deadlines
    pub(crate) fn deadline<L: Log>(&self, session: Option<&Session<L>>, tellable: u64) -> Option<Instant> {
        let ack = session.filter(|_| !self.ack).and_then(|s| s.ack_at(tellable));
        earliest(self.heartbeat.as_ref().map(Heartbeat::deadline), ack)
    }

    /// Takes in what the connection has to say, and when it ends
    pub(crate) fn outline(&self, o: &mut Outline) {
        o.put((self.writable, self.beat, self.mark, self.echo.is_some(), self.ack));
        o.put(self.heartbeat.is_some());
        self.heartbeat.iter().for_each(|heartbeat| heartbeat.outline(o));
    }
}

/// Splits a frame buffer into the room for the body, whose length [`Channel::seal`] wants
pub(crate) fn body_of(frame: &mut [u8]) -> BodyWriter<'_> {
    BodyWriter::new(&mut frame[HEADER_BYTES..])
}
