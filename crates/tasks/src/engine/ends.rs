//! Records the ends of attempts, many at a time.

use super::stats::add;
use super::{Inner, careful};
use crate::store::TaskError;
use crate::task::Finish;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// The most that one commit takes.
const BATCH: usize = 200;
/// The longest that an end waits for others to join it.
const GATHER: Duration = Duration::from_millis(2);

/// The end of an attempt, and who wants to know that it was recorded.
pub(super) struct End {
    pub(super) finish: Finish,
    pub(super) reply: oneshot::Sender<Result<(), TaskError>>,
}

/// Records ends until nobody can send any more.
pub(super) async fn commit_ends(inner: Arc<Inner>, mut ends: mpsc::Receiver<End>) {
    while let Some(first) = ends.recv().await {
        let mut batch = vec![first];
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH {
            if let Ok(end) = ends.try_recv() {
                batch.push(end);
                continue;
            }
            // When every attempt that runs is here, nobody is left to wait for.
            if batch.len() >= inner.running() {
                break;
            }
            match tokio::time::timeout_at(until, ends.recv()).await {
                Ok(Some(end)) => batch.push(end),
                _ => break,
            }
        }
        commit(&inner, batch).await;
    }
}

/// Asks the store until it answers, or until nobody waits for the answer: a hold that ran out makes an end void.
async fn commit(inner: &Inner, mut batch: Vec<End>) {
    let mut pause = Duration::from_millis(20);
    loop {
        batch.retain(|end| !end.reply.is_closed());
        if batch.is_empty() {
            return;
        }
        let finishes = batch.iter().map(|end| end.finish.clone()).collect();
        match careful(inner.store.finish(inner.clock.now(), finishes)).await {
            Ok(results) => {
                add(&inner.stats.commits, 1);
                for (end, result) in batch.into_iter().zip(results) {
                    inner.bell.ring(end.finish.held.id);
                    let _ = end.reply.send(result);
                }
                return;
            }
            Err(error) => {
                add(&inner.stats.store_failures, 1);
                tracing::warn!(error = &error as &dyn std::error::Error, ends = batch.len(), "ends were not recorded");
                tokio::time::sleep(inner.jittered(pause)).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    }
}
