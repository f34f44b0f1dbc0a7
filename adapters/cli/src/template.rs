//! The command of a run, with the places where an item goes
//!
//! `{}` stands for the item wherever it occurs in the command, any number of
//! times, also inside an argument and in the program's name. A command without
//! any `{}` gets the item as its last argument. No shell is involved: an item
//! never becomes more or less than the one string it is.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::items::label;

/// Most bytes of one whole command, each argument counted with a terminator
///
/// A command travels to its worker as one message.
pub const COMMAND_MAX: usize = 40_000;

/// A command with the places where an item goes
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    // Every argument as the pieces between its places; one piece: no place.
    arguments: Vec<Vec<Vec<u8>>>,
}

impl Template {
    /// The template of a command as it was written
    ///
    /// # Errors
    ///
    /// [`TemplateError::Empty`] without a program,
    /// [`TemplateError::TooLong`] if not even an empty item would fit.
    pub fn new(command: Vec<OsString>) -> Result<Self, TemplateError> {
        if command.is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut arguments: Vec<_> = command.into_iter().map(|argument| pieces(&argument.into_vec())).collect();
        if arguments.iter().all(|pieces| pieces.len() == 1) {
            arguments.push(pieces(PLACE));
        }
        let template = Self { arguments };
        match template.len(0) {
            len if len > COMMAND_MAX => Err(TemplateError::TooLong { item: None, len }),
            _ => Ok(template),
        }
    }

    /// The command for an item: the program and its arguments
    ///
    /// # Errors
    ///
    /// [`TemplateError::TooLong`] if the command would exceed [`COMMAND_MAX`].
    pub fn command(&self, item: &OsStr) -> Result<Vec<OsString>, TemplateError> {
        // Measured before it is built: an item of 32 KiB may go to many places.
        let len = self.len(item.len());
        if len > COMMAND_MAX {
            return Err(TemplateError::TooLong { item: Some(label(item)), len });
        }
        let filled = |pieces: &Vec<Vec<u8>>| OsString::from_vec(pieces.join(item.as_bytes()));
        Ok(self.arguments.iter().map(filled).collect())
    }

    /// Length of the command for an item of that length
    fn len(&self, item: usize) -> usize {
        let argument = |pieces: &Vec<Vec<u8>>| {
            let literal: usize = pieces.iter().map(Vec::len).sum();
            item.saturating_mul(pieces.len() - 1).saturating_add(literal + 1)
        };
        self.arguments.iter().map(argument).fold(0, usize::saturating_add)
    }
}

/// Why there is no command to run
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// There is no program
    Empty,
    /// The command is longer than [`COMMAND_MAX`]
    TooLong {
        /// Label of the item the command is for, none if it is too long for any
        item: Option<String>,
        /// Length of the command
        len: usize,
    },
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "no command given"),
            Self::TooLong { item: None, len } => {
                write!(f, "the command has {len} bytes, more than {COMMAND_MAX}")
            }
            Self::TooLong { item: Some(item), len } => {
                write!(f, "the command for item {item} has {len} bytes, more than {COMMAND_MAX}")
            }
        }
    }
}

impl std::error::Error for TemplateError {}

/// What stands for the item
const PLACE: &[u8] = b"{}";

