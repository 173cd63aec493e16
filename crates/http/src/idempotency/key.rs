//! The grammar of the header.

use axum::http::{HeaderMap, HeaderName};

/// The header's name.
const NAME: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key in characters.
const LONGEST: usize = 255;

/// The header is there, and is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The key of a request: 1 to 255 visible ASCII characters. A key in double quotes, as the draft spells it (with
/// `\"` and `\\` for the two that need it), is the text between them. Given once at the most: of two keys, nobody
/// knows which one counts.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<String>, Malformed> {
    let mut all = headers.get_all(NAME).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Malformed);
    }
    let text = value.to_str().map_err(|_| Malformed)?.trim_matches([' ', '\t']);
    let key = match text.strip_prefix('"') {
        Some(quoted) => unquoted(quoted)?,
        None => text.to_owned(),
    };
    let fits = (1..=LONGEST).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(Some(key)) } else { Err(Malformed) }
}

/// What stands before the closing quote, which must be the last character.
fn unquoted(text: &str) -> Result<String, Malformed> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    loop {
        match rest.next() {
            Some('"') => return if rest.next().is_none() { Ok(out) } else { Err(Malformed) },
            Some('\\') => match rest.next() {
                Some(c @ ('"' | '\\')) => out.push(c),
                _ => return Err(Malformed),
            },
            Some(c) => out.push(c),
            None => return Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn given(values: &[&[u8]]) -> Result<Option<String>, Malformed> {
        let pairs = values.iter().map(|v| (NAME, HeaderValue::from_bytes(v).unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        of(&headers)
    }

    #[test]
    fn the_edges_of_the_grammar() {
        assert_eq!(given(&[]), Ok(None));
        assert_eq!(given(&[b"  a "]), Ok(Some("a".into())));
        let longest = [b'k'; 255];
        assert_eq!(given(&[&longest]), Ok(Some("k".repeat(255))));
        for bad in [&b""[..], b" ", b"\"\"", b"a b", b"\"a b\"", b"\"a", b"\"a\"b", b"\"a\\", b"\"\\n\"", &[b'k'; 256]]
        {
            assert_eq!(given(&[bad]), Err(Malformed), "{bad:?}");
        }
        assert_eq!(given(&[b"a", b"a"]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn visible_keys_come_out_as_they_went_in(key in "[!-~]{1,255}") {
            let escaped = key.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(given(&[format!("\"{escaped}\"").as_bytes()]), Ok(Some(key.clone())));
            if !key.starts_with('"') {
                prop_assert_eq!(given(&[key.as_bytes()]), Ok(Some(key)));
            }
        }

        #[test]
        fn whatever_is_taken_is_a_key(value in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(header) = HeaderValue::from_bytes(&value) {
                let mut headers = HeaderMap::new();
                headers.insert(NAME, header);
                if let Ok(key) = of(&headers) {
                    let key = key.unwrap();
                    prop_assert!((1..=255).contains(&key.len()) && key.bytes().all(|b| (b'!'..=b'~').contains(&b)));
                }
            }
        }
    }
}
