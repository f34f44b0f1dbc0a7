//! What a frame says, read off the wire by somebody who has no key
//!
//! Sealed frames are authenticated and not secret, so whoever sees one can read it. Nothing is verified here: what was
//! altered on its way may still read well. Messages of the handshake are told from sealed frames by their first byte,
//! so that it does not matter which frames follow each other, such as those that a peer sends right behind M3.

use std::fmt;

use rejoin_core::ids::{Role, SessionId, TaskId, Token};
use rejoin_core::limits::BODY_BYTES_MAX;
use rejoin_core::wire::codec::{FRAME_VERSION, HEADER_BYTES, TAG_BYTES};
use rejoin_core::wire::handshake::{Challenge, Hello, Proof, Refusal};
use rejoin_core::wire::message::{
    BodyReader, Class, Control, FromClient, FromWorker, Item, Settlement, Stream, ToClient, ToWorker, Verdict,
};

use crate::net::Side;

/// One thing that a frame says
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A message of the handshake, which is a frame of its own (AUTH-1)
    Handshake(Handshake<'a>),
    /// About the connection and its session
    Control(Control),
    /// A number whose cause is gone (SESS-3)
    Void(u64),
    /// Reliable, with its number in the session (SESS-1)
    Numbered(u64, Message<'a>),
    /// Replaceable by a newer one, or resumed by offset
    Loose(Message<'a>),
    /// Nothing that anybody could read: it was damaged, or cut off, or was no frame at all
    Unreadable,
}

/// A message of the handshake
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "lives for one call, on the stack")]
pub enum Handshake<'a> {
    /// M1
    Hello(Hello<'a>),
    /// M2
    Challenge(Challenge<'a>),
    /// M2, where the coordinator does not want to go on
    Refusal(Refusal),
    /// M3
    Proof(Proof),
}

/// A message of the session, by who says it to whom
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A worker to the coordinator
    FromWorker(FromWorker<'a>),
    /// The coordinator to a worker
    ToWorker(ToWorker<'a>),
    /// A client to the coordinator
    FromClient(FromClient<'a>),
    /// The coordinator to a client
    ToClient(ToClient<'a>),
}

/// Reads all that a frame says, in its order
///
/// `role` is the peer's, `towards` the end that it goes to. Nothing is allocated, but for `scratch`, which grows to the
/// largest body that was ever compressed and can be used again. Ends with [`Said::Unreadable`] where something cannot
/// be read; what stood before it has been told by then.
pub fn messages<'a>(
    frame: &'a [u8],
    role: Role,
    towards: Side,
    scratch: &'a mut Vec<u8>,
    mut each: impl FnMut(Said<'a>),
) {
    if frame.first() != Some(&FRAME_VERSION) {
        return each(handshake(frame, towards).map_or(Said::Unreadable, Said::Handshake));
    }
    let Some(body) = body(frame, scratch) else { return each(Said::Unreadable) };
    for item in BodyReader::new(body) {
        let said = item.ok().and_then(|item| read(&item, role, towards));
        let goes_on = said.is_some();
        each(said.unwrap_or(Said::Unreadable));
        if !goes_on {
            break;
        }
    }
}

/// What the first byte says it is; each end says only its own
fn handshake(frame: &[u8], towards: Side) -> Option<Handshake<'_>> {
    match (towards, frame.first()?) {
        (Side::Coordinator, b'H') => Hello::decode(frame).map(Handshake::Hello),
        (Side::Coordinator, b'P') => Proof::decode(frame).map(|(proof, ..)| Handshake::Proof(proof)),
        (Side::Peer, b'C') => Challenge::decode(frame).map(|(challenge, ..)| Handshake::Challenge(challenge)),
        (Side::Peer, _) => Refusal::decode(frame).map(Handshake::Refusal),
        (Side::Coordinator, _) => None,
    }
}

/// The body of a sealed frame, as it was before compression
fn body<'a>(frame: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let (header, rest) = frame.split_at_checked(HEADER_BYTES)?;
    let body = &rest[..rest.len().checked_sub(TAG_BYTES)?];
    let length = usize::from(u16::from_le_bytes([header[2], header[3]]));
    match header[1] {
        0 => (body.len() == length).then_some(body),
        1 if length <= BODY_BYTES_MAX => {
            if scratch.len() < length {
                scratch.resize(length, 0);
            }
            let full = &mut scratch[..length];
            let whole = lz4_flex::block::decompress_into(body, full).is_ok_and(|len| len == length);
            whole.then_some(full)
        }
        _ => None,
    }
}

fn read<'a>(item: &Item<'a>, role: Role, towards: Side) -> Option<Said<'a>> {
    let message = || {
        Some(match (role, towards) {
            (Role::Worker, Side::Coordinator) => Message::FromWorker(item.decode()?),
            (Role::Worker, Side::Peer) => Message::ToWorker(item.decode()?),
            (Role::Client, Side::Coordinator) => Message::FromClient(item.decode()?),
            (Role::Client, Side::Peer) => Message::ToClient(item.decode()?),
        })
    };
    match item.class {
        Class::Control => item.decode().map(Said::Control),
        Class::Numbered(number) if item.payload.is_empty() => Some(Said::Void(number)),
        Class::Numbered(number) => message().map(|message| Said::Numbered(number, message)),
        Class::Loose => message().map(Said::Loose),
    }
}

