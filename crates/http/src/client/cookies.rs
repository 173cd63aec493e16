//! Cookies of one server: name and value, nothing else matters to a client of one server.

use axum::http::{HeaderMap, HeaderValue, header};
use std::collections::BTreeMap;

/// The cookies in force.
#[derive(Debug, Default)]
pub(super) struct Jar(BTreeMap<String, String>);

impl Jar {
    /// Most cookies kept; more are ignored.
    const MOST: usize = 64;

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Takes over what an answer sets; an empty value or `Max-Age` of zero removes.
    pub(super) fn take(&mut self, headers: &HeaderMap) {
        for field in headers.get_all(header::SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
            let mut parts = field.split(';');
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { continue };
            let (name, value) = (name.trim(), value.trim());
            let gone = parts.filter_map(|part| part.split_once('=')).any(|(key, age)| {
                key.trim().eq_ignore_ascii_case("max-age") && age.trim().parse::<i64>().is_ok_and(|age| age <= 0)
            });
            if name.is_empty() {
                continue;
            }
            if gone || value.is_empty() {
                self.0.remove(name);
            } else if self.0.len() < Self::MOST || self.0.contains_key(name) {
                self.0.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// The `Cookie` field, if there is anything to send.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut value = HeaderValue::from_str(&pairs.join("; ")).ok().filter(|_| !pairs.is_empty())?;
        value.set_sensitive(true);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_come_and_go() {
        let mut jar = Jar::default();
        let mut set = |fields: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::SET_COOKIE, HeaderValue::from_static(field));
            }
            jar.take(&headers);
            jar.header().map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(set(&["nonsense", "=x"]), None);
        assert_eq!(set(&["b=2; Path=/; HttpOnly", "a=1=1; Max-Age=60"]).as_deref(), Some("a=1=1; b=2"));
        assert_eq!(set(&["b=3"]).as_deref(), Some("a=1=1; b=3"));
        assert_eq!(set(&["a=x; max-age=0", "b="]), None);
    }
}
