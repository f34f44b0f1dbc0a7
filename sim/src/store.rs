//! What a worker keeps of an attempt that is over, until that is settled (SESS-9)

use rejoin_core::blob::ChunkName;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::wire::message::{Outcome, StreamEnd};
use rejoin_core::worker::{Finished, Input, StreamMeter, Worker};
use rejoin_core::{Instant, Rejected};

/// An attempt as it stands on a worker's disk
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) task: TaskId,
    pub(crate) token: Token,
    attempt: u32,
    outcome: Outcome,
    result: Vec<u8>,
    /// Length and names of chunks of a large result
    large: Option<(u64, Vec<ChunkName>)>,
    /// The bytes of that, if it is one
    pub(crate) bytes: Vec<u8>,
    checkpoint: Option<(u64, Vec<u8>)>,
    output: StreamEnd,
}

impl Kept {
    /// What there is to keep, if there still is, with what it has printed, and returned if that is large
    pub(crate) fn of(worker: &Worker, token: Token, printed: &[u8], returned: &[u8]) -> Option<Kept> {
        let Finished { task, token, attempt, outcome, result, large, checkpoint } = worker.finished(token)?;
        let bytes = if large.is_some() { returned.to_vec() } else { Vec::new() };
        let large = large.map(|(length, names)| (length, names.to_vec()));
        let checkpoint = checkpoint.map(|(number, bytes)| (number, bytes.to_vec()));
        let mut meter = StreamMeter::new();
        meter.update(printed);
        Some(Kept {
            task,
            token,
            attempt,
            outcome,
            result: result.into(),
            large,
            bytes,
            checkpoint,
            output: meter.end(),
        })
    }

    /// Tells the next life of it
    pub(crate) fn restore(&self, worker: &mut Worker, now: Instant) -> Result<(), Rejected> {
        let Kept { task, token, attempt, outcome, ref result, ref large, ref checkpoint, output, .. } = *self;
        let large = large.as_ref().map(|(length, names)| (*length, &names[..]));
        let checkpoint = checkpoint.as_ref().map(|(number, bytes)| (*number, &bytes[..]));
        let finished = Finished { task, token, attempt, outcome, result, large, checkpoint };
        worker.handle(now, Input::Restore { finished, streams: [output, StreamEnd::default()] })
    }
}
