//! Bytes on their way towards one end of a link: a queue that faults act upon, without socket and clock

mod messages;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::alter::interjection;
use super::fault::{End, Fault, Kind};
use super::frames::{Frames, Opaque};
use super::laws::Spell;
use super::memory::Memory;
use super::random::{Purpose, Random};

/// Bytes that may be under way; further ones wait at their sender
pub(super) const QUEUE_BYTES_MAX: usize = 256 * 1024;
/// The same where the way is narrow, so that its sender feels that
const NARROW_BYTES_MAX: usize = 16 * 1024;
/// The same where a buffer in front of a narrow way takes in all it can
const BLOAT_BYTES_MAX: usize = 4 << 20;
/// Longest message that faults of messages act upon
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Most bytes that are made up at a time
const NOISE_BYTES_MAX: u64 = 100_000;
/// Most faults that wait for bytes or messages
const STRIKES_MAX: usize = 1000;
/// Most spells of one direction
const SPELLS_MAX: usize = 100;

/// Bytes that a law of delay is asked for once, so that it does not matter in which pieces they come
const BLOCK: u64 = 1024;
/// Pause between two pieces of what is cut into pieces
const PIECE_PAUSE: Duration = Duration::from_micros(20);
/// How far a pace that a late timer has lost is made good
const SLACK: Duration = Duration::from_millis(20);

/// Whose bytes they are, for whatever is drawn
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    pub(super) seed: u64,
    pub(super) connection: u64,
    pub(super) towards: End,
    pub(super) place: u64,
}

/// One direction of a link
#[derive(Debug)]
pub(super) struct Pipe {
    name: Name,
    /// How long bytes take in any case
    latency: Duration,
    spells: Vec<Spell>,
    /// What befalls the next bytes: the fault, and at which of them it begins
    strikes: Vec<(Fault, u64)>,
    /// What befalls the next messages
    messages: VecDeque<Fault>,
    frames: Frames,
    /// What was said before, and what has come of the next message, if that is to be remembered
    memory: Option<Arc<Memory>>,
    said: Vec<u8>,
    /// The beginning of a message that something is to befall
    partial: Vec<u8>,
    /// A message that the next one is to overtake
    overtaken: Option<Vec<u8>>,
    /// A byte that is to change places with the next one
    carried: Vec<u8>,
    queue: VecDeque<u8>,
    /// Up to which byte of the stream it may leave, and when
    dues: VecDeque<(u64, Instant)>,
    last_due: Option<Instant>,
    /// Bytes that came in, that may leave, and that have left
    entered: u64,
    free: u64,
    left: u64,
    /// When the next piece may leave
    paced: Option<Instant>,
    /// Behind which byte the connection breaks, and by what
    breaks_at: Option<(u64, Kind)>,
    source: Source,
    /// Nothing arrives any more, and nobody is told
    deaf: bool,
    end_told: bool,
    felt: Vec<Kind>,
    /// Faults that cannot have an effect here
    impossible: Vec<Kind>,
    /// Whether what is coming in is the HTTP head in front of a WebSocket, which nobody vouches for
    in_head: bool,
    /// Whether a bit was flipped of anything else, and nobody has asked about that yet
    scarred: bool,
}

/// What is known of the end that bytes come from
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Open,
    /// No more comes, or counts
    Over,
    Broken,
}

/// What is to be done with an end now
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// These are to be written
    Bytes(&'a [u8]),
    /// Nothing before that
    Wait(Instant),
    /// Nothing before something comes
    Idle,
    /// It is to learn that no more will come
    End,
    /// The connection breaks, by a fault or because the other end has broken it
    Break(Option<Kind>),
}

impl Pipe {
    pub(super) fn new(name: Name, latency: Duration, memory: Option<Arc<Memory>>) -> Self {
        Pipe {
            name,
            latency,
            spells: Vec::new(),
            strikes: Vec::new(),
            messages: VecDeque::new(),
            frames: Frames::default(),
            memory,
            said: Vec::new(),
            partial: Vec::new(),
            overtaken: None,
            carried: Vec::new(),
            queue: VecDeque::new(),
            dues: VecDeque::new(),
            last_due: None,
            entered: 0,
            free: 0,
            left: 0,
            paced: None,
            breaks_at: None,
            source: Source::Open,
            deaf: false,
            end_told: false,
            felt: Vec::new(),
            impossible: Vec::new(),
            in_head: false,
            scarred: false,
        }
    }

    // Faults.

