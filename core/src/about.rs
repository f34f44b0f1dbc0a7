//! What is said about a task beside its input, and about a worker: a name, labels and amounts, terms (TASK-5, TASK-9)
//!
//! Tasks and workers carry these as bytes that mean something to the coordinator only. Each has one encoding: names in
//! order, none twice. No bytes at all stand for nothing said.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{ABOUT_BYTES_MAX, NAME_BYTES_MAX, TAGS_MAX, TITLE_BYTES_MAX};
use crate::terms::{BadTerms, Terms};

/// What a submitter says about a task
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// What people call it; at most [`TITLE_BYTES_MAX`] bytes
    pub title: String,
    /// What a worker must offer to get it
    pub needs: Tags,
    /// What may happen to it when its worker is out of reach
    pub terms: Terms,
}

/// Labels and amounts by name: what a worker offers, or what a task needs of one (TASK-9)
///
/// A label is met by the same label. An amount is met by at least as much, as far as other tasks at that worker have
/// left it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tags(BTreeMap<String, Tag>);

/// One thing that is offered or needed
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tag {
    /// Met by the same text
    Label(String),
    /// Met by as much or more; a task that runs takes it from its worker
    Amount(u32),
}

/// Why something cannot be said about a task or a worker
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadAbout {
    /// A name or a label has another form than 1 to 64 letters, digits, dots, dashes, underscores or slashes
    Name,
    /// The same name twice
    Twice,
    /// More names than [`TAGS_MAX`]
    TooMany,
    /// More bytes than [`TITLE_BYTES_MAX`] in the title, or than [`ABOUT_BYTES_MAX`] in all
    TooLong,
    /// Bytes that mean nothing
    Damaged,
    /// Terms that contradict each other
    Terms(BadTerms),
}

impl fmt::Display for BadAbout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadAbout::Name => write!(
                f,
                "names and labels are 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes, underscores or slashes"
            ),
            BadAbout::Twice => f.write_str("a name is given twice"),
            BadAbout::TooMany => write!(f, "at most {TAGS_MAX} labels and amounts can be given"),
            BadAbout::TooLong => write!(
                f,
                "a title has at most {TITLE_BYTES_MAX} bytes, title, labels and amounts together at most {ABOUT_BYTES_MAX}"
            ),
            BadAbout::Damaged => f.write_str("the bytes are damaged"),
            BadAbout::Terms(bad) => bad.fmt(f),
        }
    }
}

impl core::error::Error for BadAbout {}

impl About {
    /// Writes it as tasks carry it; nothing at all if nothing is said
    pub fn encode(&self) -> Result<Vec<u8>, BadAbout> {
        if self.title.len() > TITLE_BYTES_MAX {
            return Err(BadAbout::TooLong);
        }
        self.terms.validate().map_err(BadAbout::Terms)?;
        if *self == About::default() {
            return Ok(Vec::new());
        }
        let About { title, needs: Tags(needs), terms } = self;
        // Nothing said is nothing written, so that a coordinator that knows of no terms can read it.
        if *terms == Terms::default() { bounded(&(title, needs)) } else { bounded(&(title, needs, terms)) }
    }

    /// Reads what a task carries
    pub fn decode(bytes: &[u8]) -> Result<About, BadAbout> {
        if bytes.is_empty() {
            return Ok(About::default());
        }
        let ((title, needs), rest) = front::<(String, Vec<(String, Tag)>)>(bytes)?;
        if title.len() > TITLE_BYTES_MAX {
            return Err(BadAbout::TooLong);
        }
        let needs = Tags::in_order(needs)?;
        let terms = if rest.is_empty() { Terms::default() } else { whole(rest)? };
        terms.validate().map_err(BadAbout::Terms)?;
        if !rest.is_empty() && terms == Terms::default() {
            return Err(BadAbout::Damaged);
        }
        Ok(About { title, needs, terms })
    }
}

impl Tags {
    /// Adds one
    pub fn insert(&mut self, name: &str, tag: Tag) -> Result<(), BadAbout> {
        let legal = is_name(name) && matches!(&tag, Tag::Amount(_)) | matches!(&tag, Tag::Label(text) if is_name(text));
        if !legal {
            return Err(BadAbout::Name);
        }
        if self.0.len() >= TAGS_MAX {
            return Err(BadAbout::TooMany);
        }
        match self.0.insert(name.to_owned(), tag) {
            None => Ok(()),
            Some(_) => Err(BadAbout::Twice),
        }
    }

