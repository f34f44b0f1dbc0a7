//! The last transitions of a machine, for people who ask what happened to a task

use alloc::collections::VecDeque;
use core::fmt;

use crate::ids::{TaskId, Token};
use crate::time::Instant;

const NOTES_MAX: usize = 128;

/// One transition of one attempt
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// When
    pub at: Instant,
    /// Which task
    pub task: TaskId,
    /// Which attempt, where one is concerned
    pub token: Option<Token>,
    /// What
    pub what: &'static str,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} ", self.at, self.task)?;
        if let Some(token) = self.token {
            write!(f, "{token} ")?;
        }
        f.write_str(self.what)
    }
}

/// A ring of the last transitions; costs 8 KiB, once it is full
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    notes: VecDeque<Note>,
}

impl Story {
    /// Allocates all its room
    pub(crate) fn reserved() -> Self {
        Story { notes: VecDeque::with_capacity(NOTES_MAX) }
    }

    pub(crate) fn note(&mut self, at: Instant, task: TaskId, token: Option<Token>, what: &'static str) {
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { at, task, token, what });
    }

    pub(crate) fn of(&self, task: TaskId) -> impl Iterator<Item = Note> + '_ {
        self.notes.iter().filter(move |note| note.task == task).copied()
    }
}
