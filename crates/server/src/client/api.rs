//! Requests to the management API, and what its answers mean to a person.

use super::credentials::Credentials;
use super::render::{self, Column};
use crate::ask;
use crate::cli::ApiArgs;
use crate::config::Surroundings;
use crate::error::{Failure, OrFail};
use crate::output;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use portolan_http::client::{Answer, Client, Trust};
use portolan_model::Secret;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Where a server with built-in defaults answers.
pub(super) const USUAL: &str = "http://127.0.0.1:9180";
/// How long an answer may take: longer than a server lets a platform take that is tried.
const PATIENCE: Duration = Duration::from_secs(90);
/// The largest page that the API gives.
const PAGE: u64 = 1000;

/// A server's management API.
pub(super) struct Api {
    client: Client,
    url: String,
    authenticated: bool,
    /// How answers are shown.
    pub(super) args: ApiArgs,
}

/// Who asks.
pub(super) enum As<'a> {
    Nobody,
    Token(&'a Secret),
    Password(&'a str, &'a Secret),
}

impl Api {
    /// The server that the arguments name, or the last one that was logged in to, with the token for it.
    pub(super) fn connect(args: &ApiArgs, around: &Surroundings) -> Result<Self, Failure> {
        let stored = Credentials::load(around)?;
        let url = url_of(args, &stored);
        let token = match (&args.token_file, &args.token) {
            (Some(file), _) => Some(ask::first_line(file)?),
            (None, Some(token)) if !token.is_empty() => Some(Secret::new(token.trim())),
            _ => stored.token(&url),
        };
        let ca = args.ca.clone().or_else(|| stored.ca(&url));
        let who = token.as_ref().map_or(As::Nobody, As::Token);
        Self::to(&url, ca.as_deref(), who, args)
    }

    /// The server at `url`.
    pub(super) fn to(url: &str, ca: Option<&Path>, who: As<'_>, args: &ApiArgs) -> Result<Self, Failure> {
        let trust = match ca {
            Some(file) => Trust::Certificate(
                std::fs::read_to_string(file)
                    .or_fail(|| format!("the certificate {} cannot be read", file.display()))?,
            ),
            None => Trust::Plain,
        };
        let base = format!("{}/manage/v1", url.trim_end_matches('/'));
        let client = Client::new(&base, trust).map_err(|e| {
            let failure = Failure::usage(format!("the server {url} cannot be used")).because(e);
            match url.starts_with("https:") && ca.is_none() {
                true => failure.hint("name its certificate, or the one that issued it, with --ca"),
                false => failure,
            }
        })?;
        let client = client.timeout(PATIENCE);
        let (client, authenticated) = match who {
            As::Nobody => (client, false),
            As::Token(token) => (client.bearer(token), true),
            As::Password(login, password) => (client.basic(login, password), true),
        };
        Ok(Self { client, url: url.to_owned(), authenticated, args: args.clone() })
    }

