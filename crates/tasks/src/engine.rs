//! Runs tasks: claims them, has their handlers work, keeps their leases alive, records their ends.

use crate::context::{StopReason, lock};
use crate::ext::{EndBell, Ran, RunThrough};
use crate::handler::Handler;
use crate::rules::mix;
use crate::store::{TaskError, TaskStore};
use crate::task::NewTask;
use futures_util::FutureExt;
use portolan_model::Clock;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod attempt;
mod beats;
mod claims;
mod drain;
mod ends;
mod stats;

use attempt::Attempt;
pub use drain::DrainSwitch;
use ends::End;
pub use stats::{EngineStats, Histogram, KindStats, SECONDS_BUCKETS};

/// Runs tasks of the kinds that it has handlers for. Any number of engines may share a store.
pub struct Engine {
    inner: Arc<Inner>,
}

/// What an engine is made of.
pub struct EngineBuilder {
    config: Config,
    store: Arc<dyn TaskStore>,
    clock: Arc<dyn Clock>,
    handlers: BTreeMap<&'static str, Arc<dyn Handler>>,
    bell: Arc<EndBell>,
}

#[derive(Clone)]
struct Config {
    worker: String,
    serves: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    concurrency: usize,
    per_kind: HashMap<String, usize>,
    lease: Duration,
    beat_every: Option<Duration>,
    poll: Duration,
    sweep_every: Duration,
    grace: Duration,
    retention: Option<Duration>,
    backoff: (Duration, Duration),
}

impl Config {
    fn beat_every(&self) -> Duration {
        self.beat_every.unwrap_or(self.lease / 3)
    }

    /// The hold counts as over a little before it is, since no two clocks run alike.
    fn own_lease(&self) -> Duration {
        self.lease - self.lease / 10
    }
}

struct Inner {
    config: Config,
    store: Arc<dyn TaskStore>,
    clock: Arc<dyn Clock>,
    handlers: BTreeMap<&'static str, Arc<dyn Handler>>,
    bell: Arc<EndBell>,
    stats: Arc<EngineStats>,
    drain: Arc<DrainSwitch>,
    jitter: AtomicU64,
    attempts: Mutex<HashMap<(portolan_model::TaskId, i64), Arc<Attempt>>>,
    /// Rung when a slot comes free.
    freed: Notify,
    /// Whether the last sign of life reached the store.
    alive: AtomicBool,
}

impl Engine {
    /// Begins to make an engine: `store` has the tasks, `clock` tells the time.
    pub fn builder(store: Arc<dyn TaskStore>, clock: Arc<dyn Clock>) -> EngineBuilder {
        EngineBuilder {
            config: Config {
                worker: "worker".into(),
                serves: Arc::new(Vec::new),
                concurrency: 8,
                per_kind: HashMap::new(),
                lease: Duration::from_secs(30),
                beat_every: None,
                poll: Duration::from_secs(1),
                sweep_every: Duration::from_secs(5),
                grace: Duration::from_secs(20),
                retention: None,
                backoff: (Duration::from_secs(1), Duration::from_secs(300)),
            },
            store,
            clock,
            handlers: BTreeMap::new(),
            bell: Arc::default(),
        }
    }

    /// What the engine has done so far.
    pub fn stats(&self) -> Arc<EngineStats> {
        self.inner.stats.clone()
    }

    /// What makes the engine drain, and tells whether it still runs anything.
    pub fn drain_switch(&self) -> Arc<DrainSwitch> {
        self.inner.drain.clone()
    }

    /// Enqueues a task and waits for its end, for `within` at the most; see [`RunThrough::run`].
    pub async fn run_through(&self, task: NewTask, within: Duration) -> Result<Ran, TaskError> {
        let inner = &self.inner;
        RunThrough::new(inner.store.clone(), inner.clock.clone()).hearing(inner.bell.clone()).run(task, within).await
    }

