//! The items a run works on: where they come from, their limits, how they are shown
//!
//! An item is a string of bytes without a NUL; it need not be UTF-8. In a file
//! every line is an item, byte for byte: nothing is trimmed, no backslash or
//! quote means anything, and a carriage return before the line's end belongs to
//! the item, an empty line an empty one. The last line need not be terminated.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Longest item in bytes
pub const ITEM_MAX: usize = 32 * 1024;

/// Most items of one run
pub const ITEMS_MAX: usize = 1_000_000;

/// Most bytes all items of one run may have together
pub const ITEMS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Most characters of a label between its quotes
pub const LABEL_MAX: usize = 80;

/// Where a run's items come from
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Given on the command line after `:::`
    Listed(Vec<OsString>),
    /// The lines of a file
    File(PathBuf),
    /// The lines of standard input
    Stdin,
}

impl Source {
    /// All items, in order, or the first thing that is wrong with them
    ///
    /// `stdin` is touched only if the items come from there.
    ///
    /// # Errors
    ///
    /// If the items cannot be read or one of the limits is exceeded.
    pub fn load(self, stdin: impl BufRead) -> Result<Vec<OsString>, ItemsError> {
        match self {
            Self::Listed(words) => listed(words),
            Self::File(path) => match File::open(&path) {
                Ok(file) => lines(BufReader::new(file), &label(path.as_os_str())),
                Err(error) => Err(ItemsError::Read { from: label(path.as_os_str()), error }),
            },
            Self::Stdin => lines(stdin, "standard input"),
        }
    }
}

/// Why a run's items cannot be used
#[derive(Debug)]
pub enum ItemsError {
    /// Reading failed
    Read {
        /// What was being read
        from: String,
        /// What went wrong
        error: io::Error,
    },
    /// An item is longer than [`ITEM_MAX`]
    TooLong {
        /// Where the item stands
        place: Place,
    },
    /// An item has a NUL byte, which no program can be given in an argument
    Nul {
        /// Where the item stands
        place: Place,
    },
    /// There are more than [`ITEMS_MAX`] items
    TooMany {
        /// Where the first one too many stands
        place: Place,
    },
    /// The items have more than [`ITEMS_BYTES_MAX`] bytes together
    TooLarge {
        /// Where the first one too many stands
        place: Place,
    },
}

/// Where an item stands, counted from 1
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// That many items after `:::`
    Listed(usize),
    /// In a line of a file
    Line {
        /// What was being read
        from: String,
        /// The line's number
        number: usize,
    },
}

impl fmt::Display for ItemsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { from, error } => write!(f, "cannot read the items from {from}: {error}"),
            Self::TooLong { place } => {
                write!(f, "{place}: the item is longer than {ITEM_MAX} bytes")
            }
            Self::Nul { place } => write!(f, "{place}: the item has a NUL byte, which cannot be passed to a program"),
            Self::TooMany { place } => {
                write!(f, "{place}: more than {ITEMS_MAX} items; split them over several runs")
            }
            Self::TooLarge { place } => write!(
                f,
                "{place}: the items have more than {ITEMS_BYTES_MAX} bytes together; \
                 split them over several runs"
            ),
        }
    }
}

impl std::error::Error for ItemsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let Self::Read { error, .. } = self else { return None };
        Some(error)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed(number) => write!(f, "item {number} after `:::`"),
            Self::Line { from, number } => write!(f, "{from}, line {number}"),
        }
    }
}

/// How an item is shown to people: quoted, on one line, shortened
///
/// Whatever could move a terminal's cursor or hide something is escaped, and so
/// are bytes that are not UTF-8.
#[must_use]
pub fn label(item: &OsStr) -> String {
    let mut shown = Vec::new();
    'item: for chunk in item.as_bytes().utf8_chunks() {
        let plain = chunk.valid().chars().map(escaped);
        let broken = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        for piece in plain.chain(broken) {
            shown.push(piece);
            if shown.len() > LABEL_MAX {
                break 'item;
            }
        }
    }
    shorten(&shown)
}

