//! Credentials as they stand in headers. Pure functions: whether they are good is not decided here.

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use portolan_model::Secret;
use std::fmt::Write;
use std::time::Duration;

/// What an `Authorization` header says.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// No such header.
    None,
    /// `Basic`: a name, possibly empty, and a password, possibly with colons.
    Basic {
        /// The account's name.
        name: String,
        /// Its password.
        password: Secret,
    },
    /// `Bearer`: an opaque token.
    Bearer(Secret),
}

/// Why an `Authorization` header says nothing usable. To be answered like wrong credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadCredentials {
    /// More than one header: whoever stands in between may have checked another one than we would.
    #[error("more than one authorization header")]
    Repeated,
    /// Neither `Basic` nor `Bearer`.
    #[error("unknown authorization scheme")]
    Scheme,
    /// The scheme is known, the rest is not what it should be.
    #[error("malformed authorization header")]
    Malformed,
}

/// Clients leave padding out, or their libraries do.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads the `Authorization` header. The scheme is matched without regard to case.
///
/// # Errors
/// [`BadCredentials`] for anything that is neither absent nor well-formed.
pub fn credentials(headers: &HeaderMap) -> Result<Credentials, BadCredentials> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Ok(Credentials::None) };
    if all.next().is_some() {
        return Err(BadCredentials::Repeated);
    }
    let value = value.to_str().map_err(|_| BadCredentials::Malformed)?.trim();
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("basic") {
        basic(rest).ok_or(BadCredentials::Malformed)
    } else if scheme.eq_ignore_ascii_case("bearer") {
        let token = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic());
        if token { Ok(Credentials::Bearer(Secret::new(rest))) } else { Err(BadCredentials::Malformed) }
    } else {
        Err(BadCredentials::Scheme)
    }
}

fn basic(text: &str) -> Option<Credentials> {
    let decoded = String::from_utf8(BASE64.decode(text).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    // Control characters would reach logs and audit trails.
    if decoded.chars().any(char::is_control) {
        return None;
    }
    Some(Credentials::Basic { name: name.to_owned(), password: Secret::new(password) })
}

/// An `Authorization: Basic` value for a client.
pub fn basic_header(name: &str, password: &Secret) -> HeaderValue {
    sensitive(&format!("Basic {}", BASE64.encode(format!("{name}:{}", password.reveal()))))
}

/// An `Authorization: Bearer` value for a client; empty when the token holds characters that no header may.
pub fn bearer_header(token: &Secret) -> HeaderValue {
    sensitive(&format!("Bearer {}", token.reveal()))
}

fn sensitive(text: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Every value of the cookie `name`, in the order sent. Browsers send several when paths or domains overlap, and any
/// of them may be the live one.
pub fn cookies<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    fields.flat_map(|field| field.split(';')).filter_map(move |pair| {
        let (key, value) = pair.split_once('=')?;
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        (key.trim() == name && !value.is_empty()).then_some(value)
    })
}

/// Where a cookie may travel to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Only from pages of this site.
    Strict,
    /// Also when a user follows a link here.
    Lax,
    /// From every page; browsers want [`CookieOptions::secure`] with it.
    None,
}

/// The attributes of a cookie besides `HttpOnly`, which is always set.
#[derive(Clone, Copy, Debug)]
pub struct CookieOptions {
    /// The path it is sent to.
    pub path: &'static str,
    /// Never over plain HTTP.
    pub secure: bool,
    /// Where it may travel to; none leaves the word out.
    pub same_site: Option<SameSite>,
    /// How long it lives; none until the browser closes, zero removes it.
    pub max_age: Option<Duration>,
}

/// A `Set-Cookie` value. None when name or value hold characters that a cookie may not.
pub fn set_cookie(name: &str, value: &str, options: CookieOptions) -> Option<HeaderValue> {
    let token = |b: u8| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b);
    let octet = |b: u8| b.is_ascii_graphic() && !b"\",;\\".contains(&b);
    if name.is_empty() || !name.bytes().all(token) || !value.bytes().all(octet) {
        return None;
    }
    let mut text = format!("{name}={value}; Path={}; HttpOnly", options.path);
    if let Some(age) = options.max_age {
        write!(text, "; Max-Age={}", age.as_secs()).ok()?;
    }
    text.push_str(match options.same_site {
        Some(SameSite::Strict) => "; SameSite=Strict",
        Some(SameSite::Lax) => "; SameSite=Lax",
        Some(SameSite::None) => "; SameSite=None",
        None => "",
    });
    if options.secure {
        text.push_str("; Secure");
    }
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests;