impl<'a> Said<'a> {
    /// Its number in the session, if it has one
    pub fn number(&self) -> Option<u64> {
        match self {
            Said::Void(number) | Said::Numbered(number, _) => Some(*number),
            Said::Handshake(_) | Said::Control(_) | Said::Loose(_) | Said::Unreadable => None,
        }
    }

    /// The message, if it is one of the session
    pub fn message(&self) -> Option<&Message<'a>> {
        match self {
            Said::Numbered(_, message) | Said::Loose(message) => Some(message),
            Said::Handshake(_) | Said::Control(_) | Said::Void(_) | Said::Unreadable => None,
        }
    }

    /// The first word of its line
    pub fn verb(&self) -> &'static str {
        match self {
            Said::Handshake(handshake) => match handshake {
                Handshake::Hello(_) => "Hello",
                Handshake::Challenge(_) => "Challenge",
                Handshake::Refusal(Refusal::RetryAfter(_)) => "RetryAfter",
                Handshake::Refusal(Refusal::Reject(_)) => "Reject",
                Handshake::Proof(_) => "Proof",
            },
            Said::Control(control) => match control {
                Control::Welcome(_) => "Welcome",
                Control::Denied(_) => "Denied",
                Control::Confirm { .. } => "Confirm",
                Control::Begin { .. } => "Begin",
                Control::Ack { .. } => "Ack",
                Control::Credit(_) => "Credit",
                Control::Beat { .. } => "Beat",
                Control::Echo { .. } => "Echo",
                Control::Bye => "Bye",
                Control::Lease { .. } => "Lease",
                Control::Digest { .. } => "Digest",
                Control::Compare => "Compare",
                Control::GoAway { .. } => "GoAway",
                Control::Mtbf { .. } => "Mtbf",
                Control::NextKey => "NextKey",
            },
            Said::Void(_) => "Void",
            Said::Numbered(_, message) | Said::Loose(message) => message.verb(),
            Said::Unreadable => "unreadable",
        }
    }

    /// A line for people, in which tasks have the names that `name` knows
    pub fn with_names<'n>(&'n self, name: &'n dyn Fn(TaskId) -> Option<u32>) -> impl fmt::Display + 'n {
        Named { said: self, name }
    }
}