/// The pieces in quotes, cut between two of them so that no escape is torn
fn shorten(pieces: &[String]) -> String {
    let chars = |pieces: &[String]| pieces.iter().map(|piece| piece.chars().count()).sum::<usize>();
    if chars(pieces) <= LABEL_MAX {
        return format!("\"{}\"", pieces.concat());
    }
    let mut kept = pieces.len();
    while chars(&pieces[..kept]) >= LABEL_MAX {
        kept -= 1;
    }
    format!("\"{}…\"", pieces[..kept].concat())
}

fn escaped(c: char) -> String {
    // A single quote needs no escape between double quotes.
    if c == '\'' { c.to_string() } else { c.escape_debug().to_string() }
}

fn listed(words: Vec<OsString>) -> Result<Vec<OsString>, ItemsError> {
    let mut items = Items::default();
    for (index, word) in words.into_iter().enumerate() {
        items.push(word.into_vec(), || Place::Listed(index + 1))?;
    }
    Ok(items.kept)
}

fn lines(mut reader: impl BufRead, from: &str) -> Result<Vec<OsString>, ItemsError> {
    let mut items = Items::default();
    for number in 1.. {
        let Some(line) = next_line(&mut reader).map_err(|error| ItemsError::Read { from: from.to_owned(), error })?
        else {
            break;
        };
        items.push(line, || Place::Line { from: from.to_owned(), number })?;
    }
    Ok(items.kept)
}

/// The next line without its newline, or as much of it as shows that it is too long
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    // One byte more than an item has, which is its newline or shows that it is
    // too long: a file without newlines must not be taken into memory whole.
    let mut bounded = reader.take(ITEM_MAX as u64 + 1);
    if bounded.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    line.shrink_to_fit();
    Ok(Some(line))
}

/// Items within the limits
#[derive(Default)]
struct Items {
    kept: Vec<OsString>,
    bytes: usize,
}

