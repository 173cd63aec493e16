//! What the bodies of writing requests may hold, and the words for what is wrong with them (section 4.3).

use super::repr::{repr, repr_text, set};
use crate::error::ApiError;
use crate::wire::format::sorted;
use serde_json::{Map, Value};

/// What every text of the validator begins with.
const PREFIX: &str = "Some key doesn't validate the schema - ";

/// The shape of a body: its fields, sorted by name, and no other.
#[derive(Debug)]
pub(crate) struct Schema(&'static [Field]);

#[derive(Debug)]
struct Field {
    name: &'static str,
    rule: Rule,
    required: bool,
}

#[derive(Debug, Clone, Copy)]
enum Rule {
    /// A text that is not empty.
    Text,
    /// An object of any shape.
    Object,
    /// A truth value.
    Flag,
}

const fn required(name: &'static str) -> Field {
    Field { name, rule: Rule::Text, required: true }
}

const fn optional(name: &'static str, rule: Rule) -> Field {
    Field { name, rule, required: false }
}

/// The body of a start.
pub(crate) const START: Schema = Schema(&[
    required("image"),
    optional("keyname", Rule::Text),
    optional("metadata", Rule::Object),
    required("name"),
    required("size"),
]);

/// The body of a stop.
pub(crate) const STOP: Schema = Schema(&[optional("hostname", Rule::Text), optional("node", Rule::Text)]);

/// The body of an assignment.
pub(crate) const ASSIGN: Schema = Schema(&[
    optional("emulate", Rule::Flag),
    optional("hostname", Rule::Text),
    optional("node", Rule::Text),
    required("user"),
    required("vm_type"),
]);

/// The body of a release.
pub(crate) const RELEASE: Schema =
    Schema(&[optional("emulate", Rule::Flag), optional("hostname", Rule::Text), optional("node", Rule::Text)]);

impl Schema {
    /// The fields of a body that fits. The first thing that is wrong is told: wrong values in the order of their
    /// names, then missing fields, then fields that nobody knows.
    pub(crate) fn check<'a>(&self, value: &'a Value) -> Result<Fields<'a>, ApiError> {
        let refuse = |what: String| ApiError::bad_request(format!("{PREFIX}{what}"));
        let Value::Object(map) = value else { return Err(refuse(should_be(value, "dict"))) };
        for (name, value) in sorted(map) {
            if let Some(field) = self.0.iter().find(|field| field.name == name) {
                field.rule.check(value).map_err(refuse)?;
            }
        }
        let mut missing = self.0.iter().filter(|f| f.required && !map.contains_key(f.name)).map(|f| f.name).peekable();
        if missing.peek().is_some() {
            return Err(refuse(format!("missed keys {}", set(missing))));
        }
        let known = |name: &str| self.0.iter().any(|field| field.name == name);
        let wrong: Vec<String> = map.keys().filter(|name| !known(name)).take(20).map(|name| repr_text(name)).collect();
        if !wrong.is_empty() {
            let mut wrong = wrong;
            wrong.sort();
            return Err(refuse(format!("wrong keys {} in {}", wrong.join(", "), repr(value))));
        }
        Ok(Fields(map))
    }
}

impl Rule {
    fn check(self, value: &Value) -> Result<(), String> {
        match (self, value) {
            (Self::Text, Value::String(text)) if text.is_empty() => Err("len(u'') should evaluate to True".into()),
            (Self::Text, Value::String(_)) | (Self::Object, Value::Object(_)) | (Self::Flag, Value::Bool(_)) => Ok(()),
            (Self::Text, _) => Err(should_be(value, "unicode")),
            (Self::Object, _) => Err(should_be(value, "dict")),
            (Self::Flag, _) => Err(should_be(value, "bool")),
        }
    }
}

fn should_be(value: &Value, kind: &str) -> String {
    format!("{} should be instance of <type '{kind}'>", repr(value))
}

/// The fields of a body that fits its schema.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// A text, where it is given.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A text that the schema requires.
    pub(crate) fn required(&self, name: &str) -> String {
        self.text(name).unwrap_or_default().to_owned()
    }

    /// A text, where it is given.
    pub(crate) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// An object; empty where it is not given.
    pub(crate) fn object(&self, name: &str) -> Map<String, Value> {
        self.0.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_row_of_the_table() {
        let all = || json!({ "name": "n", "image": "1", "size": "1" });
        let with = |name: &str, value: Value| {
            let mut body = all();
            body[name] = value;
            body
        };
        for (schema, body, expected) in [
            (START, json!({}), "missed keys set(['image', 'name', 'size'])"),
            (START, json!({ "name": "x" }), "missed keys set(['image', 'size'])"),
            (
                START,
                with("bogus", json!(1)),
                "wrong keys u'bogus' in {u'bogus': 1, u'image': u'1', u'name': u'n', u'size': u'1'}",
            ),
            (
                STOP,
                json!({ "z": 1, "ü": 2, "a": 3 }),
                "wrong keys u'\\xfc', u'a', u'z' in {u'a': 3, u'z': 1, u'\\xfc': 2}",
            ),
            (START, with("name", json!(5)), "5 should be instance of <type 'unicode'>"),
            (START, with("name", json!("")), "len(u'') should evaluate to True"),
            (START, with("keyname", json!("")), "len(u'') should evaluate to True"),
            (START, with("keyname", json!(null)), "None should be instance of <type 'unicode'>"),
            (START, with("metadata", json!("x")), "u'x' should be instance of <type 'dict'>"),
            (START, json!([]), "[] should be instance of <type 'dict'>"),
            (START, json!(null), "None should be instance of <type 'dict'>"),
            (START, json!({ "name": 5 }), "5 should be instance of <type 'unicode'>"),
            (ASSIGN, json!({}), "missed keys set(['user', 'vm_type'])"),
            (ASSIGN, json!({ "emulate": 0 }), "0 should be instance of <type 'bool'>"),
            (RELEASE, json!({ "emulate": "" }), "u'' should be instance of <type 'bool'>"),
            (RELEASE, json!({ "user": "x" }), "wrong keys u'user' in {u'user': u'x'}"),
        ] {
            let said = schema.check(&body).unwrap_err().message().to_owned();
            assert_eq!(said, format!("{PREFIX}{expected}"));
        }
        let full = with("metadata", json!({ "a": [{}] }));
        let fields = START.check(&full).unwrap();
        assert_eq!((fields.required("name"), fields.text("keyname")), ("n".into(), None));
        assert_eq!(fields.object("metadata").len(), 1);
        assert!(RELEASE.check(&json!({ "emulate": false })).is_ok());
        assert!(STOP.check(&json!({})).is_ok());
    }

    #[test]
    fn the_fields_are_sorted() {
        for schema in [START, STOP, ASSIGN, RELEASE] {
            assert!(schema.0.is_sorted_by_key(|field| field.name));
        }
    }
}
