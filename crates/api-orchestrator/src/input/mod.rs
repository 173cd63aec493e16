//! What clients send: bodies read as the original did, whatever their type says (section 4.2).

mod repr;
mod schema;

pub(crate) use schema::{ASSIGN, Fields, RELEASE, START, STOP, Schema};

use crate::error::ApiError;
use crate::options::LONGEST_BODY;
use axum::body::Body as HttpBody;
use axum::extract::{FromRequestParts, OptionalFromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use http_body_util::BodyExt;
use portolan_model::Secret;
use serde_json::Value;
use std::collections::HashMap;
use std::convert::Infallible;

/// The name of the cloud that is meant where none is named.
pub(crate) const DEFAULT: &str = "default";

/// The body of a request, without the token that may be in it.
#[derive(Debug, Default)]
pub(crate) struct Body {
    /// The value; nothing where the bytes are no JSON.
    value: Option<Value>,
    empty: bool,
    /// Whether its type says that it is JSON.
    said: bool,
    token: Option<Token>,
}

/// A token in a body.
#[derive(Debug)]
pub(crate) enum Token {
    /// A text.
    Text(Secret),
    /// Something that cannot be one.
    Nonsense,
}

impl Body {
    /// Reads a body to its end, and refuses it there when it is too long: a client that sends all before it reads gets
    /// its answer.
    pub(crate) async fn read(headers: &HeaderMap, mut body: HttpBody) -> Result<Self, ApiError> {
        let mut bytes = BytesMut::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            // Where the body is far too long or stalled, the transport puts its own words in place of these.
            let frame = frame.map_err(|_| ApiError::bad_request("the body could not be read to its end"))?;
            let Ok(data) = frame.into_data() else { continue };
            length += data.len();
            if length > LONGEST_BODY {
                bytes = BytesMut::new();
            } else {
                bytes.extend_from_slice(&data);
            }
        }
        if length > LONGEST_BODY { Err(ApiError::too_large()) } else { Ok(Self::new(is_json(headers), &bytes)) }
    }

    fn new(said: bool, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self { empty: true, said, ..Self::default() };
        }
        // Nesting is bounded by the parser; of members with one name the last counts.
        let mut value: Option<Value> = serde_json::from_slice(bytes).ok();
        let members = value.as_mut().and_then(Value::as_object_mut);
        let nothing = |value: &Value| value.is_null() || value == "";
        // One that says nothing is a member like any other, which no body has.
        let token = match members.filter(|map| map.get("auth_token").is_some_and(|value| !nothing(value))) {
            None => None,
            Some(map) => match map.remove("auth_token") {
                Some(Value::String(text)) => Some(Token::Text(Secret::new(text))),
                _ => Some(Token::Nonsense),
            },
        };
        Self { value, empty: false, said, token }
    }

    /// The value.
    pub(crate) fn value(&self) -> Result<&Value, ApiError> {
        self.value.as_ref().ok_or_else(ApiError::malformed)
    }

    /// The fields, where they fit.
    pub(crate) fn checked(&self, schema: &Schema) -> Result<Fields<'_>, ApiError> {
        schema.check(self.value()?)
    }

    /// Whether nothing was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty
    }

    /// Whether its type says that it is JSON.
    pub(crate) fn says_json(&self) -> bool {
        self.said
    }

    /// The token in it.
    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Whether it asks for the answer of a machinery that is not asked (section 5.1): anything that Python takes for
    /// true.
    pub(crate) fn emulates(&self) -> bool {
        match self.value.as_ref().and_then(|value| value.get("emulate")) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(members)) => !members.is_empty(),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let said = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    said.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// The cloud that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CloudName {
    /// None, or `default`.
    Default,
    /// That one.
    Named(String),
    /// One whose name is no text: there is none.
    Unreadable,
}

impl<S: Send + Sync> FromRequestParts<S> for CloudName {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        type Segments = Path<HashMap<String, String>>;
        Ok(match <Segments as OptionalFromRequestParts<S>>::from_request_parts(parts, state).await {
            Err(_) => Self::Unreadable,
            Ok(segments) => match segments.and_then(|Path(mut all)| all.remove("cloud")) {
                Some(name) if name != DEFAULT => Self::Named(name),
                _ => Self::Default,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn body(text: &str) -> Body {
        Body::new(true, text.as_bytes())
    }

    #[test]
    fn emulation_follows_pythons_truth() {
        for yes in ["true", "\"True\"", "\"False\"", "\"x\"", "1", "-0.5", "[0]", "{\"a\":null}"] {
            assert!(body(&format!("{{\"emulate\":{yes}}}")).emulates(), "{yes}");
        }
        for no in ["false", "\"\"", "0", "0.0", "-0.0", "[]", "{}", "null"] {
            assert!(!body(&format!("{{\"emulate\":{no}}}")).emulates(), "{no}");
        }
        assert!(!body("[\"emulate\"]").emulates() && !body("{").emulates() && !body("").emulates());
    }

    #[test]
    fn the_token_is_taken_out() {
        let Body { value, token, .. } = body("{\"auth_token\":\"t\",\"node\":\"1\"}");
        assert_eq!(value, Some(serde_json::json!({ "node": "1" })));
        assert!(matches!(token, Some(Token::Text(t)) if t.matches("t")));
        assert!(matches!(body("{\"auth_token\":5}").token, Some(Token::Nonsense)));
        assert!(body("{\"auth_token\":null}").token.is_none() && body("{\"auth_token\":\"\"}").token.is_none());
        assert!(body("[{\"auth_token\":\"t\"}]").token.is_none());
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for bad in ["", " ", "{", "{}x", "NaN", "{\"a\":Infinity}", "{\"a\":1e400}", "\"\\ud800\"", "{'a':1}", &deep] {
            assert_eq!(body(bad).value().unwrap_err(), ApiError::malformed(), "{bad}");
        }
        assert_eq!(body("{\"a\":1,\"a\":2}").value().unwrap()["a"], 2);
        assert_eq!(
            body("{\"a\":123456789012345678901234567890}").value().unwrap()["a"],
            123_456_789_012_345_678_901_234_567_890_f64
        );
    }

    #[test]
    fn the_type_counts_without_its_parameters() {
        let said =
            |text: &str| is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_str(text).unwrap())]));
        assert!(said("application/json") && said("Application/JSON; charset=utf-8") && said(" application/json ;x"));
        assert!(!said("text/json") && !said("") && !said("application/jsonx") && !is_json(&HeaderMap::new()));
    }
}
