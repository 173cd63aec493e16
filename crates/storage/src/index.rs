//! What goes into the index of a stored object, and what may be asked of it: the rules that every adapter shares.
//!
//! An adapter indexes [`values`], [`search`], [`keys`] and [`refs`] instead of what the [`Put`] says, and answers
//! [`filter`] instead of the filter that it was given. So cutting, types and unknown fields are decided here, once.

use crate::error::StoreError;
use crate::kind::{Field, FieldType, Kind};
use crate::unit::Put;
use portolan_model::query::{Filter, Sort, Value};
use std::collections::BTreeSet;
use uuid::Uuid;

/// How many characters of a text are indexed.
pub const MAX_TEXT: usize = 255;

/// The name of the field that every kind has.
pub const ID: &str = "id";

/// NUL, which not every database can keep in a text, becomes the replacement character.
fn clean(c: char) -> char {
    if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }
}

/// A text as indexed: its first [`MAX_TEXT`] characters, without NUL.
pub fn text(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(clean).collect()
}

/// A search text as indexed, or what is looked for in one: lower case, without NUL, of any length.
pub fn search(text: &str) -> String {
    text.to_lowercase().chars().map(clean).collect()
}

/// A unique key as stored: without NUL, else exactly as it is. Keys that differ in case or in trailing blanks
/// are different keys.
pub fn key(key: &str) -> String {
    key.chars().map(clean).collect()
}

/// The values of the kind's declared fields as indexed, in the kind's order. Fails with
/// [`StoreError::Internal`] when their number or types are not those declared.
pub fn values(put: &Put) -> Result<Vec<Value>, StoreError> {
    let fields = put.kind.fields();
    if put.fields.len() != fields.len() {
        return Err(StoreError::internal(format!("{} has {} fields", put.kind, fields.len())));
    }
    let one = |(field, value): (&Field, &Value)| match value {
        Value::Null => Ok(Value::Null),
        value if fits(field.ty, value) => Ok(normal(value)),
        _ => Err(StoreError::internal(format!("{}.{} is of another type", put.kind, field.name))),
    };
    fields.iter().zip(&put.fields).map(one).collect()
}

/// The unique keys as stored, each once.
pub fn keys(put: &Put) -> BTreeSet<String> {
    put.unique.iter().map(|k| key(k)).collect()
}

/// The objects referred to, each once. A reference to itself holds nothing back.
pub fn refs(put: &Put) -> BTreeSet<Uuid> {
    put.refs.iter().copied().filter(|id| *id != put.id).collect()
}

/// The declared field of that name, or the id; else [`StoreError::UnknownField`].
pub fn field(kind: Kind, name: &str) -> Result<Field, StoreError> {
    if name == ID {
        return Ok(Field { name: ID, ty: FieldType::Id });
    }
    kind.field(name).ok_or_else(|| StoreError::UnknownField { kind, field: name.to_owned() })
}

/// The field to sort by before the id; nothing for the id alone. Descending is the whole order reversed: the
/// largest first, those without a value last, and among equals the largest id first.
pub fn sort(kind: Kind, sort: &Sort) -> Result<Option<Field>, StoreError> {
    match sort.field.as_deref() {
        None => Ok(None),
        Some(name) => Ok(Some(field(kind, name)?).filter(|f| f.name != ID)),
    }
}

/// The filter that finds nothing, as [`filter`] writes it.
pub const NOTHING: Filter = Filter::Or(Vec::new());

