//! Point 7: one login for all, made anew once.

use super::{CloudFixture, Failure};
use portolan_driver::{CloudDriver, CloudDriverExt, CloudErrorKind};
use std::sync::Arc;
use std::time::Duration;

/// Fifty callers at once share one login.
pub async fn one_login_serves_all(f: &impl CloudFixture) {
    let backend = f.backend().expect("a back end");
    let driver = f.driver();
    let before = backend.logins().await;
    all_list(&driver).await;
    assert_eq!(backend.logins().await - before, 1);
}

/// A login that the provider revokes before its time is made anew once, for fifty callers at once, and nobody sees it.
pub async fn a_revoked_login_is_renewed_once(f: &impl CloudFixture) {
    let backend = f.backend().expect("a back end");
    let driver = f.driver();
    driver.nodes().await.expect("nodes");
    for _ in 0..3 {
        backend.revoke_tokens().await;
        let before = backend.logins().await;
        all_list(&driver).await;
        assert_eq!(backend.logins().await - before, 1);
    }
}

/// A login that runs out is made anew once, before the provider refuses it.
pub async fn tokens_run_out(f: &impl CloudFixture) {
    let backend = f.backend().expect("a back end");
    backend.set_token_life(Duration::from_secs(600)).await;
    let driver = f.driver();
    driver.nodes().await.expect("nodes");
    for beyond in [Duration::from_secs(595), Duration::from_secs(3000)] {
        backend.advance(beyond).await;
        let (logins, requests) = (backend.logins().await, backend.requests().await);
        all_list(&driver).await;
        assert_eq!(backend.logins().await - logins, 1, "{beyond:?}");
        assert_eq!(backend.requests().await - requests, 50, "nothing was refused on the way: {beyond:?}");
    }
}

/// A provider whose clock is five minutes ahead or behind is used as any other.
pub async fn clocks_may_differ(f: &impl CloudFixture) {
    let backend = f.backend().expect("a back end");
    for seconds in [300, -300] {
        backend.set_clock_ahead(seconds).await;
        backend.set_token_life(Duration::from_secs(240)).await;
        let driver = f.driver();
        let before = backend.logins().await;
        for _ in 0..5 {
            driver.nodes().await.expect("nodes");
        }
        assert_eq!(backend.logins().await - before, 1, "{seconds} s");
        backend.advance(Duration::from_secs(235)).await;
        driver.nodes().await.expect("nodes");
        assert_eq!(backend.logins().await - before, 2, "{seconds} s");
    }
}

/// Credentials that are refused also after a login anew are an `Auth` error, after one login and one more request.
pub async fn refused_for_good(f: &impl CloudFixture) {
    let backend = f.backend().expect("a back end");
    let driver = f.driver();
    driver.nodes().await.expect("nodes");
    let (logins, requests) = (backend.logins().await, backend.requests().await);
    backend.fail(Some(Failure::Status(401))).await;
    let error = driver.nodes().await.expect_err("refused");
    assert_eq!((error.kind, error.provider.status), (CloudErrorKind::Auth, Some(401)), "{error}");
    assert_eq!((backend.logins().await - logins, backend.requests().await - requests), (1, 2));
    backend.fail(None).await;
    driver.nodes().await.expect("nodes again");
}

async fn all_list(driver: &Arc<dyn CloudDriver>) {
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let driver = driver.clone();
            tokio::spawn(async move { driver.list_nodes(None).await.map(drop) })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic").expect("nodes");
    }
}
