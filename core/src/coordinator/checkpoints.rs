//! What a task's next attempt starts from (CKPT-1 to CKPT-4)

use crate::ids::Token;
use crate::journal::Record;
use crate::limits::INLINE_BYTES_MAX;
use crate::planted::{self, Bug};
use crate::wire::message::CheckpointRefused;

use super::Desk;
use super::peers::{PeerIx, Sent};
use super::tasks::Checkpoint;

impl Desk {
    /// A worker offers a checkpoint: it is durable before the worker is told so, or refused with a reason
    pub(super) fn take_checkpoint(&mut self, ix: PeerIx, token: Token, number: u64, bytes: &[u8]) {
        let refused = self.keep_checkpoint(ix, token, number, bytes).err();
        self.stats.checkpoints += u64::from(refused.is_none());
        self.stats.checkpoints_refused += u64::from(refused.is_some());
        self.say(ix, Sent::Checkpointed(token, number, refused));
    }

    fn keep_checkpoint(
        &mut self,
        ix: PeerIx,
        token: Token,
        number: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointRefused> {
        let attempt = self.tasks.attempts.get(&token).filter(|attempt| attempt.peer == ix);
        let id = attempt.ok_or(CheckpointRefused::Stale)?.task;
        let task = self.tasks.all.get(&id).ok_or(CheckpointRefused::Stale)?;
        let newest = task.live.last() == Some(&token);
        let known = task.checkpoint.as_ref();
        if known.is_some_and(|known| (known.token, known.number) == (token, number)) {
            // Sent again: it is kept already.
            return Ok(());
        }
        let stale = if planted::is(Bug::StaleCheckpoint) {
            known.is_some_and(|known| known.token == token && known.number >= number)
        } else {
            !newest || known.is_some_and(|known| known.number >= number)
        };
        if stale {
            return Err(CheckpointRefused::Stale);
        }
        if bytes.len() > INLINE_BYTES_MAX {
            return Err(CheckpointRefused::TooLarge);
        }
        let others = self.tasks.checkpoint_bytes - known.map_or(0, |known| known.bytes.len() as u64);
        if others + bytes.len() as u64 > self.config.checkpoint_bytes_max {
            return Err(CheckpointRefused::Full);
        }
        self.tasks.set_checkpoint(id, Some(Checkpoint { token, number, bytes: bytes.into() }));
        self.gate.write(&Record::Checkpoint { task: id, token, number, bytes });
        self.story.note(self.now, id, Some(token), "checkpoint kept");
        Ok(())
    }
}