/// What is before, between and after the places of an argument, found from the left
fn pieces(mut argument: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    while let Some(at) = argument.windows(PLACE.len()).position(|window| window == PLACE) {
        pieces.push(argument[..at].to_vec());
        argument = &argument[at + PLACE.len()..];
    }
    pieces.push(argument.to_vec());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn filled(command: &[&str], item: &str) -> Vec<OsString> {
        Template::new(command.iter().map(OsString::from).collect()).unwrap().command(OsStr::new(item)).unwrap()
    }

    #[test]
    fn the_item_is_put_everywhere() {
        assert_eq!(filled(&["cp", "{}", "a{}b{}", "{{}}", "x"], "i t"), ["cp", "i t", "ai tbi t", "{i t}", "x"]);
        assert_eq!(filled(&["./{}.sh"], "go"), ["./go.sh"]);
        assert_eq!(filled(&["{}{}"], ""), [""]);
    }

    #[test]
    fn without_a_place_the_item_comes_last() {
        assert_eq!(filled(&["gzip", "-9"], "f"), ["gzip", "-9", "f"]);
        assert_eq!(filled(&["echo", "{ }", "}{"], ""), ["echo", "{ }", "}{", ""]);
    }

    #[test]
    fn an_item_is_not_expanded_again() {
        assert_eq!(filled(&["echo", "a{}", "{}"], "{}"), ["echo", "a{}", "{}"]);
        // The braces around the place and those of the item do not pair up.
        assert_eq!(filled(&["{{}}"], "}{"), ["{}{}"]);
    }

    #[test]
    fn bytes_that_are_not_utf8_pass_through() {
        let template = Template::new(vec![OsString::from_vec(b"\xfe{}\xff".to_vec())]).unwrap();
        let command = template.command(OsStr::from_bytes(b"\x80")).unwrap();
        assert_eq!(command, [OsStr::from_bytes(b"\xfe\x80\xff")]);
    }

    #[test]
    fn no_program_is_an_error() {
        assert_eq!(Template::new(Vec::new()), Err(TemplateError::Empty));
    }

    #[test]
    fn the_longest_command_passes_and_a_longer_one_is_named() {
        let template = Template::new(vec!["c".into(), "{}{}".into()]).unwrap();
        // "c", its terminator, two items, their terminator
        let fits = "x".repeat((COMMAND_MAX - 3) / 2);
        assert!(template.command(OsStr::new(&fits)).is_ok());
        let error = template.command(OsStr::new(&(fits + "x"))).unwrap_err();
        assert!(error.to_string().starts_with("the command for item \"xxx"), "{error}");
        assert!(error.to_string().ends_with(" has 40001 bytes, more than 40000"), "{error}");
    }

    #[test]
    fn a_command_too_long_for_any_item_is_refused_at_once() {
        assert_eq!(
            Template::new(vec!["x".repeat(COMMAND_MAX).into()]),
            Err(TemplateError::TooLong { item: None, len: COMMAND_MAX + 2 })
        );
        assert!(Template::new(vec!["".into(); COMMAND_MAX + 1]).is_err());
    }

    /// A command made of small letters, so that it holds no place by itself
    fn words(shape: &[Vec<u8>]) -> Vec<String> {
        let word = |bytes: &Vec<u8>| bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
        shape.iter().take(20).map(word).collect()
    }

    quickcheck! {
        fn arguments_without_a_place_are_unchanged(shape: Vec<Vec<u8>>, item: u64) -> bool {
            let item = item.to_string();
            let mut command = vec!["prog".to_owned()];
            command.extend(words(&shape));
            let words: Vec<_> = command.iter().map(String::as_str).collect();
            let result = filled(&words, &item);
            result.len() == words.len() + 1
                && result[..words.len()].iter().eq(&words)
                && *result[words.len()] == *item
        }

        fn every_place_is_filled(shape: Vec<Vec<u8>>, item: String) -> bool {
            let words = words(&shape);
            let result = filled(&["p", &words.join("{}"), "{}"], &item);
            result == ["p", words.join(&item).as_str(), item.as_str()]
        }

        fn the_measure_is_that_of_the_command(shape: Vec<Vec<u8>>, item: u64) -> bool {
            let word = words(&shape).join("{}");
            let template = Template::new(vec![word.into(), "x".into()]).unwrap();
            let item = OsString::from(item.to_string());
            let command = template.command(&item).unwrap();
            let measured: usize = command.iter().map(|argument| argument.len() + 1).sum();
            measured == template.len(item.len())
        }
    }
}
