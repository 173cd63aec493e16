//! Answers as they are kept: a line of JSON with status and headers, then the body.

use crate::fault::Fault;
use axum::body::Body;
use axum::http::response::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};

/// The longest body of an answer that is kept, in bytes.
pub const LONGEST_ANSWER: usize = 2 << 20;

/// Marks an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Headers that belong to a connection, not to an answer.
const OF_CONNECTION: [HeaderName; 6] =
    [header::CONNECTION, header::DATE, header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::UPGRADE];

#[derive(Serialize, Deserialize)]
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
    /// Whether the body follows; not when it was too long.
    whole: bool,
}

/// An answer's body, read as far as it can be kept.
pub(super) enum Gathered {
    /// All of it.
    Whole(Bytes),
    /// Too long to be kept: still to be sent.
    Long(Body),
    /// It broke off.
    Broken,
}

/// Whether the next of its kind is to be answered by this one.
pub(super) fn is_kept(response: &Response) -> bool {
    const NOT_KEPT: [StatusCode; 6] = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    let status = response.status();
    (200..500).contains(&status.as_u16())
        && !NOT_KEPT.contains(&status)
        && response.extensions().get::<Fault>().is_none()
}

/// Reads a body up to the longest that is kept.
pub(super) async fn gather(mut body: Body) -> Gathered {
    let mut seen = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Gathered::Broken };
        if let Ok(data) = frame.into_data() {
            seen.extend_from_slice(&data);
        }
        if seen.len() > LONGEST_ANSWER {
            let first = stream::iter([Ok(seen.freeze())]);
            return Gathered::Long(Body::from_stream(first.chain(body.into_data_stream())));
        }
    }
    Gathered::Whole(seen.freeze())
}

/// The bytes to keep. Without a body: that there was an answer, and no more.
pub(super) fn encode(parts: &Parts, body: Option<&[u8]>) -> Vec<u8> {
    let kept = parts.headers.iter().filter(|(name, _)| !OF_CONNECTION.contains(name));
    // A header's value may hold any byte: one character stands for each.
    let text = |value: &HeaderValue| value.as_bytes().iter().map(|b| char::from(*b)).collect();
    let head = Head {
        status: parts.status.as_u16(),
        headers: kept.map(|(name, value)| (name.to_string(), text(value))).collect(),
        whole: body.is_some(),
    };
    // Plain data cannot fail to become JSON, whose strings hold no bare line break.
    let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
    bytes.push(b'\n');
    bytes.extend_from_slice(body.unwrap_or_default());
    bytes
}

/// The answer that was kept, marked as given before. One that cannot be read is like one that was too long.
pub(super) fn decode(kept: &[u8]) -> Response {
    let Some((head, body)) = parse(kept) else {
        tracing::error!("a kept answer cannot be read");
        return Fault::AnswerNotKept.into_response();
    };
    let (Ok(status), true) = (StatusCode::from_u16(head.status), head.whole) else {
        return Fault::AnswerNotKept.into_response();
    };
    let mut response = Response::new(Body::from(body.to_vec()));
    *response.status_mut() = status;
    *response.headers_mut() = headers(&head.headers);
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

fn parse(kept: &[u8]) -> Option<(Head, &[u8])> {
    let end = kept.iter().position(|b| *b == b'\n')?;
    let (head, body) = kept.split_at_checked(end)?;
    Some((serde_json::from_slice(head).ok()?, body.get(1..)?))
}

fn headers(pairs: &[(String, String)]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        let bytes: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(c).ok()).collect();
        let value = bytes.and_then(|b| HeaderValue::from_bytes(&b).ok());
        if let (Ok(name), Some(value)) = (HeaderName::try_from(name), value) {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(status: u16, pairs: &[(String, Vec<u8>)]) -> Parts {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in pairs {
            let value = HeaderValue::from_bytes(value).unwrap();
            response.headers_mut().append(HeaderName::try_from(name).unwrap(), value);
        }
        response.into_parts().0
    }

    proptest! {
        #[test]
        fn answers_come_out_as_they_went_in(
            status in 200u16..500,
            pairs in prop::collection::vec(("x-[a-z]{1,8}", prop::collection::vec(32u8..127, 0..20)), 0..5),
            odd in prop::collection::vec(128u8..=255, 0..5),
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut pairs = pairs;
            pairs.push(("x-odd".into(), odd));
            let before = parts(status, &pairs);
            let mut after = decode(&encode(&before, Some(&body)));
            prop_assert_eq!(after.headers_mut().remove(REPLAYED).unwrap(), "true");
            prop_assert_eq!(after.status(), before.status);
            prop_assert_eq!(after.headers(), &before.headers);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let got = runtime.block_on(async { after.into_body().collect().await.unwrap().to_bytes() });
            prop_assert_eq!(&got[..], &body[..]);
        }

        #[test]
        fn rubbish_is_an_answer_too(kept in prop::collection::vec(any::<u8>(), 0..100)) {
            let answer = decode(&kept);
            prop_assert_eq!(answer.extensions().get::<Fault>(), Some(&Fault::AnswerNotKept));
        }
    }

    #[test]
    fn what_belongs_to_a_connection_is_left_out() {
        let pairs = [("connection".into(), b"close".to_vec()), ("location".into(), b"/x".to_vec())];
        let after = decode(&encode(&parts(201, &pairs), Some(b"")));
        assert_eq!(after.headers()["location"], "/x");
        assert!(!after.headers().contains_key("connection"));
    }
}