/// The same condition in its simplest form: fields are known, texts are cut as in the index, what is looked for is
/// in lower case, and only values of the field's type are left.
///
/// * A comparison with a value of another type finds nothing; `Eq` and `In` with `Null` find objects without a
///   value; `AtLeast` and `Below` never find those, nor anything when they compare with `Null`.
/// * `Not` finds exactly what its inner condition does not find, objects without a value too.
/// * `All` and [`NOTHING`] are left on the outside only, so `Filter::All` means that there is no condition.
pub fn filter(kind: Kind, given: &Filter) -> Result<Filter, StoreError> {
    Ok(match given {
        Filter::All => Filter::All,
        Filter::Eq(name, value) => match field(kind, name)? {
            f if *value == Value::Null || fits(f.ty, value) => Filter::Eq(name.clone(), normal(value)),
            _ => NOTHING,
        },
        Filter::In(name, values) => {
            let ty = field(kind, name)?.ty;
            let fitting = values.iter().filter(|v| **v == Value::Null || fits(ty, v)).map(normal);
            let fitting: BTreeSet<Value> = fitting.collect();
            if fitting.is_empty() { NOTHING } else { Filter::In(name.clone(), fitting.into_iter().collect()) }
        }
        Filter::AtLeast(name, value) => match field(kind, name)? {
            f if fits(f.ty, value) => Filter::AtLeast(name.clone(), normal(value)),
            _ => NOTHING,
        },
        Filter::Below(name, value) => match field(kind, name)? {
            f if fits(f.ty, value) => Filter::Below(name.clone(), normal(value)),
            _ => NOTHING,
        },
        Filter::Contains(wanted) if wanted.is_empty() => Filter::All,
        Filter::Contains(wanted) => Filter::Contains(search(wanted)),
        Filter::And(parts) => {
            let parts = all(kind, parts)?;
            let mut left: Vec<_> = parts.into_iter().filter(|p| *p != Filter::All).collect();
            match left.len() {
                _ if left.contains(&NOTHING) => NOTHING,
                0 => Filter::All,
                1 => left.remove(0),
                _ => Filter::And(left),
            }
        }
        Filter::Or(parts) => {
            let parts = all(kind, parts)?;
            let mut left: Vec<_> = parts.into_iter().filter(|p| *p != NOTHING).collect();
            match left.len() {
                _ if left.contains(&Filter::All) => Filter::All,
                1 => left.remove(0),
                _ => Filter::Or(left),
            }
        }
        Filter::Not(part) => match filter(kind, part)? {
            Filter::All => NOTHING,
            Filter::Not(part) => *part,
            part if part == NOTHING => Filter::All,
            part => Filter::Not(Box::new(part)),
        },
    })
}

fn all(kind: Kind, parts: &[Filter]) -> Result<Vec<Filter>, StoreError> {
    parts.iter().map(|part| filter(kind, part)).collect()
}

fn fits(ty: FieldType, value: &Value) -> bool {
    matches!(
        (ty, value),
        (FieldType::Text, Value::Text(_))
            | (FieldType::Int, Value::Int(_))
            | (FieldType::Bool, Value::Bool(_))
            | (FieldType::Id, Value::Id(_))
    )
}

fn normal(value: &Value) -> Value {
    match value {
        Value::Text(t) => Value::Text(text(t)),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simple(given: &Filter) -> Filter {
        filter(Kind::Vm, given).unwrap()
    }

    #[test]
    fn filters_come_out_in_their_simplest_form() {
        let name = Filter::eq("name", "a");
        let none = || Filter::In("name".into(), vec![]);
        assert_eq!(simple(&Filter::And(vec![])), Filter::All);
        assert_eq!(simple(&Filter::Or(vec![])), NOTHING);
        assert_eq!(simple(&none()), NOTHING);
        assert_eq!(simple(&Filter::And(vec![Filter::All, name.clone()])), name);
        assert_eq!(simple(&Filter::And(vec![none(), name.clone()])), NOTHING);
        assert_eq!(simple(&Filter::Or(vec![none(), name.clone()])), name);
        assert_eq!(simple(&Filter::Or(vec![Filter::All, name.clone()])), Filter::All);
        assert_eq!(simple(&Filter::Not(Box::new(Filter::Not(Box::new(name.clone()))))), name);
        assert_eq!(simple(&Filter::Not(Box::new(none()))), Filter::All);
        assert_eq!(simple(&Filter::Contains(String::new())), Filter::All);
        assert_eq!(simple(&Filter::Contains("Äb\0".into())), Filter::Contains("äb\u{fffd}".into()));
        assert_eq!(simple(&Filter::eq("name", 7_i64)), NOTHING);
        assert_eq!(simple(&Filter::AtLeast("name".into(), Value::Null)), NOTHING);
        assert_eq!(simple(&Filter::eq("name", "é".repeat(300))), Filter::eq("name", "é".repeat(255)));
    }

    #[test]
    fn an_unknown_field_is_seen_behind_anything() {
        for bad in [
            Filter::And(vec![NOTHING, Filter::eq("nope", 1_i64)]),
            Filter::Or(vec![Filter::All, Filter::Not(Box::new(Filter::eq("nope", 1_i64)))]),
        ] {
            assert!(matches!(filter(Kind::Vm, &bad), Err(StoreError::UnknownField { .. })));
        }
        assert!(sort(Kind::Vm, &Sort::by("nope")).is_err());
        assert_eq!(sort(Kind::Vm, &Sort::by("id")).unwrap(), None);
    }
}
