//! What Prometheus reads. `docs/operating.md` lists the names.

use portolan_http::HttpMetrics;
use portolan_model::TaskState;
use portolan_model::describe::Describe;
use portolan_tasks::{EngineStats, KindStats, SECONDS_BUCKETS, TaskStats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters and gauges of one process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<ListenerLabel, Histogram, fn() -> Histogram>,
    tasks: Family<StateLabel, Gauge>,
    oldest_ready: Gauge<f64, AtomicU64>,
    ready: Gauge,
    used: Family<DestinationLabel, Gauge>,
    free: Family<DestinationLabel, Gauge>,
    logical: Family<DestinationLabel, Gauge>,
    open: Family<DestinationLabel, Gauge>,
    last_sync: Family<PlatformLabel, Gauge<f64, AtomicU64>>,
    platform_ok: Family<PlatformLabel, Gauge>,
    resident: Gauge,
    descriptors: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    listener: String,
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DestinationLabel {
    destination: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlatformLabel {
    platform: String,
}

/// Upper bounds of request durations, in seconds.
const REQUEST_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

fn request_histogram() -> Histogram {
    Histogram::new(REQUEST_BUCKETS)
}

/// How a destination stands.
#[derive(Debug, Clone)]
pub struct DestinationFigures {
    /// Its name.
    pub name: String,
    /// Whether this process has it open.
    pub open: bool,
    /// Bytes that the store holds.
    pub used: u64,
    /// Bytes that its file system has left.
    pub free: u64,
    /// Bytes that its backups stand for.
    pub logical: u64,
}

/// How a platform stands.
#[derive(Debug, Clone)]
pub struct PlatformFigures {
    /// Its name.
    pub name: String,
    /// When it was last listed, in seconds since the epoch.
    pub last_sync: Option<f64>,
    /// Whether the last listing went well.
    pub ok: bool,
}

impl Metrics {
    /// All metrics, with those of an engine.
    pub fn new(engine: Arc<EngineStats>) -> Self {
        let mut registry = Registry::with_prefix("portolan");
        let mut m = Self {
            registry: Arc::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(request_histogram),
            tasks: Family::default(),
            oldest_ready: Gauge::default(),
            ready: Gauge::default(),
            used: Family::default(),
            free: Family::default(),
            logical: Family::default(),
            open: Family::default(),
            last_sync: Family::default(),
            platform_ok: Family::default(),
            resident: Gauge::default(),
            descriptors: Gauge::default(),
        };
        let bytes = || Unit::Bytes;
        registry.register("build", "The running version", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("http_requests", "Answered requests", m.requests.clone());
        registry.register("http_request_seconds", "Time to the head of the answer", m.durations.clone());
        registry.register("ready", "1 when /readyz says so", m.ready.clone());
        registry.register("tasks", "Tasks that have not ended, by state", m.tasks.clone());
        registry.register("tasks_oldest_ready_seconds", "Waiting time of the oldest due task", m.oldest_ready.clone());
        registry.register_with_unit("destination_used", "Bytes that the store holds", bytes(), m.used.clone());
        registry.register_with_unit("destination_free", "Bytes left on its file system", bytes(), m.free.clone());
        registry.register_with_unit(
            "destination_logical",
            "Bytes that its backups stand for",
            bytes(),
            m.logical.clone(),
        );
        registry.register("destination_open", "1 when this process has it open", m.open.clone());
        registry.register(
            "platform_last_sync_timestamp_seconds",
            "When the platform was last listed",
            m.last_sync.clone(),
        );
        registry.register("platform_ok", "1 when the last listing went well", m.platform_ok.clone());
        registry.register_with_unit("process_resident", "Memory in use", bytes(), m.resident.clone());
        registry.register("process_open_fds", "Open file descriptors", m.descriptors.clone());
        registry.register_collector(Box::new(EngineMetrics(engine)));
        m.registry = Arc::new(registry);
        m
    }

    /// Notes what the store counts.
    pub fn note_tasks(&self, stats: &TaskStats) {
        let ended = [TaskState::Succeeded, TaskState::Failed, TaskState::Cancelled, TaskState::Expired];
        for (state, name, _) in TaskState::TABLE.iter().filter(|row| !ended.contains(&row.0)) {
            let count = stats.live.iter().find(|(s, _)| s == state.name()).map_or(0, |(_, n)| *n);
            self.tasks.get_or_create(&StateLabel { state: (*name).to_owned() }).set(signed(count));
        }
        self.oldest_ready.set(stats.oldest_ready.unwrap_or_default().as_secs_f64());
    }

    /// Notes how destinations and platforms stand; those that are not named any more disappear.
    pub fn note_objects(&self, destinations: &[DestinationFigures], platforms: &[PlatformFigures]) {
        for family in [&self.used, &self.free, &self.logical, &self.open] {
            family.clear();
        }
        for d in destinations {
            let label = DestinationLabel { destination: d.name.clone() };
            self.used.get_or_create(&label).set(signed(d.used));
            self.free.get_or_create(&label).set(signed(d.free));
            self.logical.get_or_create(&label).set(signed(d.logical));
            self.open.get_or_create(&label).set(i64::from(d.open));
        }
        self.last_sync.clear();
        self.platform_ok.clear();
        for p in platforms {
            let label = PlatformLabel { platform: p.name.clone() };
            if let Some(at) = p.last_sync {
                self.last_sync.get_or_create(&label).set(at);
            }
            self.platform_ok.get_or_create(&label).set(i64::from(p.ok));
        }
    }

    /// Everything in the text form, with readiness and the process's own figures as they are now.
    ///
    /// # Errors
    /// When it cannot be written, which does not happen to a text in memory.
    pub fn text(&self, ready: bool) -> Result<String, std::fmt::Error> {
        self.ready.set(i64::from(ready));
        self.resident.set(signed(resident_bytes().unwrap_or(0)));
        self.descriptors.set(signed(std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64)));
        let mut text = String::with_capacity(16 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl HttpMetrics for Metrics {
    fn request(&self, listener: &str, method: &str, route: &str, status: u16, seconds: f64) {
        let labels = RequestLabels { listener: listener.into(), method: method.into(), route: route.into(), status };
        self.requests.get_or_create(&labels).inc();
        self.durations.get_or_create(&ListenerLabel { listener: listener.into() }).observe(seconds);
    }
}

/// Memory that the process holds, in bytes.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The engine's counters, read when they are asked for.
#[derive(Debug)]
struct EngineMetrics(Arc<EngineStats>);

type Ended = (&'static str, fn(&KindStats) -> &AtomicU64);

const OUTCOMES: [Ended; 6] = [
    ("succeeded", |k| &k.succeeded),
    ("failed", |k| &k.failed),
    ("retried", |k| &k.retried),
    ("cancelled", |k| &k.cancelled),
    ("released", |k| &k.released),
    ("lost", |k| &k.lost),
];

impl Collector for EngineMetrics {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let none = None::<&prometheus_client::metrics::exemplar::Exemplar<NoLabelSet, f64>>;
        let counter = MetricType::Counter;
        let mut started = to.encode_descriptor("task_attempts_started", "Attempts at tasks", None, counter)?;
        for (kind, stats) in self.0.kinds() {
            started.encode_family(&[("kind", kind)])?.encode_counter(&read(&stats.started), none)?;
        }
        let mut finished = to.encode_descriptor("task_attempts_finished", "Attempts that ended", None, counter)?;
        for (kind, stats) in self.0.kinds() {
            for (outcome, get) in OUTCOMES {
                let labels = [("kind", kind), ("outcome", outcome)];
                finished.encode_family(&labels)?.encode_counter(&read(get(stats)), none)?;
            }
        }
        let mut swept = to.encode_descriptor("tasks_swept", "Tasks that time ended or gave back", None, counter)?;
        let sweeps = [
            ("released", &self.0.swept_released),
            ("exhausted", &self.0.swept_exhausted),
            ("expired", &self.0.swept_expired),
            ("overdue", &self.0.swept_overdue),
        ];
        for (why, count) in sweeps {
            swept.encode_family(&[("why", why)])?.encode_counter(&read(count), none)?;
        }
        let mut failures =
            to.encode_descriptor("task_store_failures", "Calls of the task store that failed", None, counter)?;
        failures.encode_counter(&read(&self.0.store_failures), none)?;
        self.histogram(&mut to, "task_wait_seconds", "Time from due to started", |k| &k.wait)?;
        self.histogram(&mut to, "task_run_seconds", "Time of attempts", |k| &k.run)
    }
}

impl EngineMetrics {
    fn histogram(
        &self,
        to: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        get: fn(&KindStats) -> &portolan_tasks::Histogram,
    ) -> Result<(), std::fmt::Error> {
        let mut metric = to.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (kind, stats) in self.0.kinds() {
            let seen = get(stats);
            let bounds = SECONDS_BUCKETS.into_iter().chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(seen.counts()).collect();
            let count = buckets.iter().map(|(_, n)| n).sum();
            metric.encode_family(&[("kind", kind)])?.encode_histogram::<NoLabelSet>(
                seen.sum_seconds(),
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}
