//! Values as words, for messages that people read

use std::fmt::Debug;

/// A value in words: `Some(Failed(TimedOut))` is "failed: timed out"
///
/// Made of what a value shows for debugging, so that a new variant of an enum has its words as well.
pub(crate) fn words(value: impl Debug) -> String {
    let text = format!("{value:?}");
    let (mut out, mut rest) = (String::new(), text.as_str());
    while let Some(letter) = rest.chars().next() {
        let name = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let behind = rest.get(name..).unwrap_or_default();
        if letter.is_ascii_uppercase() {
            let inside = behind.strip_prefix('(');
            match (rest.get(..name).unwrap_or_default(), inside) {
                ("Some", Some(_)) => {}
                (name, inside) => {
                    spell(name, &mut out);
                    let named = inside.is_some_and(|inside| inside.starts_with(|c: char| c.is_ascii_uppercase()));
                    out.push_str(if named {
                        ": "
                    } else if inside.is_some() {
                        " "
                    } else {
                        ""
                    });
                }
            }
            rest = inside.unwrap_or(behind);
        } else {
            // The rest of a word that begins small is no name of a variant.
            let taken = if name > 0 { name } else { letter.len_utf8() };
            out.push_str(rest.get(..taken).filter(|text| !matches!(*text, "(" | ")")).unwrap_or_default());
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
    out
}

/// A name of several words that are written together
fn spell(name: &str, out: &mut String) {
    for (n, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && n > 0 {
            out.push(' ');
        }
        out.push(letter.to_ascii_lowercase());
    }
}

#[cfg(test)]
mod tests {
    use rejoin_core::ids::Token;
    use rejoin_core::link::LinkState;
    use rejoin_core::wire::message::{Failure, Outcome};

    use super::*;

    #[test]
    fn values_are_told_in_words() {
        assert_eq!(words(Some(LinkState::Connected)), "connected");
        assert_eq!(words(None::<Outcome>), "none");
        assert_eq!(words(Some(Outcome::Failed(Failure::TimedOut))), "failed: timed out");
        assert_eq!(words(Outcome::Failed(Failure::Exit(-3))), "failed: exit -3");
        let token = Token(7);
        assert_eq!(words(Some((token, 3))), format!("{token}, 3"));
        assert_eq!(words(std::time::Duration::from_millis(1500)), "1.5s");
    }
}
