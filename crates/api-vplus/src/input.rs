//! What clients send, read leniently where they differ from one another (section 2): references and enums in two
//! spellings each, numbers as texts or fractions, unknown fields, empty texts for "not given".

use crate::error::ApiError;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use portolan_model::describe::Describe;
use portolan_model::{Name, TypedId};
use serde_json::Value;
use uuid::Uuid;

/// What stands for the fields of a value that has none.
const NO_FIELDS: &Value = &Value::Null;

/// A JSON body.
#[derive(Debug, Clone)]
pub(crate) struct Body(pub(crate) Value);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        // Where the body is too long or stalled, the transport puts its own words in place of these.
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|_| ApiError::invalid("the body could not be read to its end"))?;
        if bytes.is_empty() {
            return Err(ApiError::invalid("a body is needed"));
        }
        // Whatever its type says: clients leave the type out. Nesting is bounded by the parser.
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Self(value)),
            Err(e) => Err(ApiError::invalid(format!("the body is not valid JSON: {e}"))),
        }
    }
}

impl Body {
    /// The body as an object.
    pub(crate) fn object(&self) -> Result<Fields<'_>, ApiError> {
        if self.0.is_object() { Ok(Fields(&self.0)) } else { Err(ApiError::invalid("the body must be a JSON object")) }
    }

    /// The body as a list.
    pub(crate) fn list(&self) -> Result<&[Value], ApiError> {
        self.0.as_array().map(Vec::as_slice).ok_or_else(|| ApiError::invalid("the body must be a JSON array"))
    }
}

/// The fields of an object. A field that is absent, `null` or an empty text is not given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(&'a Value);

impl<'a> Fields<'a> {
    /// The fields of a nested value; none where it is no object.
    pub(crate) fn of(value: &'a Value) -> Self {
        Self(if value.is_object() { value } else { NO_FIELDS })
    }

    /// The field, if it is given.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|v| !v.is_null() && v.as_str() != Some(""))
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "a text")),
        }
    }

    /// A name: 1 to 255 characters.
    pub(crate) fn name(&self, name: &str) -> Result<Option<Name>, ApiError> {
        self.text(name)?.map(|text| Name::new(text).map_err(|e| ApiError::invalid(format!("{name}: {e}")))).transpose()
    }

    /// A whole number, also as a text or a fraction.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => whole(value).map(Some).ok_or_else(|| wrong(name, "a number")),
        }
    }

    /// A truth value, also as a text.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(_) => Err(wrong(name, "true or false")),
        }
    }

    /// A reference: `{"guid": …}` or the bare guid.
    pub(crate) fn reference<T: TypedId>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => reference(value, name),
        }
    }

    /// References: a list of either spelling.
    pub(crate) fn references<T: TypedId>(&self, name: &str) -> Result<Vec<T>, ApiError> {
        let mut found = Vec::new();
        for value in self.items(name)? {
            found.push(reference(value, name)?.ok_or_else(|| wrong(name, "a list of references with guid"))?);
        }
        Ok(found)
    }

    /// An enum: `{"name": …}` or the bare name.
    pub(crate) fn choice<E: Describe>(&self, name: &str) -> Result<Option<E>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let word = match value {
            Value::String(word) => Some(word.as_str()),
            Value::Object(fields) => match fields.get("name") {
                // Forms send an empty choice when nothing was chosen.
                None | Some(Value::Null) => return Ok(None),
                Some(name) if name.as_str() == Some("") => return Ok(None),
                Some(name) => name.as_str(),
            },
            _ => None,
        };
        let word = word.ok_or_else(|| wrong(name, "a name, or an object with a name"))?;
        E::from_name(word).map(Some).ok_or_else(|| {
            let known: Vec<&str> = E::TABLE.iter().map(|row| row.1).collect();
            ApiError::invalid(format!("{name} cannot be '{}': use one of {}", short(word), known.join(", ")))
        })
    }

    /// A list; empty where it is not given.
    pub(crate) fn items(&self, name: &str) -> Result<&'a [Value], ApiError> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(wrong(name, "a list")),
        }
    }
}

