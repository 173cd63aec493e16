//! JSON to the letter of the dialect (section 2.1): indented by two or on one line, nothing beyond ASCII, fractions as
//! Python writes them.

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde_json::ser::Formatter;
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How an answer is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A member a line, indented by two.
    Indented,
    /// All on one line, for pages that ask with `X-Requested-With`.
    OneLine,
}

/// Remembers how long the answers of a route are, so that the next buffer has the right size from the start.
#[derive(Debug, Default)]
pub(crate) struct Memory(AtomicUsize);

impl Memory {
    /// The largest buffer that is reserved in advance, in bytes.
    const MOST: usize = 4 << 20;

    /// Nothing remembered yet.
    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    fn capacity(&self) -> usize {
        let last = self.0.load(Ordering::Relaxed);
        (last + last / 16 + 256).min(Self::MOST)
    }
}

/// The value in the dialect's JSON. Members come in the order of the fields: types on the wire declare them sorted.
///
/// # Errors
/// A value that cannot be put into JSON.
pub(crate) fn bytes<T: Serialize + ?Sized>(
    value: &T,
    style: Style,
    memory: &Memory,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::with_capacity(memory.capacity());
    let formatter = Layout { indented: style == Style::Indented, depth: 0, filled: false };
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))?;
    memory.0.store(bytes.len(), Ordering::Relaxed);
    Ok(bytes)
}

/// The same at a depth within a larger text, at whose end it is written.
///
/// # Errors
/// A value that cannot be put into JSON.
pub(crate) fn bytes_at<T: Serialize + ?Sized>(
    value: &T,
    style: Style,
    depth: usize,
    text: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let formatter = Layout { indented: style == Style::Indented, depth, filled: false };
    value.serialize(&mut serde_json::Serializer::with_formatter(text, formatter))
}

struct Layout {
    indented: bool,
    depth: usize,
    /// Whether the list or object that is being closed has anything in it.
    filled: bool,
}

impl Layout {
    fn open<W: Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(bracket)
    }

    fn close<W: Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.line(writer)?;
        }
        self.filled = true;
        writer.write_all(bracket)
    }

    fn next<W: Write + ?Sized>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(if self.indented { b"," } else { b", " })?;
        }
        self.line(writer)
    }

    fn line<W: Write + ?Sized>(&self, writer: &mut W) -> io::Result<()> {
        const BLANKS: &[u8] = b"\n                                ";
        if !self.indented {
            return Ok(());
        }
        match BLANKS.get(..1 + 2 * self.depth) {
            Some(line) => writer.write_all(line),
            None => {
                writer.write_all(b"\n")?;
                (0..self.depth).try_for_each(|_| writer.write_all(b"  "))
            }
        }
    }
}

impl Formatter for Layout {
    fn write_f64<W: Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(fraction(value).as_bytes())
    }

    fn begin_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.bytes().position(|b| b >= 0x7f) {
            let (plain, tail) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// A fraction as Python's `repr` and JSON have it: `0.5`, `1e+16`, `1e-05`.
pub(crate) fn fraction(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent @ -4..16) => {
            let plain = format!("{value}");
            if plain.contains('.') || exponent < 0 { plain } else { format!("{plain}.0") }
        }
        Ok(exponent) => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
        Err(_) => scientific,
    }
}

/// Data of somebody else's with its members sorted, at every level.
pub(crate) struct Sorted<'a>(pub(crate) &'a Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(&Self(item)))?;
                list.end()
            }
            Value::Object(map) => SortedMap(map).serialize(serializer),
            plain => plain.serialize(serializer),
        }
    }
}

/// An object of somebody else's with its members sorted, at every level.
pub(crate) struct SortedMap<'a>(pub(crate) &'a Map<String, Value>);

impl Serialize for SortedMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        sorted(self.0).try_for_each(|(name, value)| object.serialize_entry(name, &Sorted(value)))?;
        object.end()
    }
}