    /// Something holds for a while; of its kind it takes the place of what held until then
    pub(super) fn spell(&mut self, spell: Spell) {
        // What swizzles begins later than it is known, and lets everything else go on until then.
        let later = spell.kind == Kind::Swizzle;
        let goes_on = |old: &Spell| old.kind != spell.kind && old.until.is_none_or(|until| spell.since < until);
        self.spells.retain(|old| later || goes_on(old));
        if self.spells.len() < SPELLS_MAX {
            self.spells.push(spell);
        }
    }

    /// Something befalls the next bytes or message
    pub(super) fn strike(&mut self, now: Instant, fault: Fault) {
        if self.deaf || self.strikes.len() + self.messages.len() >= STRIKES_MAX {
            return;
        }
        if !fault.kind.is_of_messages() {
            return self.strikes.push((fault, self.entered + self.carried.len() as u64));
        }
        let forgets = self.memory.is_none() && matches!(fault.kind, Kind::Replay | Kind::Splice);
        if forgets || self.frames.opaque().is_some() {
            return self.impossible.push(fault.kind);
        }
        let is_idle = self.frames.is_between() && self.messages.is_empty() && self.overtaken.is_none();
        if fault.kind.interjects() && fault.after == 0 && is_idle && self.source == Source::Open {
            self.felt.push(fault.kind);
            return self.enter(now, &interjection(fault));
        }
        self.messages.push_back(fault);
    }

    /// The connection breaks behind so many more bytes
    pub(super) fn break_behind(&mut self, bytes: u64) {
        self.breaks_at = Some((self.left.saturating_add(bytes), Kind::ResetAfter));
    }

    /// Nothing arrives any more, and nobody is told
    pub(super) fn deafen(&mut self) {
        self.deaf = true;
        self.queue = VecDeque::new();
        self.dues.clear();
        self.partial = Vec::new();
        self.overtaken = None;
    }

    /// Whatever is under way arrives then, and not before
    pub(super) fn postpone(&mut self, until: Instant) {
        self.dues.clear();
        self.dues.push_back((self.entered, until));
        (self.free, self.last_due) = (self.left, Some(until));
    }

    /// Everything that faults do to what comes is over; what they have done stays
    pub(super) fn heal(&mut self, now: Instant) {
        self.spells.clear();
        self.strikes.clear();
        self.messages.clear();
        (self.breaks_at, self.paced) = (None, None);
        self.let_go(now);
        self.dues.clear();
        (self.free, self.last_due) = (self.entered, None);
    }

    // Bytes.

    /// How many bytes may come in now
    pub(super) fn room(&self, now: Instant) -> usize {
        if self.deaf || self.source != Source::Open {
            // They are read and thrown away.
            return usize::MAX;
        }
        let holds = |kind| self.spells.iter().any(|spell| spell.kind == kind && spell.holds(now));
        if holds(Kind::Blocked) {
            return 0;
        }
        let most = if holds(Kind::Bloat) {
            BLOAT_BYTES_MAX
        } else if holds(Kind::Bandwidth) || holds(Kind::Drip) {
            NARROW_BYTES_MAX
        } else {
            QUEUE_BYTES_MAX
        };
        most.saturating_sub(self.queue.len() + self.partial.len())
    }

    /// Until when its sender is kept from sending, and whether that has had an effect already
    pub(super) fn blocked(&self, now: Instant) -> Option<(Option<Instant>, bool)> {
        let spell = self.spells.iter().find(|spell| spell.kind == Kind::Blocked && spell.holds(now))?;
        Some((spell.until, spell.felt))
    }

    /// A fault that lasts has an effect
    pub(super) fn feel(&mut self, kind: Kind) {
        for spell in self.spells.iter_mut().filter(|spell| spell.kind == kind && !spell.felt) {
            spell.felt = true;
            self.felt.push(kind);
        }
    }

    /// Bytes come in; no more than there is room for
    pub(super) fn take(&mut self, now: Instant, bytes: &[u8]) {
        if self.deaf || self.source != Source::Open {
            return;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let wanted = !self.messages.is_empty() || self.overtaken.is_some() || self.lacks_pongs(now);
            let collects = !self.partial.is_empty() || (wanted && self.frames.is_between());
            let is_head = self.frames.is_head();
            let (here, behind) = rest.split_at(self.frames.advance(rest));
            rest = behind;
            if self.memory.is_some() {
                self.remember(is_head, here);
            }
            if wanted && self.frames.opaque().is_some() {
                self.give_up();
            }
            self.in_head = is_head && self.frames.opaque().is_none();
            if !collects {
                self.enter(now, here);
                continue;
            }
            self.partial.extend_from_slice(here);
            if self.frames.is_between() {
                let message = std::mem::take(&mut self.partial);
                self.message(now, message);
            } else if self.partial.len() > MESSAGE_BYTES_MAX {
                let bytes = std::mem::take(&mut self.partial);
                self.enter(now, &bytes);
            }
        }
    }