impl Message<'_> {
    /// What kind of message it is
    pub fn verb(&self) -> &'static str {
        match self {
            Message::FromWorker(said) => match said {
                FromWorker::Inventory { .. } => "Inventory",
                FromWorker::Running { .. } => "Running",
                FromWorker::Result { .. } => "Result",
                FromWorker::GivenBack { .. } => "GivenBack",
                FromWorker::Output { .. } => "Output",
                FromWorker::Offers { .. } => "Offers",
                FromWorker::Draining => "Draining",
                FromWorker::Checkpoint { .. } => "Checkpoint",
                FromWorker::Offer { .. } => "Offer",
                FromWorker::Piece { .. } => "Piece",
                FromWorker::RestoreNeed { .. } => "RestoreNeed",
                FromWorker::RestoreBad { .. } => "RestoreBad",
                FromWorker::Holdings { .. } => "Holdings",
                FromWorker::LargeResult { .. } => "LargeResult",
            },
            Message::ToWorker(said) => match said {
                ToWorker::Assign { .. } => "Assign",
                ToWorker::AssignUnder { .. } => "AssignUnder",
                ToWorker::AssignLarge { .. } => "AssignLarge",
                ToWorker::Cancel { .. } => "Cancel",
                ToWorker::Recall { .. } => "Recall",
                ToWorker::Verdict { .. } => "Verdict",
                ToWorker::Settled { .. } => "Settled",
                ToWorker::Kept { .. } => "Kept",
                ToWorker::Restore { .. } => "Restore",
                ToWorker::Checkpointed { .. } => "Checkpointed",
                ToWorker::Drain => "Drain",
                ToWorker::Need { .. } => "Need",
                ToWorker::RestoreOffer { .. } => "RestoreOffer",
                ToWorker::RestorePiece { .. } => "RestorePiece",
            },
            Message::FromClient(said) => match said {
                FromClient::Submit { .. } => "Submit",
                FromClient::SubmitLarge { .. } => "SubmitLarge",
                FromClient::InputPiece { .. } => "InputPiece",
                FromClient::Watch { .. } => "Watch",
                FromClient::Cancel { .. } => "Cancel",
                FromClient::Taken { .. } => "Taken",
                FromClient::Ask { .. } => "Ask",
            },
            Message::ToClient(said) => match said {
                ToClient::Accepted { .. } => "Accepted",
                ToClient::Refused { .. } => "Refused",
                ToClient::Progress { .. } => "Progress",
                ToClient::Output { .. } => "Output",
                ToClient::Outcome { .. } => "Outcome",
                ToClient::Answer { .. } => "Answer",
                ToClient::Forgotten { .. } => "Forgotten",
                ToClient::LargeOutcome { .. } => "LargeOutcome",
                ToClient::InputNeed { .. } => "InputNeed",
            },
        }
    }

    /// First wire version in which it may be said (FRAME-6)
    pub fn since(&self) -> u16 {
        match self {
            Message::FromWorker(said) => said.since(),
            Message::ToWorker(said) => said.since(),
            Message::ToClient(said) => said.since(),
            Message::FromClient(said) => said.since(),
        }
    }

    /// The task that it names
    pub fn task(&self) -> Option<TaskId> {
        match *self {
            Message::FromWorker(FromWorker::Result { task, .. } | FromWorker::LargeResult { task, .. })
            | Message::ToWorker(
                ToWorker::Assign { task, .. } | ToWorker::AssignUnder { task, .. } | ToWorker::AssignLarge { task, .. },
            )
            | Message::FromClient(
                FromClient::Submit { task, .. }
                | FromClient::SubmitLarge { task, .. }
                | FromClient::InputPiece { task, .. }
                | FromClient::Watch { task, .. }
                | FromClient::Cancel { task }
                | FromClient::Taken { task, .. },
            )
            | Message::ToClient(
                ToClient::Accepted { task }
                | ToClient::Refused { task, .. }
                | ToClient::Progress { task, .. }
                | ToClient::Output { task, .. }
                | ToClient::Outcome { task, .. }
                | ToClient::Forgotten { task, .. }
                | ToClient::LargeOutcome { task, .. }
                | ToClient::InputNeed { task, .. },
            ) => Some(task),
            Message::FromWorker(_)
            | Message::ToWorker(_)
            | Message::FromClient(FromClient::Ask { .. })
            | Message::ToClient(ToClient::Answer { .. }) => None,
        }
    }

    /// The attempt that it names
    pub fn token(&self) -> Option<Token> {
        match *self {
            Message::FromWorker(
                FromWorker::Running { token, .. }
                | FromWorker::Result { token, .. }
                | FromWorker::LargeResult { token, .. }
                | FromWorker::GivenBack { token }
                | FromWorker::Output { token, .. }
                | FromWorker::Checkpoint { token, .. }
                | FromWorker::Offer { token, .. }
                | FromWorker::Piece { token, .. }
                | FromWorker::RestoreNeed { token, .. }
                | FromWorker::RestoreBad { token, .. },
            )
            | Message::ToWorker(
                ToWorker::Assign { token, .. }
                | ToWorker::AssignUnder { token, .. }
                | ToWorker::AssignLarge { token, .. }
                | ToWorker::Cancel { token, .. }
                | ToWorker::Recall { token }
                | ToWorker::Verdict { token, .. }
                | ToWorker::Settled { token, .. }
                | ToWorker::Kept { token, .. }
                | ToWorker::Restore { token, .. }
                | ToWorker::Checkpointed { token, .. }
                | ToWorker::Need { token, .. }
                | ToWorker::RestoreOffer { token, .. }
                | ToWorker::RestorePiece { token, .. },
            )
            | Message::FromClient(FromClient::Taken { token, .. })
            | Message::ToClient(ToClient::Output { token, .. } | ToClient::LargeOutcome { token, .. }) => Some(token),
            Message::ToClient(ToClient::Outcome { token, .. }) => token,
            Message::FromWorker(
                FromWorker::Inventory { .. }
                | FromWorker::Offers { .. }
                | FromWorker::Draining
                | FromWorker::Holdings { .. },
            )
            | Message::ToWorker(ToWorker::Drain)
            | Message::FromClient(
                FromClient::Submit { .. }
                | FromClient::SubmitLarge { .. }
                | FromClient::InputPiece { .. }
                | FromClient::Watch { .. }
                | FromClient::Cancel { .. }
                | FromClient::Ask { .. },
            )
            | Message::ToClient(
                ToClient::Accepted { .. }
                | ToClient::Refused { .. }
                | ToClient::Progress { .. }
                | ToClient::Answer { .. }
                | ToClient::Forgotten { .. }
                | ToClient::InputNeed { .. },
            ) => None,
        }
    }
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_names(&|_| None).fmt(f)
    }
}

