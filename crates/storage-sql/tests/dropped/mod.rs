//! Callers that give up in the middle of a call: a client hangs up, a handler is cut off at a stop.

use portolan_model::{Scope, Timestamp};
use portolan_storage::{StateStore, UnitOfWork, Views};
use portolan_storage_sql::SqlStorage;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A call that is dropped once it has been asked for its answer so many times.
struct GivenUp<F> {
    call: Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Future for GivenUp<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.call.as_mut().poll(cx).map(Some)
    }
}

fn given_up<F: Future>(call: F, after: usize) -> GivenUp<F> {
    GivenUp { call: Box::pin(call), left: after }
}

/// Every connection is of use again after its caller has gone at any point of a call, and a close comes to its end.
pub(super) async fn calls_cost_no_connection(storage: Arc<SqlStorage>) {
    let unit = |n: usize| {
        let data = serde_json::json!("x".repeat(n * 100));
        UnitOfWork::new().event("test", None, uuid::Uuid::nil(), data)
    };
    let mut answered = 0;
    for round in 0..40 {
        let mut calls = tokio::task::JoinSet::new();
        for polls in 1..=24 {
            let (storage, unit) = (storage.clone(), unit(polls));
            calls.spawn(async move {
                if polls % 2 == 0 {
                    given_up(storage.apply(Timestamp::MIN, Scope::All, unit), polls / 2).await.is_some()
                } else {
                    given_up(storage.events(Scope::All, 0, 100), polls.div_ceil(2)).await.is_some()
                }
            });
        }
        while let Some(call) = calls.join_next().await {
            answered += usize::from(call.unwrap());
        }
        let every = (0..64).map(|_| storage.events(Scope::All, 0, 1));
        let all = tokio::time::timeout(Duration::from_secs(60), futures_util::future::try_join_all(every));
        assert!(all.await.is_ok_and(|all| all.is_ok()), "a connection was lost by round {round}");
    }
    assert!((1..960).contains(&answered), "calls were given up in the middle: {answered} of 960 answered");
    let closed = tokio::time::timeout(Duration::from_secs(60), storage.close());
    assert!(closed.await.is_ok(), "the close did not end");
}