    /// Whether there are none
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns all of them, by name
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tag)> {
        self.0.iter().map(|(name, tag)| (name.as_str(), tag))
    }

    /// Writes them as a worker carries them; nothing at all if there are none
    pub fn encode(&self) -> Result<Vec<u8>, BadAbout> {
        if self.is_empty() { Ok(Vec::new()) } else { bounded(&self.0) }
    }

    /// Reads what a worker carries
    pub fn decode(bytes: &[u8]) -> Result<Tags, BadAbout> {
        if bytes.is_empty() {
            return Ok(Tags::default());
        }
        Tags::in_order(whole(bytes)?)
    }

    /// Whether these needs are met by what is offered, were all amounts free
    pub(crate) fn met_by(&self, offered: &Tags) -> bool {
        self.met_with(offered, |_| 0)
    }

    /// Whether these needs are met by what is offered and not taken
    pub(crate) fn met_with(&self, offered: &Tags, taken: impl Fn(&str) -> u64) -> bool {
        self.0.iter().all(|(name, need)| match (need, offered.0.get(name)) {
            (Tag::Label(need), Some(Tag::Label(have))) => need == have,
            (Tag::Amount(need), Some(Tag::Amount(have))) => taken(name) + u64::from(*need) <= u64::from(*have),
            (Tag::Label(_) | Tag::Amount(_), _) => false,
        })
    }

    fn in_order(entries: Vec<(String, Tag)>) -> Result<Tags, BadAbout> {
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(BadAbout::Damaged);
        }
        let mut tags = Tags::default();
        entries.into_iter().try_for_each(|(name, tag)| tags.insert(&name, tag))?;
        Ok(tags)
    }
}

fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(legal)
}

fn bounded<T: Serialize>(value: &T) -> Result<Vec<u8>, BadAbout> {
    let bytes = postcard::to_allocvec(value).map_err(|_| BadAbout::Damaged)?;
    if bytes.len() > ABOUT_BYTES_MAX { Err(BadAbout::TooLong) } else { Ok(bytes) }
}

fn whole<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, BadAbout> {
    match front(bytes)? {
        (value, []) => Ok(value),
        _ => Err(BadAbout::Damaged),
    }
}