struct Named<'n, 'a> {
    said: &'n Said<'a>,
    name: &'n dyn Fn(TaskId) -> Option<u32>,
}

impl fmt::Display for Named<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.said {
            Said::Handshake(handshake) => handshake.fmt(f),
            Said::Control(control) => write_control(f, control),
            Said::Void(number) => write!(f, "Void #{number}"),
            Said::Numbered(number, message) => self.write(f, Some(*number), message),
            Said::Loose(message) => self.write(f, None, message),
            Said::Unreadable => f.write_str("unreadable"),
        }
    }
}

impl Named<'_, '_> {
    fn write(&self, f: &mut fmt::Formatter<'_>, number: Option<u64>, message: &Message<'_>) -> fmt::Result {
        f.write_str(message.verb())?;
        if let Some(number) = number {
            write!(f, " #{number}")?;
        }
        if let Some(task) = message.task() {
            match (self.name)(task) {
                Some(name) => write!(f, " task {name}")?,
                None => write!(f, " task {}", Short(&task.0))?,
            }
        }
        if let Some(token) = message.token() {
            write!(f, " {token}")?;
        }
        match message {
            Message::FromWorker(said) => write_from_worker(f, said),
            Message::ToWorker(said) => write_to_worker(f, said),
            Message::FromClient(said) => write_from_client(f, said),
            Message::ToClient(said) => write_to_client(f, said),
        }
    }
}

