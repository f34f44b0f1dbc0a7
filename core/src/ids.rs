//! Names of things, each a type of its own

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::limits::NAME_BYTES_MAX;

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

bytes_id! {
    /// A task, named by its submitter; the key of idempotent submits (TASK-1)
    TaskId, 16
}
bytes_id! {
    /// A session between one peer and one epoch of the coordinator (SESS-6)
    SessionId, 16
}
bytes_id! {
    /// One life of a worker's or client's memory; a new one says that what was held before is gone
    BootId, 16
}
bytes_id! {
    /// The coordinator's cluster, the same for all its epochs
    ClusterId, 16
}
bytes_id! {
    /// The public name of a key (AUTH-6)
    KeyId, 8
}

impl TaskId {
    /// Makes an id from any text, by hashing it
    pub fn from_text(text: &str) -> Self {
        let hash = Sha256::digest(text.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        TaskId(id)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

number_id! {
    /// The fencing token of one attempt: rising, never given twice (TASK-2)
    Token, "t"
}
number_id! {
    /// A transport connection, named by whoever accepted it; never used twice
    ConnId, "c"
}

/// The name of a worker or client: 1 to 64 letters, digits, dots, dashes or underscores
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerName(heapless::String<NAME_BYTES_MAX>);

impl PeerName {
    /// Returns the name as text
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a [`PeerName`]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadName;

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a name is 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes or underscores")
    }
}

impl core::error::Error for BadName {}

impl FromStr for PeerName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() || !text.bytes().all(legal) {
            return Err(BadName);
        }
        heapless::String::try_from(text).map(PeerName).map_err(|_| BadName)
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key's holder may do (AUTH-6)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Takes tasks and runs them
    Worker,
    /// Submits tasks and follows them
    Client,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn names_are_parsed_at_the_border() {
        assert_eq!("lab-3.rack_1".parse::<PeerName>().map(|n| n.as_str().len()), Ok(12));
        for bad in ["", "a b", "naïve", "a/b", &"x".repeat(65)] {
            assert_eq!(bad.parse::<PeerName>(), Err(BadName));
        }
        assert!("x".repeat(64).parse::<PeerName>().is_ok());
    }

    #[test]
    fn a_bad_name_is_told_what_names_are() {
        assert!(BadName.to_string().contains(&NAME_BYTES_MAX.to_string()), "{BadName}");
    }

    #[test]
    fn text_keys_are_hashed_into_task_ids() {
        assert_eq!(TaskId::from_text("a"), TaskId::from_text("a"));
        assert_ne!(TaskId::from_text("a"), TaskId::from_text("b"));
    }
}