fn front<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<(T, &'de [u8]), BadAbout> {
    if bytes.len() > ABOUT_BYTES_MAX {
        return Err(BadAbout::TooLong);
    }
    postcard::take_from_bytes(bytes).map_err(|_| BadAbout::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::Class;
    use alloc::format;
    use alloc::vec;

    fn tags(labels: &[(&str, &str)], amounts: &[(&str, u32)]) -> Tags {
        let mut tags = Tags::default();
        for (name, text) in labels {
            tags.insert(name, Tag::Label((*text).into())).unwrap();
        }
        for (name, amount) in amounts {
            tags.insert(name, Tag::Amount(*amount)).unwrap();
        }
        tags
    }

    #[test]
    fn task_9_labels_must_be_equal_and_amounts_must_suffice() {
        let offer = tags(&[("os", "linux"), ("zone", "a")], &[("gpu", 2)]);
        for (needs, met) in [
            (tags(&[], &[]), true),
            (tags(&[("os", "linux")], &[]), true),
            (tags(&[("os", "mac")], &[]), false),
            (tags(&[("arch", "arm")], &[]), false),
            (tags(&[("os", "linux")], &[("gpu", 2)]), true),
            (tags(&[], &[("gpu", 3)]), false),
            (tags(&[], &[("os", 1)]), false),
            (tags(&[("gpu", "2")], &[]), false),
        ] {
            assert_eq!(needs.met_by(&offer), met, "{needs:?}");
        }
        let need = tags(&[], &[("gpu", 1)]);
        assert!(need.met_with(&offer, |_| 1) && !need.met_with(&offer, |_| 2));
    }

    #[test]
    fn what_is_said_survives_its_bytes_and_has_one_encoding() {
        let needs = tags(&[("os", "linux")], &[("gpu", 1)]);
        let about = About { title: "grüße".into(), needs, ..About::default() };
        let bytes = about.encode().unwrap();
        assert_eq!(About::decode(&bytes), Ok(about));
        assert_eq!(About::default().encode(), Ok(vec![]));
        assert_eq!((About::decode(&[]), Tags::decode(&[])), (Ok(About::default()), Ok(Tags::default())));
        let reversed = postcard::to_allocvec(&("", vec![("b", Tag::Amount(1)), ("a", Tag::Amount(1))])).unwrap();
        assert_eq!(About::decode(&reversed), Err(BadAbout::Damaged));
        for cut in 1..bytes.len() {
            assert_eq!(About::decode(&bytes[..cut]), Err(BadAbout::Damaged), "cut at {cut}");
        }
    }

    #[test]
    fn task_5_terms_stand_behind_the_rest_and_those_that_say_nothing_are_left_out() {
        let about = About { title: "x".into(), ..About::default() };
        let plain = about.encode().unwrap();
        assert_eq!(plain, [1, b'x', 0], "as it was before there were terms");
        let terms = Terms { class: Class::Exclusive, self_stop_after: Some(span(2)), ..Terms::default() };
        let said = About { terms, ..about };
        let bytes = said.encode().unwrap();
        assert_eq!((&bytes[..3], About::decode(&bytes)), (&plain[..], Ok(said.clone())));
        for cut in 4..bytes.len() {
            assert_eq!(About::decode(&bytes[..cut]), Err(BadAbout::Damaged), "cut at {cut}");
        }
        let nothing = postcard::to_allocvec(&Terms::default()).unwrap();
        assert_eq!(About::decode(&[plain, nothing].concat()), Err(BadAbout::Damaged), "one encoding for each");
        let lost_after = Some(span(1));
        let contradictory = About { terms: Terms { lost_after, ..terms }, ..said };
        assert_eq!(contradictory.encode(), Err(BadAbout::Terms(BadTerms::StopsTooLate)));
        let (title, Tags(needs), terms) = ("", Tags::default(), contradictory.terms);
        let bytes = postcard::to_allocvec(&(title, needs, terms)).unwrap();
        assert_eq!(About::decode(&bytes), Err(BadAbout::Terms(BadTerms::StopsTooLate)));
    }

    fn span(seconds: u64) -> crate::terms::Span {
        core::time::Duration::from_secs(seconds).try_into().unwrap()
    }

    #[test]
    fn what_is_said_has_limits() {
        let mut many = Tags::default();
        for n in 0..TAGS_MAX {
            many.insert(&format!("n{n}"), Tag::Amount(1)).unwrap();
        }
        assert_eq!(many.insert("more", Tag::Amount(1)), Err(BadAbout::TooMany));
        let mut tags = tags(&[("a", "b")], &[]);
        assert_eq!(tags.insert("a", Tag::Amount(1)), Err(BadAbout::Twice));
        assert_eq!(tags.insert("", Tag::Amount(1)), Err(BadAbout::Name));
        assert_eq!(tags.insert("x", Tag::Label("y z".into())), Err(BadAbout::Name));
        let long = About { title: "x".repeat(TITLE_BYTES_MAX + 1), ..About::default() };
        assert_eq!(long.encode(), Err(BadAbout::TooLong));
        assert_eq!(About::decode(&[0; ABOUT_BYTES_MAX + 1]), Err(BadAbout::TooLong));
    }

    #[test]
    fn what_a_worker_offers_survives_its_bytes_and_is_listed_by_name() {
        let offers = tags(&[("zone", "a"), ("os", "linux")], &[("gpu", 2)]);
        let bytes = offers.encode().unwrap();
        assert_eq!(Tags::decode(&bytes).as_ref(), Ok(&offers));
        let listed: Vec<&str> = offers.iter().map(|(name, _)| name).collect();
        assert_eq!(listed, ["gpu", "os", "zone"]);
        assert_eq!(offers.iter().next(), Some(("gpu", &Tag::Amount(2))));
        for cut in 1..bytes.len() {
            assert_eq!(Tags::decode(&bytes[..cut]), Err(BadAbout::Damaged), "cut at {cut}");
        }
    }

    #[test]
    fn bytes_of_another_make_get_no_longer_title_than_our_own() {
        let none: Vec<(String, Tag)> = vec![];
        let long = postcard::to_allocvec(&("x".repeat(TITLE_BYTES_MAX + 1), &none)).unwrap();
        assert_eq!(About::decode(&long), Err(BadAbout::TooLong));
        let longest = postcard::to_allocvec(&("x".repeat(TITLE_BYTES_MAX), &none)).unwrap();
        assert_eq!(About::decode(&longest).map(|about| about.title.len()), Ok(TITLE_BYTES_MAX));
    }

    #[test]
    fn what_is_wrong_with_what_is_said_names_the_limit_it_breaks() {
        for (bad, said) in [
            (BadAbout::Name, format!("{NAME_BYTES_MAX}")),
            (BadAbout::Twice, "twice".into()),
            (BadAbout::TooMany, format!("{TAGS_MAX}")),
            (BadAbout::TooLong, format!("{TITLE_BYTES_MAX}")),
            (BadAbout::TooLong, format!("{ABOUT_BYTES_MAX}")),
            (BadAbout::Damaged, "damaged".into()),
        ] {
            assert!(format!("{bad}").contains(&said), "{bad:?}: {bad}");
        }
    }
}