fn write_from_worker(f: &mut fmt::Formatter<'_>, said: &FromWorker<'_>) -> fmt::Result {
    match said {
        FromWorker::Inventory { part, last, cut, items } => {
            let last = if *last { ", the last" } else { "" };
            write!(f, " part {part}{last}, cut {cut}, {} bytes", items.len())
        }
        FromWorker::Running { progress, .. } => write!(f, " progress {progress}"),
        FromWorker::Result { outcome, .. } => write!(f, " {outcome:?}"),
        FromWorker::LargeResult { outcome, length, .. } => write!(f, " {outcome:?}, {length} bytes"),
        FromWorker::Output { stream, offset, bytes, .. } => write_piece(f, *stream, *offset, bytes),
        FromWorker::Checkpoint { number, .. } | FromWorker::RestoreBad { number, .. } => write!(f, " number {number}"),
        FromWorker::Offer { number, length, .. } => write!(f, " number {number}, {length} bytes"),
        FromWorker::Piece { number, offset, bytes, .. } => write_chunk(f, *number, *offset, bytes),
        FromWorker::RestoreNeed { number, wanted, .. } => write_wanted(f, *number, wanted),
        FromWorker::Holdings { received, sent, items } => {
            write!(f, " at {received} and {sent}, {} bytes", items.len())
        }
        FromWorker::GivenBack { .. } | FromWorker::Offers { .. } | FromWorker::Draining => Ok(()),
    }
}

fn write_to_worker(f: &mut fmt::Formatter<'_>, said: &ToWorker<'_>) -> fmt::Result {
    match said {
        ToWorker::Assign { attempt, restores, .. } => {
            write!(f, " attempt {attempt}{}", if *restores { ", from a checkpoint" } else { "" })
        }
        ToWorker::AssignUnder { attempt, restores, conditions, .. } => {
            let exclusive = if conditions.exclusive { ", exclusive" } else { "" };
            write!(f, " attempt {attempt}{}{exclusive}", if *restores { ", from a checkpoint" } else { "" })
        }
        ToWorker::AssignLarge { attempt, restores, conditions, length, .. } => {
            let exclusive = if conditions.exclusive { ", exclusive" } else { "" };
            let from = if *restores { ", from a checkpoint" } else { "" };
            write!(f, " attempt {attempt}{from}{exclusive}, input of {length} bytes")
        }
        ToWorker::Cancel { reason, .. } => write!(f, " {reason:?}"),
        ToWorker::Verdict { verdict, .. } => f.write_str(match verdict {
            Verdict::Keep { .. } => " Keep",
            Verdict::SendResult { .. } => " SendResult",
            Verdict::Discard => " Discard",
        }),
        ToWorker::Settled { settlement, .. } => f.write_str(match settlement {
            Settlement::Applied => " Applied",
            Settlement::Duplicate => " Duplicate",
            Settlement::Stale => " Stale",
        }),
        ToWorker::Kept { stream, offset, .. } => write!(f, " {} up to {offset}", stream_name(*stream)),
        ToWorker::Restore { number, .. } => write!(f, " number {number}"),
        ToWorker::Checkpointed { number, refused: None, .. } => write!(f, " number {number}"),
        ToWorker::Checkpointed { number, refused: Some(why), .. } => write!(f, " number {number}, refused: {why:?}"),
        ToWorker::Need { number, wanted, .. } => write_wanted(f, *number, wanted),
        ToWorker::RestoreOffer { number, length, .. } => write!(f, " number {number}, {length} bytes"),
        ToWorker::RestorePiece { number, offset, bytes, .. } => write_chunk(f, *number, *offset, bytes),
        ToWorker::Recall { .. } | ToWorker::Drain => Ok(()),
    }
}

fn write_from_client(f: &mut fmt::Formatter<'_>, said: &FromClient<'_>) -> fmt::Result {
    match said {
        FromClient::Submit { payload, .. } => write!(f, " {} bytes", payload.len()),
        FromClient::SubmitLarge { length, .. } => write!(f, " {length} bytes"),
        FromClient::InputPiece { offset, bytes, .. } => write!(f, " {offset}..{}", offset + bytes.len() as u64),
        FromClient::Watch { follow, .. } => write!(f, " {follow:?}"),
        FromClient::Taken { stream, offset, .. } => write!(f, " {} up to {offset}", stream_name(*stream)),
        FromClient::Ask { ask, question } => write!(f, " {ask} {question:?}"),
        FromClient::Cancel { .. } => Ok(()),
    }
}

