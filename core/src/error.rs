//! What is refused, and why

use core::fmt;

/// A setting is out of range
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    /// Which setting
    pub field: &'static str,
    /// What would be right
    pub allowed: &'static str,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "setting `{}` is out of range: it must be {}", self.field, self.allowed)
    }
}

impl core::error::Error for ConfigError {}

/// A command was refused and changed nothing
///
/// Peers never cause it: what they do wrong ends their connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejected {
    /// The machine is not in a state in which this can happen
    NotExpected,
    /// No such task or attempt
    Unknown,
    /// The same task id stands for another content (TASK-1)
    Conflict,
    /// A table is at its limit; try again later
    Full,
    /// The input exceeds [`INLINE_BYTES_MAX`](crate::limits::INLINE_BYTES_MAX)
    TooLarge,
    /// A value is out of range
    BadSpec,
    /// Too many connections at once: come back after this many microseconds (BACK-2)
    RetryAfter(u64),
    /// The machine has stopped
    Stopped,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::NotExpected => f.write_str("nothing of the kind is expected now"),
            Rejected::Unknown => f.write_str("no such task or attempt"),
            Rejected::Conflict => f.write_str("this task id already stands for another content"),
            Rejected::Full => f.write_str("the table is full; try again later"),
            Rejected::TooLarge => f.write_str("the input is larger than 48 KiB"),
            Rejected::BadSpec => f.write_str(
                "a value of the specification is out of range, or an exclusive task could be replaced before its lease ends",
            ),
            Rejected::RetryAfter(us) => write!(f, "too many connections at once; come back in {us} µs"),
            Rejected::Stopped => f.write_str("the machine has stopped"),
        }
    }
}

impl core::error::Error for Rejected {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::string::ToString;

    #[test]
    fn a_refusal_says_which_one_it_is_and_when_to_come_back() {
        let all = [
            Rejected::NotExpected,
            Rejected::Unknown,
            Rejected::Conflict,
            Rejected::Full,
            Rejected::TooLarge,
            Rejected::BadSpec,
            Rejected::RetryAfter(1500),
            Rejected::Stopped,
        ];
        assert_eq!(all.map(|rejected| rejected.to_string()).into_iter().collect::<BTreeSet<_>>().len(), all.len());
        assert!(Rejected::RetryAfter(1500).to_string().contains("1500 µs"));
    }
}