/// A reference in either spelling; nothing for an object whose guid is absent.
pub(crate) fn reference<T: TypedId>(value: &Value, name: &str) -> Result<Option<T>, ApiError> {
    let guid = match value {
        Value::String(guid) => guid.as_str(),
        Value::Object(fields) => match fields.get("guid") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(guid)) if guid.is_empty() => return Ok(None),
            Some(Value::String(guid)) => guid.as_str(),
            Some(_) => return Err(wrong(name, "a reference with a guid")),
        },
        _ => return Err(wrong(name, "a reference with a guid")),
    };
    match Uuid::parse_str(guid) {
        Ok(id) => Ok(Some(T::from_uuid(id))),
        Err(_) => Err(ApiError::invalid(format!("{name}: '{}' is not a guid", short(guid)))),
    }
}

/// A part of the path. One that is no text names nothing.
#[derive(Debug, Clone)]
pub(crate) struct PathText(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(ApiError::not_found("object", "of that name")),
        }
    }
}

/// A guid in a path. One that is none names nothing.
pub(crate) fn path_id<T: TypedId>(text: &str, kind: &str) -> Result<T, ApiError> {
    Uuid::parse_str(text).map(T::from_uuid).map_err(|_| ApiError::not_found(kind, format!("'{}'", short(text))))
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().or_else(|| fraction(n.as_f64()?)),
        Value::String(text) => whole_text(text),
        _ => None,
    }
}

/// A whole number in a text, also where it is written as a fraction.
pub(crate) fn whole_text(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse::<i64>().ok().or_else(|| fraction(text.parse::<f64>().ok()?))
}

/// The whole part of a fraction that a 64-bit number can hold.
fn fraction(f: f64) -> Option<i64> {
    const EDGE: f64 = 9_007_199_254_740_992.0;
    // Beyond 2^53 a fraction is no exact number of anything.
    (f.is_finite() && f.abs() <= EDGE).then_some(f as i64)
}

fn wrong(name: &str, what: &str) -> ApiError {
    ApiError::invalid(format!("{name} must be {what}"))
}

/// What of a client's text goes back into a message.
pub(crate) fn short(text: &str) -> String {
    let mut chars = text.chars().filter(|c| !c.is_control());
    let mut cut: String = chars.by_ref().take(60).collect();
    if chars.next().is_some() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::VmId;
    use portolan_model::backup::BackupType;
    use serde_json::json;

    #[test]
    fn numbers_come_in_three_spellings() {
        let body = json!({ "a": 50, "b": "50", "c": 36_000_000.0, "d": "7.0", "e": "x", "f": [], "g": 1e300 });
        let f = Fields::of(&body);
        assert_eq!(f.integer("a").unwrap(), Some(50));
        assert_eq!(f.integer("b").unwrap(), Some(50));
        assert_eq!(f.integer("c").unwrap(), Some(36_000_000));
        assert_eq!(f.integer("d").unwrap(), Some(7));
        assert_eq!(f.integer("missing").unwrap(), None);
        for bad in ["e", "f", "g"] {
            assert!(f.integer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn references_and_enums_come_in_two_spellings() {
        let id = Uuid::from_u128(7);
        let body = json!({
            "a": { "guid": id, "name": "x" }, "b": id, "c": { "name": "no guid" }, "d": "nonsense", "e": 5,
            "full": "FULL", "inc": { "name": "INCREMENTAL" }, "bad": "HALF", "empty": ""
        });
        let f = Fields::of(&body);
        assert_eq!(f.reference::<VmId>("a").unwrap(), Some(VmId::from_uuid(id)));
        assert_eq!(f.reference::<VmId>("b").unwrap(), Some(VmId::from_uuid(id)));
        assert_eq!(f.reference::<VmId>("c").unwrap(), None);
        assert_eq!(f.reference::<VmId>("empty").unwrap(), None);
        assert!(f.reference::<VmId>("d").is_err());
        assert!(f.reference::<VmId>("e").is_err());
        assert_eq!(f.choice::<BackupType>("full").unwrap(), Some(BackupType::Full));
        assert_eq!(f.choice::<BackupType>("inc").unwrap(), Some(BackupType::Incremental));
        assert!(f.choice::<BackupType>("bad").is_err());
        assert_eq!(f.choice::<BackupType>("empty").unwrap(), None);
    }
}
