//! What an engine does every now and then: give signs of life, sweep, prune.

use super::stats::add;
use super::{Attempt, Inner, careful, own_until};
use crate::context::{StopReason, lock};
use crate::store::{Beat, BeatReply, BeatRequest, NodeBeat, SweepReport, TaskError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Gives signs of life until told to stop. While they fail, nothing new is claimed.
pub(super) async fn beat(inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        // A call that takes longer than a lease is as good as lost.
        let result = tokio::select! {
            result = tokio::time::timeout(inner.config.own_lease(), beat_once(&inner)) => result,
            () = stop.cancelled() => return,
        };
        let every = inner.config.beat_every();
        let (alive, pause) = match result {
            Ok(Ok(())) => (true, inner.jittered(every)),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a sign of life failed");
                (false, inner.jittered(every / 4))
            }
            Err(_) => {
                tracing::warn!("a sign of life was not answered in time");
                (false, Duration::ZERO)
            }
        };
        add(if alive { &inner.stats.beats } else { &inner.stats.store_failures }, 1);
        inner.alive.store(alive, Ordering::SeqCst);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn beat_once(inner: &Inner) -> Result<(), TaskError> {
    let config = &inner.config;
    let asked = Instant::now();
    let attempts: Vec<Arc<Attempt>> = lock(&inner.attempts).values().cloned().collect();
    if !attempts.is_empty() {
        let beats = attempts.iter().map(|a| Beat { held: a.held, progress: a.take_progress() });
        let request = BeatRequest { lease: config.lease, tasks: beats.collect() };
        let reported: Vec<_> = request.tasks.iter().map(|beat| beat.progress.clone()).collect();
        match careful(inner.store.beat(inner.clock.now(), request)).await {
            Ok(replies) => {
                for (attempt, reply) in attempts.iter().zip(replies) {
                    match reply {
                        BeatReply::Held { cancel } => {
                            attempt.renew(own_until(asked, config));
                            if cancel {
                                attempt.stop(StopReason::Cancel);
                            }
                        }
                        BeatReply::Lost => attempt.stop(StopReason::Lost),
                    }
                }
            }
            Err(error) => {
                for (attempt, progress) in attempts.iter().zip(reported) {
                    attempt.give_back_progress(progress);
                }
                return Err(error);
            }
        }
    }
    let beat = NodeBeat { worker: config.worker.clone(), serves: (config.serves)(), ttl: config.lease };
    careful(inner.store.node_beat(inner.clock.now(), beat)).await
}

const SWEEP_LIMIT: u32 = 200;
const PRUNE_LIMIT: u32 = 1000;

/// Sweeps, and prunes what is kept too long, until told to stop.
pub(super) async fn sweep(inner: Arc<Inner>, stop: CancellationToken) {
    let work = async {
        let mut pruned_at: Option<Instant> = None;
        loop {
            sweep_all(&inner).await;
            if pruned_at.is_none_or(|at| at.elapsed() >= Duration::from_secs(3600)) {
                prune_all(&inner).await;
                pruned_at = Some(Instant::now());
            }
            tokio::time::sleep(inner.jittered(inner.config.sweep_every)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

async fn sweep_all(inner: &Inner) {
    loop {
        match careful(inner.store.sweep(inner.clock.now(), SWEEP_LIMIT)).await {
            Ok(report) => {
                inner.stats.swept(report);
                let SweepReport { released, exhausted, expired, overdue } = report;
                if report != SweepReport::default() {
                    tracing::info!(released, exhausted, expired, overdue, "tasks were swept");
                }
                let most = u64::from(SWEEP_LIMIT);
                if released + exhausted < most && expired < most && overdue < most {
                    return;
                }
            }
            Err(error) => {
                add(&inner.stats.store_failures, 1);
                tracing::warn!(error = &error as &dyn std::error::Error, "a sweep failed");
                return;
            }
        }
    }
}

async fn prune_all(inner: &Inner) {
    let Some(keep) = inner.config.retention else { return };
    loop {
        match careful(inner.store.prune(inner.clock.now() - keep, PRUNE_LIMIT)).await {
            Ok(gone) if gone < u64::from(PRUNE_LIMIT) => return,
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => {
                add(&inner.stats.store_failures, 1);
                tracing::warn!(error = &error as &dyn std::error::Error, "pruning failed");
                return;
            }
        }
    }
}