impl Items {
    fn push(&mut self, item: Vec<u8>, place: impl Fn() -> Place) -> Result<(), ItemsError> {
        if item.len() > ITEM_MAX {
            return Err(ItemsError::TooLong { place: place() });
        }
        if item.contains(&0) {
            return Err(ItemsError::Nul { place: place() });
        }
        if self.kept.len() == ITEMS_MAX {
            return Err(ItemsError::TooMany { place: place() });
        }
        self.bytes += item.len();
        if self.bytes > ITEMS_BYTES_MAX {
            return Err(ItemsError::TooLarge { place: place() });
        }
        self.kept.push(OsString::from_vec(item));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::{TestResult, quickcheck};

    fn read(text: &[u8]) -> Result<Vec<OsString>, ItemsError> {
        Source::Stdin.load(text)
    }

    fn message(result: Result<Vec<OsString>, ItemsError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn lines_are_items_byte_for_byte() {
        let expected: [&[u8]; 6] = [b" a ", b"b\\n", b"", b"c\r", b"\xff", b"last"];
        let items = read(b" a \nb\\n\n\nc\r\n\xff\nlast").unwrap();
        assert_eq!(items, expected.map(|bytes| OsStr::from_bytes(bytes).to_owned()));
    }

    #[test]
    fn nothing_gives_no_item_and_every_line_gives_one() {
        assert!(read(b"").unwrap().is_empty());
        assert_eq!(read(b"\n\n\n").unwrap(), ["", "", ""]);
    }

    #[test]
    fn equal_and_empty_listed_items_are_kept() {
        let words: Vec<OsString> = vec!["a".into(), "".into(), "a".into()];
        assert_eq!(Source::Listed(words.clone()).load(io::empty()).unwrap(), words);
    }

    #[test]
    fn the_longest_item_passes_and_a_longer_one_is_named() {
        let mut text = vec![b'x'; ITEM_MAX];
        assert_eq!(read(&text).unwrap()[0].len(), ITEM_MAX);
        text.push(b'\n');
        assert_eq!(read(&text).unwrap()[0].len(), ITEM_MAX);
        let long = [b"a\n\n".as_slice(), &vec![b'x'; ITEM_MAX + 1], b"\n"].concat();
        assert_eq!(message(read(&long)), "standard input, line 3: the item is longer than 32768 bytes");
    }

    #[test]
    fn a_line_without_end_is_not_read_to_its_end() {
        assert!(matches!(Source::Stdin.load(BufReader::new(io::repeat(b'x'))), Err(ItemsError::TooLong { .. })));
    }

    #[test]
    fn a_nul_is_refused_with_its_place() {
        assert!(message(read(b"a\nb\0c\n")).starts_with("standard input, line 2: the item has a NUL"));
        let listed = Source::Listed(vec![OsString::from_vec(vec![0])]);
        assert!(message(listed.load(io::empty())).starts_with("item 1 after `:::`"));
    }

    #[test]
    fn too_many_items_are_refused() {
        let text = b"x\n".repeat(ITEMS_MAX);
        assert_eq!(read(&text).unwrap().len(), ITEMS_MAX);
        let text = b"x\n".repeat(ITEMS_MAX + 1);
        assert!(message(read(&text)).starts_with("standard input, line 1000001: more than 1000000"));
    }

    #[test]
    fn too_many_bytes_are_refused() {
        let mut items = Items { kept: Vec::new(), bytes: ITEMS_BYTES_MAX - 1 };
        assert!(items.push(vec![b'x'], || Place::Listed(1)).is_ok());
        let error = items.push(vec![b'x'], || Place::Listed(2)).unwrap_err();
        assert!(matches!(error, ItemsError::TooLarge { place: Place::Listed(2) }));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let missing = Source::File("/nonexistent/list".into());
        assert!(message(missing.load(io::empty())).starts_with("cannot read the items from \"/nonexistent/list\": "));
        assert!(matches!(Source::File("/".into()).load(io::empty()), Err(ItemsError::Read { .. })));
    }

    #[test]
    fn labels_are_quoted_and_escaped() {
        assert_eq!(label(OsStr::new("x y")), r#""x y""#);
        assert_eq!(label(OsStr::new("")), r#""""#);
        assert_eq!(label(OsStr::new("it's \"ü\" \\ \n\t\u{1b}[2J")), r#""it's \"ü\" \\ \n\t\u{1b}[2J""#);
        assert_eq!(label(OsStr::new("a\u{202e}b")), r#""a\u{202e}b""#);
        assert_eq!(label(OsStr::from_bytes(b"a\xff\xc3")), r#""a\xff\xc3""#);
    }

    #[test]
    fn labels_are_cut_between_characters() {
        let fits = "ü".repeat(LABEL_MAX);
        assert_eq!(label(OsStr::new(&fits)), format!("\"{fits}\""));
        let long = "ü".repeat(LABEL_MAX + 1);
        assert_eq!(label(OsStr::new(&long)), format!("\"{}…\"", "ü".repeat(LABEL_MAX - 1)));
        let torn = format!("{}\u{1b}\u{1b}", "x".repeat(LABEL_MAX - 3));
        assert_eq!(label(OsStr::new(&torn)), format!("\"{}…\"", "x".repeat(LABEL_MAX - 3)));
    }

    quickcheck! {
        fn what_is_written_as_lines_is_read_back(items: Vec<Vec<u8>>) -> TestResult {
            let refused = |byte: &u8| matches!(byte, 0 | b'\n');
            if items.iter().flatten().any(refused) {
                return TestResult::discard();
            }
            let text: Vec<u8> = items.iter().flat_map(|item| [item, b"\n".as_slice()].concat()).collect();
            let read_back = read(&text).unwrap();
            TestResult::from_bool(read_back.into_iter().map(OsString::into_vec).eq(items))
        }

        fn labels_are_short_and_on_one_line(item: Vec<u8>) -> bool {
            let label = label(OsStr::from_bytes(&item));
            label.chars().count() <= LABEL_MAX + 2 && !label.contains(char::is_control)
        }
    }
}
