//! What a task's next attempt starts from (CKPT-1 to CKPT-4)
//!
//! Which checkpoint is taken and how the worker is told is the same for all; those that fit into a message come here, those
//! in chunks by `uploads`.

use crate::ids::{TaskId, Token};
use crate::journal::Record;
use crate::limits::INLINE_BYTES_MAX;
use crate::planted::{self, Bug};
use crate::wire::message::CheckpointRefused;

use super::Desk;
use super::peers::{PeerIx, Sent};
use super::tasks::{Body, Checkpoint};

impl Desk {
    /// A worker has a checkpoint that fits into a message: it is durable before the worker is told so, or refused
    pub(super) fn take_checkpoint(&mut self, ix: PeerIx, token: Token, number: u64, bytes: &[u8]) {
        let refused = self.keep_checkpoint(ix, token, number, bytes).err();
        self.answer_checkpoint(ix, token, number, refused);
    }

    pub(super) fn answer_checkpoint(
        &mut self,
        ix: PeerIx,
        token: Token,
        number: u64,
        refused: Option<CheckpointRefused>,
    ) {
        self.stats.checkpoints += u64::from(refused.is_none());
        self.stats.checkpoints_refused += u64::from(refused.is_some());
        self.say(ix, Sent::Checkpointed(token, number, refused));
    }

    /// Whether a checkpoint is kept already; refused if there is, or will be, a newer one (CKPT-3)
    pub(super) fn checkpoint_of(&self, ix: PeerIx, token: Token, number: u64) -> Result<bool, CheckpointRefused> {
        let attempt = self.tasks.attempts.get(&token).filter(|attempt| attempt.peer == ix);
        let id = attempt.ok_or(CheckpointRefused::Stale)?.task;
        let task = self.tasks.all.get(&id).ok_or(CheckpointRefused::Stale)?;
        let newest = task.live.last() == Some(&token);
        let known = task.checkpoint.as_ref();
        if known.is_some_and(|known| (known.token, known.number) == (token, number)) {
            // Sent again: it is kept already.
            return Ok(true);
        }
        let stale = if planted::is(Bug::StaleCheckpoint) {
            known.is_some_and(|known| known.token == token && known.number >= number)
        } else {
            !newest || known.is_some_and(|known| known.number >= number)
        };
        if stale { Err(CheckpointRefused::Stale) } else { Ok(false) }
    }

    fn keep_checkpoint(
        &mut self,
        ix: PeerIx,
        token: Token,
        number: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointRefused> {
        if self.checkpoint_of(ix, token, number)? {
            return Ok(());
        }
        if bytes.len() > INLINE_BYTES_MAX {
            return Err(CheckpointRefused::TooLarge);
        }
        let id = self.tasks.attempts.get(&token).ok_or(CheckpointRefused::Stale)?.task;
        let known = self.tasks.all.get(&id).and_then(|task| task.checkpoint.as_ref());
        let others = self.tasks.checkpoint_bytes + self.tasks.promised - known.map_or(0, Checkpoint::inline_bytes);
        if others + bytes.len() as u64 > self.config.checkpoint_bytes_max {
            return Err(CheckpointRefused::Full);
        }
        self.gate.write(&Record::Checkpoint { task: id, token, number, bytes });
        self.checkpoint_kept(id, Checkpoint { token, number, body: Body::Inline(bytes.into()) });
        Ok(())
    }

    /// A checkpoint stands in the journal: the task's next attempt starts from it
    pub(super) fn checkpoint_kept(&mut self, id: TaskId, checkpoint: Checkpoint) {
        let token = checkpoint.token;
        self.tasks.set_checkpoint(id, Some(checkpoint));
        self.drop_chunks(id);
        self.renew_restores(id, Some(token));
        self.story.note(self.now, id, Some(token), "checkpoint kept");
    }
}