fn write_to_client(f: &mut fmt::Formatter<'_>, said: &ToClient<'_>) -> fmt::Result {
    match said {
        ToClient::Refused { reason, .. } => write!(f, " {reason:?}"),
        ToClient::Progress { attempt, progress, .. } => write!(f, " attempt {attempt} progress {progress}"),
        ToClient::Output { stream, offset, bytes, .. } => write_piece(f, *stream, *offset, bytes),
        ToClient::Outcome { outcome, .. } | ToClient::Forgotten { outcome, .. } => write!(f, " {outcome:?}"),
        ToClient::LargeOutcome { outcome, length, .. } => write!(f, " {outcome:?}, {length} bytes"),
        ToClient::InputNeed { wanted, .. } => {
            write!(f, " {} chunks", wanted.iter().map(|byte| byte.count_ones()).sum::<u32>())
        }
        ToClient::Answer { ask, answer } => write!(f, " {ask}, {} bytes", answer.len()),
        ToClient::Accepted { .. } => Ok(()),
    }
}

fn write_piece(f: &mut fmt::Formatter<'_>, stream: Stream, offset: u64, bytes: &[u8]) -> fmt::Result {
    write!(f, " {} {offset}..{}", stream_name(stream), offset.saturating_add(bytes.len() as u64))
}

fn write_chunk(f: &mut fmt::Formatter<'_>, number: u64, offset: u64, bytes: &[u8]) -> fmt::Result {
    write!(f, " number {number}, {offset}..{}", offset.saturating_add(bytes.len() as u64))
}

fn write_wanted(f: &mut fmt::Formatter<'_>, number: u64, wanted: &[u8]) -> fmt::Result {
    let chunks: u32 = wanted.iter().map(|byte| byte.count_ones()).sum();
    write!(f, " number {number}, {chunks} chunks")
}

fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Out => "stdout",
        Stream::Err => "stderr",
    }
}

fn write_control(f: &mut fmt::Formatter<'_>, control: &Control) -> fmt::Result {
    match control {
        Control::Welcome(welcome) => match welcome.resumed {
            Some(received) => write!(f, "Welcome resumed {received}, generation {}", welcome.generation),
            None => write!(f, "Welcome opened, generation {}", welcome.generation),
        },
        Control::Denied(why) => write!(f, "Denied {why:?}"),
        Control::Confirm { generation } => write!(f, "Confirm generation {generation}"),
        Control::Begin { session } => write!(f, "Begin {}", short(session)),
        Control::Ack { received } => write!(f, "Ack {received}"),
        Control::Credit(credit) => {
            write!(f, "Credit tasks {} messages {} bulk {}", credit.tasks, credit.messages, credit.bulk)
        }
        Control::Beat { .. } => f.write_str("Beat"),
        Control::Echo { .. } => f.write_str("Echo"),
        Control::Bye => f.write_str("Bye"),
        Control::Lease { ttl_us, .. } => write!(f, "Lease {ttl_us} µs"),
        Control::Digest { received, sent, held } => write!(f, "Digest {held:016x} at {received} and {sent}"),
        Control::Compare => f.write_str("Compare"),
        Control::GoAway { slot_us } => write!(f, "GoAway {slot_us} µs"),
        Control::Mtbf { mean_us } => write!(f, "Mtbf {} s", mean_us / 1_000_000),
        Control::NextKey => f.write_str("NextKey"),
    }
}

