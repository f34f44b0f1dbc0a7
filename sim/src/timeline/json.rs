//! Values as JSON, which may also stand in a script of a page

use std::fmt::Write as _;

/// One value
pub(super) enum Value<'a> {
    None,
    Number(u64),
    Text(&'a str),
    Yes(bool),
    List(Vec<Value<'a>>),
    /// Names and values; those that are `None` are left out
    Object(Vec<(&'static str, Value<'a>)>),
}

impl From<usize> for Value<'_> {
    fn from(number: usize) -> Self {
        Value::Number(number as u64)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Value::Number(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Value::Number(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Value::Yes(yes)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Text(text)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::None, Into::into)
    }
}

impl<'a, T: Into<Value<'a>>> From<Vec<T>> for Value<'a> {
    fn from(values: Vec<T>) -> Self {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

impl Value<'_> {
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Value::None => out.push_str("null"),
            Value::Number(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Text(text) => write_text(out, text),
            Value::Yes(yes) => out.push_str(if *yes { "true" } else { "false" }),
            Value::List(values) => {
                out.push('[');
                for (n, value) in values.iter().enumerate() {
                    out.push_str(if n == 0 { "" } else { "," });
                    value.write(out);
                }
                out.push(']');
            }
            Value::Object(fields) => {
                out.push('{');
                let fields = fields.iter().filter(|(_, value)| !matches!(value, Value::None));
                for (n, (name, value)) in fields.enumerate() {
                    let _ = write!(out, "{}\"{name}\":", if n == 0 { "" } else { "," });
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // What would end a script, and what ends lines in some of them.
            '<' | '>' | '&' | '\u{7f}' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter if letter < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: Value<'_>) -> String {
        let mut out = String::new();
        value.write(&mut out);
        out
    }

    #[test]
    fn every_letter_can_stand_in_a_text() {
        assert_eq!(written("a\"b\\c\nd\te\u{1}f".into()), r#""a\"b\\c\nd\u0009e\u0001f""#);
        assert_eq!(written("</script> & µ \u{2028}€😀".into()), r#""\u003c/script\u003e \u0026 µ \u2028€😀""#);
    }

    #[test]
    fn what_is_not_there_is_left_out_of_objects_and_null_in_lists() {
        let none: Option<u64> = None;
        let object = Value::Object(vec![("a", none.into()), ("b", true.into()), ("c", vec![1_usize, 2].into())]);
        assert_eq!(written(object), r#"{"b":true,"c":[1,2]}"#);
        assert_eq!(written(vec![Some(u64::MAX), None].into()), "[18446744073709551615,null]");
    }
}
