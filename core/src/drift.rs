//! What a worker holds, as a number that both ends can count (SESS-8)
//!
//! Each attempt has a mark, and a set of attempts the XOR of theirs: two sets that differ have the same with a chance of
//! one in 2^64. A worker says its own with each heartbeat; the coordinator compares it with what it believes.

use sha2::{Digest, Sha256};

use crate::ids::{TaskId, Token};

/// The mark of an attempt: 8 bytes of a hash of task and token
pub fn mark(task: TaskId, token: Token) -> u64 {
    let mut hash = Sha256::new();
    hash.update(b"rejoin held");
    hash.update(task.0);
    hash.update(token.0.to_le_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sess_8_marks_are_of_task_and_token_and_as_protocol_md_says() {
        let task = TaskId([0x11; 16]);
        assert_eq!(mark(task, Token(1)), 0xfbe9_4a25_d38e_809c);
        assert_ne!(mark(task, Token(1)), mark(task, Token(2)));
        assert_ne!(mark(task, Token(1)), mark(TaskId([0x12; 16]), Token(1)));
    }
}