    /// How wide tables may be.
    pub(super) fn width(&self) -> Option<usize> {
        if self.args.wide { None } else { output::width() }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(super) async fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::PATCH, path, Some(body)).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::DELETE, path, None).await
    }

    /// A whole list, page by page, or its first `most` items.
    pub(super) async fn list(&self, path: &str, most: u64) -> Result<Value, Failure> {
        let (mut items, mut total) = (Vec::new(), 0);
        loop {
            let have = items.len() as u64;
            let (limit, offset) = ((most - have).min(PAGE).to_string(), have.to_string());
            let page = self.get(&query(path, &[("limit", Some(&limit)), ("offset", Some(&offset))])).await?;
            let more = page.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            total = page.get("total").and_then(Value::as_u64).unwrap_or(0).max(total);
            let last = more.is_empty();
            items.extend(more);
            let have = items.len() as u64;
            if last || have >= total.min(most) {
                return Ok(json!({ "items": items, "total": total }));
            }
        }
    }

    /// Prints a list as JSON or as a table.
    pub(super) fn print_list(&self, list: &Value, columns: &[Column]) -> Result<(), Failure> {
        if self.args.json {
            return output::json(list);
        }
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        output::line(render::rows(columns, &items, self.width()));
        let total = list.get("total").and_then(Value::as_u64).unwrap_or(0);
        if total > items.len() as u64 {
            output::note(format!("{} of {total}; --limit shows more", items.len()));
        }
        Ok(())
    }

    /// Prints one object as JSON or line by line.
    pub(super) fn print_one(&self, object: &Value) -> Result<(), Failure> {
        if self.args.json {
            return output::json(object);
        }
        output::line(render::object(object));
        Ok(())
    }

    /// Says that something was done, or prints the answer as JSON.
    pub(super) fn done(&self, answer: &Value, words: impl AsRef<str>) -> Result<(), Failure> {
        if self.args.json && !answer.is_null() {
            return output::json(answer);
        }
        output::note(words);
        Ok(())
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let mut headers = HeaderMap::new();
        let body = match body {
            Some(body) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Bytes::from(serde_json::to_vec(body).or_fail(|| "the request cannot be written".into())?)
            }
            None => Bytes::new(),
        };
        let answer = self.client.send(method, path, headers, body).await.map_err(|e| {
            Failure::new(format!("the server at {} does not answer", self.url))
                .because(e)
                .hint("is it running? Another one is named with --url or PORTOLAN_URL")
        })?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer));
        }
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        answer.json().or_fail(|| format!("the server at {} answers in another language", self.url))
    }

    /// What an answer means that is no success.
    fn refused(&self, answer: &Answer) -> Failure {
        let body: Value = answer.json().unwrap_or(Value::Null);
        let message = body.pointer("/error/message").and_then(Value::as_str).map(str::to_owned);
        let code = body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default();
        let ours = message.is_some();
        let message = message.unwrap_or_else(|| format!("the server answered {}", answer.status));
        match answer.status {
            StatusCode::UNAUTHORIZED if !self.authenticated => Failure::denied("nobody is logged in")
                .hint("log in with `portolan login`, or give a token with PORTOLAN_TOKEN or --token-file"),
            StatusCode::UNAUTHORIZED => Failure::denied(message)
                .hint("the token or password is not valid (any more): log in again with `portolan login`"),
            StatusCode::FORBIDDEN if code == "WRONG_PASSWORD" => Failure::denied(message),
            StatusCode::FORBIDDEN => Failure::denied(message).hint("`portolan account whoami` shows what you may do"),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Failure::usage(message),
            StatusCode::NOT_FOUND if !ours => Failure::new(format!("{} has no management API", self.url))
                .hint("name the management listener with --url: http://127.0.0.1:9180 by default"),
            _ => Failure::new(message),
        }
    }
}

/// The server that is meant.
pub(super) fn url_of(args: &ApiArgs, stored: &Credentials) -> String {
    let url = args.url.clone().filter(|url| !url.is_empty()).or_else(|| stored.current().map(str::to_owned));
    url.as_deref().unwrap_or(USUAL).trim_end_matches('/').to_owned()
}

/// A path with a query of the parameters that are given. `path` may have a query already.
pub(super) fn query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut out = path.to_owned();
    for (name, value) in parameters {
        if let Some(value) = value {
            out.push(if out.contains('?') { '&' } else { '?' });
            out.push_str(name);
            out.push('=');
            out.push_str(&encoded(value));
        }
    }
    out
}

/// One part of a path, or a value of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            // A part of dots alone would be another path.
            b'.' if text.bytes().any(|b| b != b'.') => out.push('.'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_was_meant() {
        assert_eq!(encoded("lab-1.x"), "lab-1.x");
        assert_eq!(encoded("a/b ü"), "a%2Fb%20%C3%BC");
        assert_eq!(encoded(".."), "%2E%2E");
        let path = query("/tasks", &[("state", Some("a,b")), ("kind", None), ("limit", Some("5"))]);
        assert_eq!(path, "/tasks?state=a%2Cb&limit=5");
        assert_eq!(query("/x?force=true", &[("a", Some("1"))]), "/x?force=true&a=1");
    }

    #[test]
    fn the_server_is_the_named_one_else_the_last_one_else_the_usual_one() {
        let mut stored = Credentials::default();
        assert_eq!(url_of(&ApiArgs::default(), &stored), USUAL);
        stored.put("https://b:1", "eve", &Secret::new("t"), None);
        assert_eq!(url_of(&ApiArgs::default(), &stored), "https://b:1");
        let named = ApiArgs { url: Some("http://c:2/".into()), ..ApiArgs::default() };
        assert_eq!(url_of(&named, &stored), "http://c:2");
    }
}