    /// Runs tasks until `shutdown` fires, and returns once nothing of it runs any more: handlers are told to stop,
    /// those that do not within the grace are dropped, and what did not end is given back.
    ///
    /// Neither a failing store nor a panic in a handler ends it. Dropping the future stops everything on the spot,
    /// as a crash would.
    pub async fn run(&self, shutdown: CancellationToken) {
        let inner = &self.inner;
        let background_stop = CancellationToken::new();
        let (ends, receiver) = mpsc::channel(1024);
        let mut background = JoinSet::new();
        let mut attempts = JoinSet::new();
        background.spawn(ends::commit_ends(inner.clone(), receiver));
        background.spawn(beats::beat(inner.clone(), background_stop.clone()));
        background.spawn(beats::sweep(inner.clone(), background_stop.clone()));
        let run = Run { inner: inner.clone(), ends, shutdown: shutdown.clone(), abandon: CancellationToken::new() };
        tracing::info!(worker = inner.config.worker, kinds = ?inner.handlers.keys(), "tasks are run");
        // A claim that hangs may keep the loop for the length of the grace.
        tokio::select! {
            () = claims::claim_tasks(&run, &mut attempts) => {}
            () = async { shutdown.cancelled().await; tokio::time::sleep(inner.config.grace).await } => {}
        }
        self.stop_attempts(&run, attempts).await;
        background_stop.cancel();
        drop(run);
        // Both loops look at the token; a store that hangs does not keep them.
        let _ = tokio::time::timeout(Duration::from_secs(1), drain(&mut background)).await;
        tracing::info!(worker = inner.config.worker, "tasks are no longer run");
    }

    async fn stop_attempts(&self, run: &Run, mut attempts: JoinSet<()>) {
        for attempt in lock(&self.inner.attempts).values() {
            attempt.stop(StopReason::Shutdown);
        }
        let grace = self.inner.config.grace;
        if tokio::time::timeout(grace, drain(&mut attempts)).await.is_err() {
            tracing::warn!(left = attempts.len(), "handlers did not stop in time and are dropped");
            run.abandon.cancel();
            // Time to give the tasks back.
            let _ = tokio::time::timeout(grace.max(Duration::from_secs(1)), drain(&mut attempts)).await;
        }
        attempts.shutdown().await;
        lock(&self.inner.attempts).clear();
    }
}

async fn drain(attempts: &mut JoinSet<()>) {
    while attempts.join_next().await.is_some() {}
}

/// One call of [`Engine::run`].
#[derive(Clone)]
struct Run {
    inner: Arc<Inner>,
    ends: mpsc::Sender<End>,
    shutdown: CancellationToken,
    /// Fires when handlers have had their grace.
    abandon: CancellationToken,
}

impl Inner {
    /// `base`, longer or shorter by up to an eighth, so that engines do not march in step.
    fn jittered(&self, base: Duration) -> Duration {
        let draw = mix(self.jitter.fetch_add(1, Ordering::Relaxed)) % 256;
        base - base / 8 + base * u32::try_from(draw).unwrap_or(0) / 1024
    }

    /// The pause before attempt `attempt + 1`: doubles each time, up to a bound.
    fn backoff(&self, attempt: i32) -> Duration {
        let (first, most) = self.config.backoff;
        let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(0).min(20);
        self.jittered(first.saturating_mul(1 << doublings).min(most))
    }

    fn running(&self) -> usize {
        lock(&self.attempts).len()
    }
}

/// Awaits a call of the store; a panic in it is a failure of the store.
async fn careful<T>(call: impl Future<Output = Result<T, TaskError>>) -> Result<T, TaskError> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| Err(TaskError::Store("the store panicked".into())))
}

/// The instant until which a hold that was asked for at `asked` may be relied on.
fn own_until(asked: Instant, config: &Config) -> Instant {
    asked + config.own_lease()
}