impl fmt::Display for Handshake<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Handshake::Hello(Hello { name, session: Some(session), .. }) => {
                write!(f, "Hello {name}, would resume {}", short(session))
            }
            Handshake::Hello(Hello { name, .. }) => write!(f, "Hello {name}"),
            Handshake::Challenge(Challenge { epoch, open: Some(received), .. }) => {
                write!(f, "Challenge epoch {epoch}, session open, received {received}")
            }
            Handshake::Challenge(Challenge { epoch, .. }) => write!(f, "Challenge epoch {epoch}"),
            Handshake::Refusal(Refusal::RetryAfter(us)) => write!(f, "RetryAfter {us} µs"),
            Handshake::Refusal(Refusal::Reject(code)) => write!(f, "Reject {code:?}"),
            Handshake::Proof(Proof { resume: Some(resume) }) => write!(
                f,
                "Proof, resumes {} generation {}, received {}, sent {}",
                short(&resume.session),
                resume.generation,
                resume.received,
                resume.sent
            ),
            Handshake::Proof(Proof { resume: None }) => f.write_str("Proof, opens a session"),
        }
    }
}

/// The first bytes of a session's id, which tell those of one run apart
pub(crate) fn short(session: &SessionId) -> impl fmt::Display + '_ {
    Short(&session.0)
}

