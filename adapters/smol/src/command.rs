//! A task of this adapter: a command to run, as it travels in the task's payload

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exec::CommandSpec;

/// Time between SIGTERM and SIGKILL (TASK-7)
pub const GRACE: Duration = Duration::from_secs(10);

/// Version of the payload format, its first byte
const VERSION: u8 = 1;

/// A command to run
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments; at least the program
    pub argv: Vec<OsString>,
    /// Where to run it; `None` is where the worker runs
    pub cwd: Option<PathBuf>,
    /// How long an attempt may take
    pub timeout: Option<Duration>,
    /// Most bytes it may write to each of its output streams (LOG-1)
    pub output_bytes_max: u64,
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    argv: Vec<&'a serde_bytes::Bytes>,
    #[serde(borrow)]
    cwd: Option<&'a serde_bytes::Bytes>,
    timeout_us: Option<u64>,
    output_bytes_max: u64,
}

impl Command {
    /// Writes it into a payload
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire {
            argv: self.argv.iter().map(|arg| serde_bytes::Bytes::new(arg.as_bytes())).collect(),
            cwd: self.cwd.as_ref().map(|cwd| serde_bytes::Bytes::new(cwd.as_os_str().as_bytes())),
            timeout_us: self.timeout.map(|timeout| u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)),
            output_bytes_max: self.output_bytes_max,
        };
        match postcard::to_extend(&wire, vec![VERSION]) {
            Ok(bytes) => bytes,
            Err(_) => unreachable!("memory grows, and every field can be encoded"),
        }
    }

    /// Reads it from a payload; `None` if it is not one
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (wire, rest) = postcard::take_from_bytes::<Wire<'_>>(payload.strip_prefix(&[VERSION])?).ok()?;
        if !rest.is_empty() || wire.argv.is_empty() {
            return None;
        }
        Some(Command {
            argv: wire.argv.iter().map(|arg| OsString::from_vec(arg.to_vec())).collect(),
            cwd: wire.cwd.map(|cwd| OsString::from_vec(cwd.to_vec()).into()),
            timeout: wire.timeout_us.map(Duration::from_micros),
            output_bytes_max: wire.output_bytes_max,
        })
    }

    /// What the executor is to do, with what the task may know of itself in its environment
    pub(crate) fn spec(self, env: Vec<(OsString, OsString)>) -> CommandSpec {
        let mut argv = self.argv.into_iter();
        CommandSpec {
            program: argv.next().unwrap_or_default(),
            args: argv.collect(),
            env,
            cwd: self.cwd,
            stdin: None,
            timeout: self.timeout,
            grace: GRACE,
            output_bytes_max: self.output_bytes_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_its_payload_whatever_bytes_it_has() {
        let command = Command {
            argv: vec!["printf".into(), OsString::from_vec(vec![0xff, b'{', b'}', b'\n'])],
            cwd: Some("/tmp".into()),
            timeout: Some(Duration::from_millis(1500)),
            output_bytes_max: 7,
        };
        assert_eq!(Command::decode(&command.encode()), Some(command.clone()));
        let mut longer = command.encode();
        longer.push(0);
        assert_eq!(Command::decode(&longer), None);
        assert_eq!(Command::decode(b""), None);
        let nothing = Command { argv: vec![], ..command };
        assert_eq!(Command::decode(&nothing.encode()), None);
    }
}
