//! Loads for figures, and what they come to
//!
//! Time is measured by whoever runs them: nothing here looks at a clock of this machine.

use std::time::Duration;

use rejoin_core::limits::BODY_BYTES_MAX;
use rejoin_core::wire::codec::{FRAME_VERSION, HEADER_BYTES, TAG_BYTES};
use rejoin_core::wire::message::BodyReader;

use crate::draws::{Draws, Purpose};
use crate::schedule::{Entry, Knob, Schedule, Setting, Task, What};
use crate::simulation::{Figures, Simulation};

/// Tasks that each worker runs at a time
const SLOTS: u64 = 8;
/// Workers for each client
const WORKERS_PER_CLIENT: u16 = 25;

/// A load without faults
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Workers
    pub workers: u16,
    /// Tasks
    pub tasks: u32,
    /// Submitted evenly in this time
    pub span: Duration,
}

impl Load {
    /// Those of the published figures: few nodes, a hundred and a thousand
    pub const ALL: [Load; 3] = [
        Load { workers: 8, tasks: 10_000, span: Duration::from_secs(10) },
        Load { workers: 98, tasks: 20_000, span: Duration::from_secs(5) },
        Load { workers: 980, tasks: 40_000, span: Duration::from_secs(5) },
    ];

    /// The same load with a share of its tasks and time, at least one of both
    pub fn share(self, of: u32) -> Load {
        let of = of.max(1);
        let span = (self.span / of).max(Duration::from_secs(1));
        Load { tasks: (self.tasks / of).max(1), span, ..self }
    }

    /// Short tasks with input, output, results, progress and checkpoints; their clients follow each
    pub fn schedule(self) -> Schedule {
        let mut schedule = Schedule::quiet(1);
        schedule.workers = self.workers;
        schedule.clients = (self.workers / WORKERS_PER_CLIENT).clamp(2, 100);
        schedule.safety = self.span;
        schedule.settings = [(Knob::Slots, SLOTS), (Knob::Prefetch, SLOTS), (Knob::AttemptsMax, 64)]
            .map(|(name, value)| Setting { name, value })
            .into();
        let mut draws = Draws::new(schedule.seed, Purpose::Load, 0);
        for number in 0..self.tasks {
            let at = self.span * number / self.tasks;
            let mut task = Task::new(draws.below(schedule.clients.into()) as u16, number);
            task.takes = Duration::from_micros(draws.between(4_000, 40_000));
            task.priority = draws.below(5) as u8;
            task.input = draws.between_log(10, 500) as u32;
            task.prints = draws.between_log(10, 500) as u32;
            task.returns = draws.between_log(1, 100) as u32;
            task.steps = draws.between(2, 3) as u8;
            schedule.entries.push(Entry { at, what: What::Submit(task) });
        }
        schedule
    }
}

/// What a schedule comes to
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// As any run has them
    pub figures: Figures,
    /// Messages: items of sealed frames, and those of handshakes
    pub messages: u64,
}

/// Runs a schedule, and counts the messages in it
///
/// # Panics
///
/// If something does not hold: figures of what is broken say nothing.
pub fn count(schedule: &Schedule) -> Counted {
    let mut simulation = Simulation::new(schedule);
    simulation.count_messages();
    simulation.pass_phases();
    let messages = simulation.messages();
    let ending = simulation.end();
    assert_eq!(ending.violation, None, "a load without faults holds");
    Counted { figures: ending.figures, messages }
}

/// How many messages are in what an end sends: one of a handshake, or those of a sealed frame, which can be read by all
pub(crate) fn messages_in(sent: &[u8]) -> u64 {
    let [FRAME_VERSION, flags, low, high, rest @ ..] = sent else { return 1 };
    debug_assert_eq!(sent.len() - rest.len(), HEADER_BYTES);
    let body = &rest[..rest.len().saturating_sub(TAG_BYTES)];
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    if flags & 1 == 0 {
        return BodyReader::new(body).count() as u64;
    }
    let mut whole = vec![0; length.min(BODY_BYTES_MAX)];
    let read = lz4_flex::block::decompress_into(body, &mut whole);
    read.map_or(0, |read| BodyReader::new(&whole[..read]).count() as u64)
}

#[cfg(test)]
mod tests {
    use rejoin_core::wire::message::{BodyWriter, Class};

    use super::*;

    #[test]
    fn messages_are_counted_as_they_stand_in_frames_compressed_or_not() {
        let mut body = vec![0; 1000];
        let mut writer = BodyWriter::new(&mut body);
        (0..5).for_each(|_| assert!(writer.push(Class::Loose, &[7_u8; 32])));
        let length = writer.len();
        body.truncate(length);
        let frame = |flags: u8, body: &[u8]| {
            let head = [FRAME_VERSION, flags, length as u8, (length >> 8) as u8];
            [&head[..], body, &[0; TAG_BYTES]].concat()
        };
        assert_eq!(messages_in(&frame(0, &body)), 5);
        let mut packed = vec![0; 1000];
        let len = lz4_flex::block::compress_into(&body, &mut packed).unwrap();
        assert_eq!(messages_in(&frame(1, &packed[..len])), 5);
        assert_eq!(messages_in(b"Hello"), 1);
    }

    #[test]
    fn a_load_is_carried_out_and_has_no_more_than_four_messages_in_a_frame() {
        let load = Load::ALL[0].share(10);
        let counted = count(&load.schedule());
        assert_eq!(counted.figures.told, 1000);
        let (messages, frames) = (counted.messages, counted.figures.frames);
        assert!(messages > 10 * 1000 && (frames..=frames * 4).contains(&messages), "{messages} in {frames}");
        assert_eq!(Simulation::run(&load.schedule()).figures, counted.figures);
    }
}