struct Short<'a>(&'a [u8; 16]);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use rejoin_core::limits::FRAME_BYTES_MAX;
    use rejoin_core::wire::message::{BodyWriter, Outcome, StreamEnd};
    use std::time::Duration;

    use super::*;
    use crate::{Job, Setup, World};

    fn frame(flags: u8, full_len: usize, body: &[u8]) -> Vec<u8> {
        let len = (full_len as u16).to_le_bytes();
        [&[FRAME_VERSION, flags, len[0], len[1]], body, &[0x55; TAG_BYTES]].concat()
    }

    fn lines(frame: &[u8], role: Role, towards: Side) -> Vec<String> {
        let mut all = Vec::new();
        let names = |id: TaskId| (id == TaskId([1; 16])).then_some(3);
        messages(frame, role, towards, &mut Vec::new(), |said| all.push(said.with_names(&names).to_string()));
        all
    }

    fn assign(payload: &[u8]) -> ToWorker<'_> {
        let (task, token) = (TaskId([1; 16]), Token(17));
        ToWorker::Assign { task, token, attempt: 2, priority: 0, restores: false, payload }
    }

    fn to_worker() -> Vec<u8> {
        let mut buf = vec![0; BODY_BYTES_MAX];
        let mut body = BodyWriter::new(&mut buf);
        assert!(body.push(Class::Control, &Control::Ack { received: 41 }));
        assert!(body.push(Class::Numbered(12), &assign(&[7; 500])));
        assert!(body.push_void(13));
        assert!(body.push(Class::Loose, &ToWorker::Kept { token: Token(17), stream: Stream::Out, offset: 9 }));
        let len = body.len();
        buf.truncate(len);
        buf
    }

    const SAID: [&str; 4] = ["Ack 41", "Assign #12 task 3 t17 attempt 2", "Void #13", "Kept t17 stdout up to 9"];

    #[test]
    fn a_batch_is_read_in_its_order_compressed_or_not() {
        let body = to_worker();
        assert_eq!(lines(&frame(0, body.len(), &body), Role::Worker, Side::Peer), SAID);
        let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(body.len())];
        let len = lz4_flex::block::compress_into(&body, &mut packed).unwrap();
        packed.truncate(len);
        assert!(packed.len() < body.len());
        assert_eq!(lines(&frame(1, body.len(), &packed), Role::Worker, Side::Peer), SAID);
    }

    #[test]
    fn each_message_tells_its_number_its_task_and_its_attempt() {
        let body = to_worker();
        let (frame, mut scratch, mut all) = (frame(0, body.len(), &body), Vec::new(), Vec::new());
        messages(&frame, Role::Worker, Side::Peer, &mut scratch, |said| all.push(said));
        assert_eq!(all[1], Said::Numbered(12, Message::ToWorker(assign(&[7; 500]))));
        let numbers: Vec<_> = all.iter().map(Said::number).collect();
        assert_eq!(numbers, [None, Some(12), Some(13), None]);
        let of = |said: &Said<'_>| said.message().map(|m| (m.task(), m.token()));
        let attempts: Vec<_> = all.iter().map(of).collect();
        let token = Some(Token(17));
        assert_eq!(attempts, [None, Some((Some(TaskId([1; 16])), token)), None, Some((None, token))]);
        assert_eq!(scratch.capacity(), 0, "what is not compressed needs no memory");
    }

    #[test]
    fn each_role_and_direction_has_its_own_messages() {
        let (task, token, stream) = (TaskId([2; 16]), Token(4), Stream::Err);
        let one = |class, write: &dyn Fn(&mut BodyWriter<'_>, Class) -> bool| {
            let mut buf = vec![0; 1000];
            let mut body = BodyWriter::new(&mut buf);
            assert!(write(&mut body, class));
            let len = body.len();
            frame(0, len, &buf[..len])
        };
        let (outcome, result, streams) = (Outcome::Succeeded, &[][..], [StreamEnd::default(); 2]);
        let done = FromWorker::Result { task, token, outcome, result, streams };
        let said = one(Class::Numbered(1), &|body, class| body.push(class, &done));
        assert_eq!(lines(&said, Role::Worker, Side::Coordinator), ["Result #1 task 02020202 t4 Succeeded"]);
        let cancel = FromClient::Cancel { task };
        let said = one(Class::Numbered(2), &|body, class| body.push(class, &cancel));
        assert_eq!(lines(&said, Role::Client, Side::Coordinator), ["Cancel #2 task 02020202"]);
        let piece = ToClient::Output { task, token, stream, offset: 5, bytes: b"abc" };
        let said = one(Class::Loose, &|body, class| body.push(class, &piece));
        assert_eq!(lines(&said, Role::Client, Side::Peer), ["Output task 02020202 t4 stderr 5..8"]);
    }

    #[test]
    fn whatever_cannot_be_read_says_so_behind_what_could() {
        let body = to_worker();
        let unreadable = [Said::Unreadable.to_string()];
        let good = frame(0, body.len(), &body);
        // Cut off in its header, its body, or its tag; or with a body that goes on behind the last item.
        for end in [0, 3, 12, good.len() - 1] {
            assert_eq!(lines(&good[..end], Role::Worker, Side::Peer), unreadable, "cut off behind {end} bytes");
        }
        let longer = [&body[..], &[9]].concat();
        let behind = lines(&frame(0, longer.len(), &longer), Role::Worker, Side::Peer);
        assert_eq!(behind, [&SAID[..], &["unreadable"]].concat());
        // What lz4 cannot read, and what would be larger than any body may be.
        assert_eq!(lines(&frame(1, 100, &[0xf0; 30]), Role::Worker, Side::Peer), unreadable);
        assert_eq!(lines(&frame(1, BODY_BYTES_MAX + 1, &[0; 30]), Role::Worker, Side::Peer), unreadable);
        // A message of the handshake that goes the wrong way.
        let mut hello = vec![0; FRAME_BYTES_MAX];
        let len = Refusal::RetryAfter(7).encode(&mut hello);
        assert_eq!(lines(&hello[..len], Role::Worker, Side::Peer), ["RetryAfter 7 µs"]);
        assert_eq!(lines(&hello[..len], Role::Worker, Side::Coordinator), unreadable);
    }

    #[test]
    fn everything_that_the_machines_say_can_be_read() {
        let mut world = World::new(Setup::default());
        world.tap = Some(Vec::new());
        let task = world.submit("greet", Job::prints(&[b'x'; 5000]));
        world.run_for(Duration::from_millis(20));
        world.reset(0);
        world.drive_until("the task is over", |world| world.succeeded(task));
        let mut all = Vec::new();
        let mut scratch = Vec::new();
        for tapped in world.tap.iter().flatten() {
            messages(&tapped.bytes, Role::Worker, tapped.at, &mut scratch, |said| all.push(said.to_string()));
        }
        assert!(!all.iter().any(|line| line == "unreadable"), "{all:?}");
        for start in ["Hello", "Challenge", "Proof", "Welcome", "Begin", "Inventory", "Assign #", "Output", "Result #"]
        {
            assert!(all.iter().any(|line| line.starts_with(start)), "nobody said {start}: {all:?}");
        }
    }
}
