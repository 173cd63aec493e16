//! Point 5: every way to fail is one typed error.

use super::{CloudFixture, Failure};
use portolan_driver::{CloudDriver, CloudDriverExt, CloudError, CloudErrorKind, Timed};
use portolan_model::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// Each failure of a request is of its kind, carries what the provider said with it, and is over when it is over.
pub async fn failures_are_typed(f: &impl CloudFixture) {
    use CloudErrorKind::*;
    let backend = f.backend().expect("a back end");
    let driver = f.driver();
    driver.nodes().await.expect("a list");
    // 401 is point 7's.
    let statuses = [
        (400, Invalid),
        (403, Denied),
        (404, NotFound),
        (409, Conflict),
        (413, Quota),
        (429, RateLimited),
        (500, Unreachable),
        (502, Unreachable),
        (503, Unreachable),
    ];
    for (status, kind) in statuses {
        let error = failing(f, &driver, Failure::Status(status)).await;
        assert_eq!((error.kind, error.provider.status), (kind, Some(status)), "{error}");
        assert!(!error.provider.request_id.is_empty(), "{error:?}");
        assert_eq!(error.is_transient(), matches!(kind, RateLimited | Unreachable), "{error}");
    }

    let date = http_date(backend.now().await + Duration::from_secs(7));
    for header in ["7", date.as_str()] {
        for (status, kind) in [(413, RateLimited), (429, RateLimited), (503, Unreachable)] {
            let error = failing(f, &driver, Failure::RetryAfter(status, header.to_owned())).await;
            assert_eq!(error.kind, kind, "{status} {header}");
            let pause = error.retry_after.expect("when to come back").as_secs();
            assert!((5..=7).contains(&pause), "{status} {header}: {pause}");
        }
    }
    let error = failing(f, &driver, Failure::RetryAfter(429, "soon".to_owned())).await;
    assert_eq!((error.kind, error.retry_after), (RateLimited, None), "nonsense says nothing");

    for (failure, kinds) in [
        (Failure::Malformed, &[Malformed][..]),
        // A client may not be able to tell an end from a break.
        (Failure::Truncated, &[Malformed, Unreachable]),
        (Failure::Reset, &[Unreachable, Malformed]),
        (Failure::Refused, &[Unreachable]),
        (Failure::Tls, &[Unreachable]),
    ] {
        let error = failing(f, &driver, failure.clone()).await;
        assert!(kinds.contains(&error.kind), "{failure:?}: {error}");
        assert!(error.outcome_unknown(), "{failure:?}: {error}");
    }
}

/// A provider that never answers does not hold its caller for ever.
pub async fn answers_that_never_come(f: &impl CloudFixture) {
    let backend = f.backend().expect("a back end");
    let driver = f.driver();
    driver.nodes().await.expect("a list");
    backend.fail(Some(Failure::Silent)).await;
    let timed = Timed::new(driver.clone(), Duration::from_millis(100));
    let error = timed.list_nodes(None).await.expect_err("no answer");
    assert_eq!(error.kind, CloudErrorKind::Unreachable, "{error}");
    backend.fail(None).await;
    driver.nodes().await.expect("a list again");
}

/// The error of a listing while requests fail so.
async fn failing(f: &impl CloudFixture, driver: &Arc<dyn CloudDriver>, failure: Failure) -> CloudError {
    let backend = f.backend().expect("a back end");
    backend.fail(Some(failure.clone())).await;
    let answer = driver.nodes().await;
    backend.fail(None).await;
    driver.nodes().await.expect("a list again");
    match answer {
        Ok(nodes) => panic!("{failure:?} went unseen: {nodes:?}"),
        Err(error) => error,
    }
}

/// A date as HTTP writes it.
fn http_date(at: Timestamp) -> String {
    at.to_jiff().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
