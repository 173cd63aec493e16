//! Values as Python 2 shows them in error texts (section 4.3).

use crate::wire::format::{fraction, sorted};
use serde_json::{Number, Value};
use std::fmt::Write;

/// How much of a value is shown, in bytes; what follows is cut off.
const MOST: usize = 2048;

/// `{u'name': u'web', u'size': 1}`, cut off where it becomes too long.
pub(crate) fn repr(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value);
    if out.len() > MOST {
        // All of it is ASCII.
        out.truncate(MOST);
        out.push_str("...");
    }
    out
}

/// The names of a set, `set(['image', 'size'])`, in the order given.
pub(crate) fn set<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("'{name}'")).collect();
    format!("set([{}])", names.join(", "))
}

/// A text, `u'name'`.
pub(crate) fn repr_text(text: &str) -> String {
    let mut out = String::new();
    write_text(&mut out, text);
    out
}

fn write(out: &mut String, value: &Value) {
    match value {
        // What is beyond the cut is not looked at.
        _ if out.len() > MOST => {}
        Value::Null => out.push_str("None"),
        Value::Bool(flag) => out.push_str(if *flag { "True" } else { "False" }),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                separate(out, n);
                write(out, item);
                if out.len() > MOST {
                    return;
                }
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (n, (name, value)) in sorted(map).enumerate() {
                separate(out, n);
                write_text(out, name);
                out.push_str(": ");
                write(out, value);
                if out.len() > MOST {
                    return;
                }
            }
            out.push('}');
        }
    }
}

fn separate(out: &mut String, n: usize) {
    if n > 0 {
        out.push_str(", ");
    }
}

fn write_number(out: &mut String, number: &Number) {
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(n), ..) => out.push_str(&n.to_string()),
        // A long number has the letter behind it.
        (None, Some(n), _) => {
            out.push_str(&n.to_string());
            out.push('L');
        }
        (None, None, Some(f)) => out.push_str(&fraction(f)),
        _ => out.push_str(&number.to_string()),
    }
}

fn write_text(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push('u');
    out.push(quote);
    for c in text.chars() {
        if out.len() > MOST {
            return;
        }
        let written = match c {
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\\' => out.write_str("\\\\"),
            c if c == quote => write!(out, "\\{c}"),
            ' '..='~' => out.write_char(c),
            '\0'..='\u{ff}' => write!(out, "\\x{:02x}", u32::from(c)),
            '\u{100}'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(c)),
            c => write!(out, "\\U{:08x}", u32::from(c)),
        };
        debug_assert!(written.is_ok(), "a text takes everything");
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_look_as_python_shows_them() {
        for (value, expected) in [
            (json!(null), "None"),
            (json!([true, false]), "[True, False]"),
            (json!(5), "5"),
            (json!(-5), "-5"),
            (json!(9_223_372_036_854_775_807_i64), "9223372036854775807"),
            (json!(9_223_372_036_854_775_808_u64), "9223372036854775808L"),
            (json!(1.5), "1.5"),
            (json!(1e20), "1e+20"),
            (json!({}), "{}"),
            (json!([]), "[]"),
            (json!(""), "u''"),
            (json!("it's"), "u\"it's\""),
            (json!("a\"b"), "u'a\"b'"),
            (json!("it's \"b\""), "u'it\\'s \"b\"'"),
            (json!("a\\b\n\r\t\u{0}\u{7f}"), "u'a\\\\b\\n\\r\\t\\x00\\x7f'"),
            (json!("ü€😀"), "u'\\xfc\\u20ac\\U0001f600'"),
            (json!({ "b": [1, { "c": "d" }], "a": null }), "{u'a': None, u'b': [1, {u'c': u'd'}]}"),
        ] {
            assert_eq!(repr(&value), expected);
        }
        assert_eq!(set(["image", "name"].into_iter()), "set(['image', 'name'])");
        assert_eq!(repr_text("bogus"), "u'bogus'");
    }

    #[test]
    fn long_values_are_cut_off() {
        let long = json!({ "a": "x".repeat(1_000_000), "b": (0..100_000).collect::<Vec<_>>() });
        for value in [&long, &long["a"], &long["b"], &json!("😀".repeat(5000))] {
            let shown = repr(value);
            assert!(shown.ends_with("...") && shown.len() == MOST + 3, "{}", shown.len());
        }
        assert!(repr_text(&"x".repeat(1_000_000)).len() < MOST + 20);
    }
}