impl EngineBuilder {
    /// The name of this worker, unique among those that share the store. `worker` if nothing is said.
    #[must_use]
    pub fn worker(mut self, name: impl Into<String>) -> Self {
        self.config.worker = name.into();
        self
    }

    /// The tags that this node serves. None if nothing is said.
    #[must_use]
    pub fn serves<T: Into<String>>(self, tags: impl IntoIterator<Item = T>) -> Self {
        let tags: Vec<String> = tags.into_iter().map(Into::into).collect();
        self.serves_live(Arc::new(move || tags.clone()))
    }

    /// The tags that this node serves, asked for anew at every claim and sign of life; must not block.
    #[must_use]
    pub fn serves_live(mut self, tags: Arc<dyn Fn() -> Vec<String> + Send + Sync>) -> Self {
        self.config.serves = tags;
        self
    }

    /// Adds a handler; a later one for the same kind replaces it.
    #[must_use]
    pub fn handler(mut self, handler: Arc<dyn Handler>) -> Self {
        self.handlers.insert(handler.kind(), handler);
        self
    }

    /// How many tasks run at once at the most; 8 if nothing is said, at least 1.
    #[must_use]
    pub fn concurrency(mut self, total: usize) -> Self {
        self.config.concurrency = total.max(1);
        self
    }

    /// How many tasks of one kind run at once in this process; as many as there are slots if nothing is said.
    #[must_use]
    pub fn kind_concurrency(mut self, kind: impl Into<String>, most: usize) -> Self {
        self.config.per_kind.insert(kind.into(), most);
        self
    }

    /// How long a hold lasts without a sign of life; 30 seconds if nothing is said. Handlers are told to stop when
    /// nine tenths of it have passed without one.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// How often a sign of life is given; a third of the lease if nothing is said. A wish to cancel is heard as often.
    #[must_use]
    pub fn beat_every(mut self, every: Duration) -> Self {
        self.config.beat_every = Some(every.max(Duration::from_millis(1)));
        self
    }

    /// How often to look for work that no wakeup told of: what has become due, what other processes left. A second
    /// if nothing is said.
    #[must_use]
    pub fn poll(mut self, every: Duration) -> Self {
        self.config.poll = every.max(Duration::from_millis(1));
        self
    }

    /// How often to do what time demands: lost workers, windows, deadlines. Five seconds if nothing is said.
    #[must_use]
    pub fn sweep_every(mut self, every: Duration) -> Self {
        self.config.sweep_every = every.max(Duration::from_millis(1));
        self
    }

    /// How long handlers may take to stop; 20 seconds if nothing is said.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = grace;
        self
    }

    /// How long ended tasks are kept; for ever if nothing is said.
    #[must_use]
    pub fn retention(mut self, keep: Duration) -> Self {
        self.config.retention = Some(keep);
        self
    }

    /// The pause after a first transient failure, doubled after each further one up to `most`. One second and five
    /// minutes if nothing is said.
    #[must_use]
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        self.config.backoff = (first, most);
        self
    }

    /// A bell that others in this process listen to, to hear of ends at once.
    #[must_use]
    pub fn bell(mut self, bell: Arc<EndBell>) -> Self {
        self.bell = bell;
        self
    }

    /// The engine. Nothing runs before [`Engine::run`].
    pub fn build(self) -> Engine {
        let seed = self.config.worker.bytes().fold(0, |seed, byte| mix(seed ^ u64::from(byte)));
        Engine {
            inner: Arc::new(Inner {
                stats: Arc::new(EngineStats::of(self.handlers.keys().copied())),
                config: self.config,
                store: self.store,
                clock: self.clock,
                handlers: self.handlers,
                bell: self.bell,
                drain: Arc::default(),
                jitter: AtomicU64::new(seed),
                attempts: Mutex::default(),
                freed: Notify::new(),
                alive: AtomicBool::new(true),
            }),
        }
    }
}