/// The members of an object in the order of their names. The map is sorted as it is unless some crate of the build has
/// it keep the order of insertion.
pub(crate) fn sorted(map: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let (plain, ordered) = if map.keys().is_sorted() {
        (Some(map.iter()), Vec::new())
    } else {
        let mut members: Vec<_> = map.iter().collect();
        members.sort_by_key(|member| member.0);
        (None, members)
    };
    plain.into_iter().flatten().chain(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn text(value: &Value, style: Style) -> String {
        String::from_utf8(bytes(&Sorted(value), style, &Memory::new()).unwrap()).unwrap()
    }

    #[test]
    fn both_layouts_to_the_letter() {
        let value =
            json!({ "b": [], "a": { "y": [1, { "z": null, "k": {} }], "x": "ü€😀\u{7f}\u{1}/\"\\\n" }, "c": 0.5 });
        assert_eq!(
            text(&value, Style::Indented),
            "{\n  \"a\": {\n    \"x\": \"\\u00fc\\u20ac\\ud83d\\ude00\\u007f\\u0001/\\\"\\\\\\n\",\n    \"y\": [\n      1,\n      \
             {\n        \"k\": {},\n        \"z\": null\n      }\n    ]\n  },\n  \"b\": [],\n  \"c\": 0.5\n}"
        );
        assert_eq!(
            text(&value, Style::OneLine),
            "{\"a\": {\"x\": \"\\u00fc\\u20ac\\ud83d\\ude00\\u007f\\u0001/\\\"\\\\\\n\", \"y\": [1, {\"k\": {}, \"z\": null}]}, \
             \"b\": [], \"c\": 0.5}"
        );
    }

    #[test]
    fn fractions_look_as_python_writes_them() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.000_012_5, "1.25e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
            (123_456_789.125, "123456789.125"),
            (1e22, "1e+22"),
        ] {
            assert_eq!(fraction(value), expected);
            assert_eq!(expected.parse::<f64>().unwrap(), value);
        }
    }

    #[test]
    fn the_second_answer_fits_its_buffer_at_once() {
        let memory = Memory::new();
        let value = json!((0..1000).map(|n| format!("node-{n}")).collect::<Vec<_>>());
        let first = bytes(&value, Style::Indented, &memory).unwrap();
        let reserved = memory.capacity();
        assert!(reserved >= first.len());
        assert_eq!(bytes(&value, Style::Indented, &memory).unwrap().capacity(), reserved);
        memory.0.store(usize::MAX / 2, Ordering::Relaxed);
        assert_eq!(memory.capacity(), Memory::MOST);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// A reference that builds the text by hand.
    fn reference(value: &Value, style: Style, depth: usize) -> String {
        let line = |depth: usize| match style {
            Style::Indented => format!("\n{}", "  ".repeat(depth)),
            Style::OneLine => String::new(),
        };
        let comma = if style == Style::Indented { "," } else { ", " };
        let list = |open: &str, parts: Vec<String>, close: &str| {
            if parts.is_empty() {
                return format!("{open}{close}");
            }
            let parts: Vec<String> = parts.into_iter().map(|p| format!("{}{p}", line(depth + 1))).collect();
            format!("{open}{}{}{close}", parts.join(comma), line(depth))
        };
        match value {
            Value::String(text) => {
                let mut quoted = String::new();
                for c in serde_json::to_string(text).unwrap().chars() {
                    match c {
                        ' '..='~' => quoted.push(c),
                        _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|u| quoted += &format!("\\u{u:04x}")),
                    }
                }
                quoted
            }
            Value::Array(items) => list("[", items.iter().map(|v| reference(v, style, depth + 1)).collect(), "]"),
            Value::Object(map) => {
                let mut names: Vec<&String> = map.keys().collect();
                names.sort();
                let member = |name: &&String| {
                    let name = reference(&Value::from(name.as_str()), style, 0);
                    let value = &map[&serde_json::from_str::<String>(&name).unwrap()];
                    format!("{name}: {}", reference(value, style, depth + 1))
                };
                list("{", names.iter().map(member).collect(), "}")
            }
            Value::Number(n) if n.is_f64() => fraction(n.as_f64().unwrap()),
            plain => plain.to_string(),
        }
    }

    /// Equal, but for the last bit of fractions: serde_json reads some back with it off.
    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(name, value)| b.get(name).is_some_and(|b| same(value, b)))
            }
            (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                a == b || (a - b).abs() <= (a.abs() + b.abs()) * f64::EPSILON
            }
            _ => a == b,
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in value(), one_line in any::<bool>()) {
            let style = if one_line { Style::OneLine } else { Style::Indented };
            let text = text(&value, style);
            prop_assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b) || b == b'\n' && !one_line));
            prop_assert_eq!(&text, &reference(&value, style, 0));
            let back: Value = serde_json::from_str(&text).unwrap();
            prop_assert!(same(&back, &value), "{back} {value}");
        }
    }
}