    /// No more comes in, or none of it counts
    pub(super) fn end(&mut self, now: Instant) {
        self.finish(now, Source::Over);
    }

    /// The end that bytes come from has broken the connection
    pub(super) fn broke(&mut self, now: Instant) {
        self.finish(now, Source::Broken);
    }

    /// What is to be done now
    pub(super) fn next(&mut self, now: Instant) -> Next<'_> {
        if self.deaf {
            return Next::Idle;
        }
        if let Some((_, kind)) = self.breaks_at.filter(|(at, _)| *at <= self.left) {
            return Next::Break(Some(kind));
        }
        let told = self.source == Source::Open || self.end_told;
        if self.queue.is_empty() && told {
            return Next::Idle;
        }
        if let Some(until) = self.held_up(now) {
            return Next::Wait(until);
        }
        self.spells.retain(|spell| spell.until.is_none_or(|until| now < until));
        while let Some((to, _)) = self.dues.front().filter(|(_, due)| *due <= now) {
            self.free = *to;
            self.dues.pop_front();
        }
        let wait = if self.free == self.left { self.dues.front().map(|(_, due)| *due) } else { self.paced };
        match wait {
            _ if self.queue.is_empty() => match self.source {
                Source::Broken => Next::Break(None),
                Source::Over | Source::Open => Next::End,
            },
            Some(at) if at > now => Next::Wait(at),
            Some(_) | None => {
                let most = self.piece(now).min(self.free - self.left);
                let most = self.breaks_at.map_or(most, |(at, _)| most.min(at - self.left));
                let first = self.queue.as_slices().0;
                Next::Bytes(&first[..first.len().min(most as usize)])
            }
        }
    }

    /// So many of those bytes have left
    pub(super) fn sent(&mut self, now: Instant, count: usize) {
        self.queue.drain(..count);
        self.left += count as u64;
        let cost: Duration = self.paces(now).map(|(_, cost, _)| cost(count as u64)).sum();
        if !cost.is_zero() {
            let from = self.paced.unwrap_or(now).max(now.checked_sub(SLACK).unwrap_or(now));
            self.paced = Some(from + cost);
        }
    }

    /// The end has learned that no more will come
    pub(super) fn told_end(&mut self) {
        self.end_told = true;
    }

    /// The end that its bytes go to
    pub(super) fn towards(&self) -> End {
        self.name.towards
    }

    /// Whether nothing more will ever leave
    pub(super) fn is_over(&self) -> bool {
        self.deaf || self.end_told
    }

    /// The faults that have had an effect since this was asked last
    pub(super) fn take_felt(&mut self) -> Vec<Kind> {
        std::mem::take(&mut self.felt)
    }

    /// The faults that turned out to be impossible since this was asked last
    pub(super) fn take_impossible(&mut self) -> Vec<Kind> {
        std::mem::take(&mut self.impossible)
    }

    /// Why nothing can befall its messages, if it has none
    pub(super) fn opaque(&self) -> Option<Opaque> {
        self.frames.opaque()
    }

    /// Whether a bit was flipped since this was asked last, behind the head of HTTP
    pub(super) fn take_scar(&mut self) -> bool {
        std::mem::take(&mut self.scarred)
    }

    fn finish(&mut self, now: Instant, source: Source) {
        if self.source == Source::Open {
            self.let_go(now);
            self.source = source;
        }
    }

    /// Sends on its way what was kept back for what would come next
    fn let_go(&mut self, now: Instant) {
        let kept = [self.overtaken.take().unwrap_or_default(), std::mem::take(&mut self.partial)].concat();
        self.enter(now, &kept);
        let carried = std::mem::take(&mut self.carried);
        self.put(now, &carried);
    }

    /// Until when nothing arrives, though it is under way
    fn held_up(&mut self, now: Instant) -> Option<Instant> {
        let held = self.spells.iter().filter(|spell| spell.kind.holds_up() && spell.holds(now));
        let (kind, until) =
            held.filter_map(|spell| Some((spell.kind, spell.until?))).max_by_key(|(_, until)| *until)?;
        self.feel(kind);
        Some(until)
    }

    /// Bytes come in behind whatever befalls messages
    fn enter(&mut self, now: Instant, bytes: &[u8]) {
        if self.strikes.is_empty() && self.carried.is_empty() {
            return self.put(now, bytes);
        }
        if bytes.is_empty() {
            return;
        }
        let mut bytes = [std::mem::take(&mut self.carried).as_slice(), bytes].concat();
        for (mut fault, at) in std::mem::take(&mut self.strikes) {
            if self.hit(&mut fault, at, &mut bytes) {
                self.felt.push(fault.kind);
            } else {
                self.strikes.push((fault, at));
            }
        }
        self.put(now, &bytes);
    }

    /// What befalls bytes: whether that is all of it
    #[allow(clippy::wildcard_enum_match_arm, reason = "the others strike messages")]
    fn hit(&mut self, fault: &mut Fault, at: u64, bytes: &mut Vec<u8>) -> bool {
        let (from, len) = (self.entered, bytes.len() as u64);
        let place =
            |offset: u64| (at + offset).checked_sub(from).filter(|place| *place < len).map(|place| place as usize);
        match fault.kind {
            Kind::Flip => {
                let Some(place) = place(fault.amount / 8) else { return at + fault.amount / 8 < from };
                bytes[place] ^= 1 << (fault.amount % 8);
                self.scarred |= !self.in_head;
                true
            }
            Kind::Scramble => {
                let Some(place) = place(fault.amount) else { return at + fault.amount < from };
                if place + 1 < bytes.len() {
                    bytes.swap(place, place + 1);
                    return true;
                }
                self.carried = bytes.split_off(place);
                false
            }
            Kind::Snip => {
                let gone = fault.amount.max(1).min(len);
                bytes.drain(..gone as usize);
                fault.amount = fault.amount.max(1) - gone;
                fault.amount == 0
            }
            _ => {
                let Name { seed, connection, .. } = self.name;
                let mut random = Random::keyed(seed, Purpose::Noise, &[connection, at, fault.amount]);
                let noise = (0..fault.amount.clamp(1, NOISE_BYTES_MAX)).map(|_| random.next() as u8);
                bytes.splice(..0, noise);
                true
            }
        }
    }

    /// Sends bytes on their way
    fn put(&mut self, now: Instant, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (delay, count) = self.delay(now);
            let (here, behind) = rest.split_at(rest.len().min(count as usize));
            rest = behind;
            self.queue.extend(here);
            self.entered += here.len() as u64;
            let due = self.last_due.map_or(now + delay, |last| last.max(now + delay));
            match self.dues.back_mut().filter(|(_, last)| *last == due) {
                Some((to, _)) => *to = self.entered,
                None => self.dues.push_back((self.entered, due)),
            }
            self.last_due = Some(due);
        }
    }

    /// How long the next bytes take, and how many of them
    fn delay(&mut self, now: Instant) -> (Duration, u64) {
        let Name { seed, connection, towards, .. } = self.name;
        let (block, mut sum) = (self.entered / BLOCK, None);
        for spell in self.spells.iter_mut().filter(|spell| spell.holds(now)) {
            let names = [connection, towards as u64, spell.kind as u64, block];
            let Some(delay) = spell.delay(now, &mut Random::keyed(seed, Purpose::Law, &names)) else { continue };
            sum = Some(sum.unwrap_or_default() + delay);
            if !std::mem::replace(&mut spell.felt, true) {
                self.felt.push(spell.kind);
            }
        }
        let count = if sum.is_some() { BLOCK - self.entered % BLOCK } else { u64::MAX };
        (self.latency + sum.unwrap_or_default(), count.min(usize::MAX as u64))
    }

    /// How many bytes may leave at a time
    fn piece(&mut self, now: Instant) -> u64 {
        let (mut most, mut limits) = (u64::MAX, Vec::new());
        for (kind, _, piece) in self.paces(now) {
            most = most.min(piece);
            limits.push(kind);
        }
        limits.into_iter().for_each(|kind| self.feel(kind));
        most
    }

    /// What makes bytes leave in pieces: its kind, what so many bytes cost, and the largest piece
    fn paces(&self, now: Instant) -> impl Iterator<Item = (Kind, impl Fn(u64) -> Duration, u64)> {
        self.spells.iter().filter(move |spell| spell.holds(now)).filter_map(|spell| {
            let amount = spell.amount.max(1);
            #[allow(clippy::wildcard_enum_match_arm, reason = "the others do not cut into pieces")]
            let (each, pause, piece) = match spell.kind {
                Kind::Bandwidth | Kind::Bloat => (1_000_000_000 / amount, Duration::ZERO, (amount / 50).max(1)),
                Kind::Drip => (0, Duration::from_micros(spell.amount), 1),
                Kind::Rechunk => (0, PIECE_PAUSE, amount),
                _ => return None,
            };
            Some((spell.kind, move |count| pause + Duration::from_nanos(each * count), piece))
        })
    }
}

#[cfg(test)]
mod tests;
