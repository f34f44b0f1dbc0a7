//! A file of vectors: `name = hex`, each behind a comment that says what it means

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::path::PathBuf;
use std::{env, fs};

/// A file of vectors, as it is and as it should be
pub(crate) struct Book {
    path: PathBuf,
    blessing: bool,
    found: BTreeMap<String, Vec<u8>>,
    text: String,
}

impl Book {
    pub(crate) fn open(name: &str, title: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
        let blessing = env::var_os("REJOIN_BLESS").is_some();
        let found = if blessing { String::new() } else { fs::read_to_string(&path).expect("a file of vectors") };
        let text = title.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect();
        Book { path, blessing, found: parse(&found), text }
    }

    /// Starts a chapter
    pub(crate) fn chapter(&mut self, title: &str) {
        writeln!(self.text, "\n## {title}").expect("memory grows");
    }

    /// Adds a vector and returns what the file has in its place
    pub(crate) fn add(&mut self, name: &str, meaning: &dyn Debug, bytes: &[u8]) -> Vec<u8> {
        writeln!(self.text, "\n# {meaning:?}\n{name} = {}", hex(bytes)).expect("memory grows");
        let found = if self.blessing { Some(bytes) } else { self.found.get(name).map(Vec::as_slice) };
        let found = found.unwrap_or_else(|| panic!("{name} has no vector in {}", self.path.display()));
        assert_eq!(hex(bytes), hex(found), "{name} is encoded differently");
        found.into()
    }

    /// Adds bytes that are part of a story
    pub(crate) fn tell(&mut self, name: &str, story: &str, bytes: &[u8]) {
        self.add(name, &format_args!("{story}"), bytes);
    }

    /// Nothing is missing, and nothing is there that nobody knows
    pub(crate) fn close(self) {
        if self.blessing {
            fs::write(&self.path, self.text).expect("vectors can be written");
        } else {
            let text = fs::read_to_string(&self.path).expect("a file of vectors");
            assert_eq!(text, self.text, "{} says something else", self.path.display());
        }
    }
}

fn parse(text: &str) -> BTreeMap<String, Vec<u8>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(" = ").expect("name = hex")).map(|(name, hex)| (name.into(), unhex(hex))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}
