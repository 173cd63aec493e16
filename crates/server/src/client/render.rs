//! The API's JSON as people read it: tables that fit the terminal, and objects line by line.

use crate::output;
use serde_json::Value;

/// A column of a table.
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Where its value is in an item: names with dots between them.
    pub(super) path: &'static str,
    pub(super) show: Show,
    /// How much it matters: where the terminal is narrow the least is cut first.
    pub(super) rank: u8,
}

/// How a value is shown.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Show {
    Text,
    Time,
    Bytes,
    /// In lower case.
    Word,
    /// `yes` or nothing.
    Flag,
    Number,
    Json,
}

/// A table of items.
pub(super) fn rows(columns: &[Column], items: &[Value], width: Option<usize>) -> String {
    let columns: Vec<output::Column> = columns
        .iter()
        .map(|c| output::Column {
            title: c.title,
            right: matches!(c.show, Show::Bytes | Show::Number),
            rank: c.rank,
            cells: items.iter().map(|item| cell(item, c)).collect(),
        })
        .collect();
    output::fit(&columns, width)
}

fn cell(item: &Value, column: &Column) -> String {
    let value = at(item, column.path);
    match (column.show, value) {
        (_, Value::Null) => String::new(),
        (Show::Time, Value::String(text)) => when(text),
        (Show::Bytes, value) => value.as_u64().map(output::bytes).unwrap_or_default(),
        (Show::Word, Value::String(text)) => text.to_lowercase(),
        (Show::Flag, value) => if value.as_bool() == Some(true) { "yes" } else { "" }.to_owned(),
        (Show::Json, value) => object_line(value),
        (_, value) => plain(value),
    }
}

/// The value at a path; null where there is none.
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').try_fold(value, |v, name| v.get(name)).unwrap_or(&Value::Null)
}

/// The value at a path as a text; empty where there is none.
pub(super) fn text(value: &Value, path: &str) -> String {
    plain(at(value, path))
}

/// A value without quotes. Control characters are taken out: what a server says must not move the cursor.
pub(super) fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    clean(&text)
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The members of an object in one line.
fn object_line(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            map.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(" ")
        }
        other => plain(other),
    }
}

/// A time as far as minutes matter: `2026-01-31 12:00Z`.
pub(super) fn when(text: &str) -> String {
    match (text.get(..10), text.get(11..16), text.ends_with('Z')) {
        (Some(day), Some(minute), true) => format!("{day} {minute}Z"),
        _ => clean(text),
    }
}

/// An object, one line a member; members of members with dots, what is empty left out.
pub(super) fn object(value: &Value) -> String {
    let mut lines = Vec::new();
    flatten("", value, &mut lines);
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines = lines.iter().map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    let Value::Object(map) = value else {
        out.push((prefix.to_owned(), plain(value)));
        return;
    };
    for (name, value) in map {
        let path = if prefix.is_empty() { clean(name) } else { format!("{prefix}.{}", clean(name)) };
        match value {
            Value::Null => {}
            Value::String(text) if text.is_empty() => {}
            Value::Object(_) => flatten(&path, value, out),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (n, item) in items.iter().enumerate() {
                    flatten(&format!("{path}.{n}"), item, out);
                }
            }
            Value::Number(n) if name.ends_with("_bytes") => {
                out.push((path, n.as_u64().map_or_else(|| n.to_string(), output::bytes)));
            }
            other => out.push((path, plain(other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn items_become_rows() {
        let columns = [
            Column { title: "NAME", path: "name", show: Show::Text, rank: 9 },
            Column { title: "USED", path: "size.used", show: Show::Bytes, rank: 5 },
            Column { title: "DEFAULT", path: "default", show: Show::Flag, rank: 4 },
            Column { title: "SEEN", path: "seen", show: Show::Time, rank: 3 },
        ];
        let items = [
            json!({ "name": "near\u{1b}[2J", "size": { "used": 2048 }, "default": true, "seen": "2026-01-31T12:00:59.123Z" }),
            json!({ "name": "far", "default": false, "seen": null }),
        ];
        let table = rows(&columns, &items, None);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "NAME         USED  DEFAULT  SEEN");
        assert_eq!(lines[1], "near [2J  2.0 KiB  yes      2026-01-31 12:00Z");
        assert_eq!(lines[2], "far");
    }

    #[test]
    fn objects_become_lines() {
        let text = object(&json!({
            "name": "near", "none": null, "empty": "", "settings": { "path": "/x" }, "used_bytes": 1536,
            "steps": [{ "name": "a" }], "tags": ["x", "y"],
        }));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.contains(&"name           near") && lines.contains(&"settings.path  /x"), "{text}");
        assert!(lines.contains(&"used_bytes     1.5 KiB") && lines.contains(&"steps.0.name   a"), "{text}");
        assert!(lines.contains(&"tags           x, y") && !text.contains("none") && !text.contains("empty"), "{text}");
    }
}
