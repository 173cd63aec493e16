//! What HTTP says of a failure, for drivers whose provider speaks it: so that they all read it alike.

use super::error::CloudErrorKind;
use jiff::fmt::rfc2822;
use portolan_model::Timestamp;
use std::time::Duration;

/// The kind of failure that a status means, where the provider says nothing more exact. `paused` says that the
/// answer came with a `Retry-After`: a 413 with one is a limit of calls, without one a quota.
///
/// A status of success that the driver did not expect is `Malformed`. A 401 is for [`crate::Relogin`] to see first.
pub const fn kind_of_status(status: u16, paused: bool) -> CloudErrorKind {
    match status {
        401 => CloudErrorKind::Auth,
        403 => CloudErrorKind::Denied,
        404 | 410 => CloudErrorKind::NotFound,
        405 | 501 => CloudErrorKind::Unsupported,
        409 | 412 | 423 => CloudErrorKind::Conflict,
        413 if paused => CloudErrorKind::RateLimited,
        413 => CloudErrorKind::Quota,
        429 => CloudErrorKind::RateLimited,
        408 | 500..=599 => CloudErrorKind::Unreachable,
        400..=499 => CloudErrorKind::Invalid,
        _ => CloudErrorKind::Malformed,
    }
}

/// How long a `Retry-After` header asks to wait, in either of its forms: seconds, or a date. `now` is best the
/// answer's own `Date`, so that a clock that is wrong here does no harm. Nothing for a header that makes no sense.
pub fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    // The parser wants to know the zone as mail writes it.
    let date = header.strip_suffix("GMT").map_or(header.to_owned(), |date| format!("{date}+0000"));
    let at = rfc2822::parse(&date).ok()?.timestamp();
    Some(Timestamp::from(at).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_their_kinds() {
        use CloudErrorKind::*;
        let kinds = [400, 401, 403, 404, 405, 409, 413, 422, 429, 500, 501, 503, 204, 302];
        let kinds: Vec<_> = kinds.into_iter().map(|status| kind_of_status(status, false)).collect();
        assert_eq!(
            kinds,
            [
                Invalid,
                Auth,
                Denied,
                NotFound,
                Unsupported,
                Conflict,
                Quota,
                Invalid,
                RateLimited,
                Unreachable,
                Unsupported,
                Unreachable,
                Malformed,
                Malformed
            ]
        );
        assert_eq!(kind_of_status(413, true), RateLimited);
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        // 1994-11-06T08:49:37Z.
        let now = Timestamp::from_millis(784_111_777_000);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after(" Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        for nonsense in ["", "soon", "-1", "1e9", "Sun, 06 Nov", "99999999999"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense}");
        }
    }
}
