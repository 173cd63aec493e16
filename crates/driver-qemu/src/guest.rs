//! A guest that this process owns: its document, its process, and what is under way with it.
//!
//! Everything that takes time runs in tasks of the host, so that a caller who gives up leaves nothing half done. One
//! of them watches the process and tells all others through [`Guest::observe`].

mod launch;
mod rest;
mod stop;
mod watch;

pub(crate) use rest::Disturbed;

use crate::accel::AccelChoice;
use crate::command::device_path;
use crate::layout::{self, Layout};
use crate::process::Process;
use crate::programs::Programs;
use crate::qga::{Qga, QgaError};
use crate::qmp::{BlockCounters, BlockStats, Qmp, QmpError};
use crate::spec::{GuestSpec, NicMode, Phase};
use crate::wire::socket_in;
use crate::{QemuError, QemuSettings};
use portolan_driver::DriverError;
use portolan_model::{Clock, IdSource};
use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch as watching;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a monitor may take to answer.
const QMP_LIMIT: Duration = Duration::from_secs(10);
/// How long an agent may take to show that it is there.
const AGENT_LIMIT: Duration = Duration::from_secs(2);
/// For how long addresses are believed.
const ADDRESSES_LIFE: Duration = Duration::from_secs(30);

/// What all guests of a host share.
pub(crate) struct Shared {
    pub(crate) settings: QemuSettings,
    pub(crate) programs: Programs,
    pub(crate) layout: Layout,
    pub(crate) accel: AccelChoice,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
}

impl Shared {
    /// Runs `work` until it is done or the host is closed.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Runs `work` to its end also when the caller gives up or the host is closed, which waits for it: for what must
    /// not be left in the middle.
    pub(crate) async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, DriverError>> + Send + 'static,
    ) -> Result<T, DriverError> {
        match self.tasks.spawn(work).await {
            Ok(done) => done,
            Err(_) => Err(DriverError::Malformed("the driver failed midway".into())),
        }
    }

    /// Runs `work` to its end also when the caller gives up.
    pub(crate) async fn detached<T: Send + 'static, E: From<QemuError> + Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        let (done, answer) = tokio::sync::oneshot::channel();
        self.spawn(async move {
            let _ = done.send(work.await);
        });
        answer.await.map_err(|_| E::from(QemuError::Conflict("the driver is being closed".into())))?
    }
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QemuError> + Send + 'static,
) -> Result<T, QemuError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(QemuError::Conflict("work on files failed midway".into())),
    }
}

/// Where a guest is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestState {
    /// Its disks are being made, and it is started then.
    Pending,
    /// Its disks could not be made.
    Failed,
    /// QEMU is being started.
    Starting,
    /// It runs.
    Running,
    /// QEMU holds its processors.
    Paused,
    /// It is being rebooted.
    Rebooting,
    /// It is being shut down.
    Stopping,
    /// It does not run.
    Stopped,
}

/// What is seen of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Where it is.
    pub state: GuestState,
    /// Why, where that is not plain: how it came to stop, or why it did not start.
    pub reason: Option<String>,
}

/// A guest that this process owns.
pub struct Guest {
    pub(crate) shared: Arc<Shared>,
    id: String,
    dir: PathBuf,
    /// The directory, open: sockets are reached through it.
    place: File,
    /// Its lock, held for as long as this is here, or something is being written for it.
    lock: Arc<File>,
    spec: Mutex<GuestSpec>,
    state: watching::Sender<Observed>,
    running: Mutex<Option<Running>>,
    addresses: Mutex<Addresses>,
    /// Held while the guest is started, shut down, rebooted or destroyed.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Held while the document is written.
    writing: tokio::sync::Mutex<()>,
    /// Held by work on its files, which goes on when what began it is dropped.
    files: Arc<tokio::sync::Mutex<()>>,
    /// Held while somebody talks with the agent.
    agent: tokio::sync::Mutex<()>,
    /// What is under way is to end: the guest is being destroyed. See [`Guest::ending`].
    ending: Mutex<CancellationToken>,
    /// Held while an export is opened or let go of.
    pub(crate) exports: tokio::sync::Mutex<()>,
    /// The export that somebody in this process holds.
    pub(crate) exporting: Mutex<crate::export::Exporting>,
    /// Its data in a backup that is being served to it. Held while that is begun.
    pub(crate) serving: tokio::sync::Mutex<Weak<crate::instant::Serving>>,
}

/// QEMU, while it runs.
#[derive(Clone)]
struct Running {
    process: Process,
    qmp: Option<Qmp>,
}

#[derive(Default)]
struct Addresses {
    known: Vec<String>,
    asked: Option<Instant>,
}

/// A session with the guest's agent. Nobody else has one while this is here.
pub struct AgentSession<'a> {
    session: Qga,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl std::ops::Deref for AgentSession<'_> {
    type Target = Qga;

    fn deref(&self) -> &Qga {
        &self.session
    }
}

impl std::ops::DerefMut for AgentSession<'_> {
    fn deref_mut(&mut self) -> &mut Qga {
        &mut self.session
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("id", &self.id).field("seen", &*self.state.borrow()).finish_non_exhaustive()
    }
}

pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guest {
    /// A guest whose lock is held.
    pub(crate) fn new(
        shared: Arc<Shared>,
        spec: GuestSpec,
        lock: File,
        seen: Observed,
    ) -> Result<Arc<Self>, QemuError> {
        let dir = shared.layout.guest(&spec.id);
        let place = File::open(&dir).map_err(QemuError::file("open", &dir))?;
        Ok(Arc::new(Self {
            shared,
            id: spec.id.clone(),
            dir,
            place,
            lock: Arc::new(lock),
            spec: Mutex::new(spec),
            state: watching::channel(seen).0,
            running: Mutex::default(),
            addresses: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            files: Arc::default(),
            agent: tokio::sync::Mutex::default(),
            ending: Mutex::default(),
            exports: tokio::sync::Mutex::default(),
            exporting: Mutex::default(),
            serving: tokio::sync::Mutex::default(),
        }))
    }

    /// The native id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its document as of now.
    pub fn spec(&self) -> GuestSpec {
        held(&self.spec).clone()
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that its serial line is written to. It is begun anew with every start; the former one has `.1` after
    /// its name. While the guest runs it is cut when it is longer than 8 MiB.
    pub fn console(&self) -> PathBuf {
        self.dir.join(layout::CONSOLE)
    }

    /// What is seen of it, now and later.
    pub fn observe(&self) -> watching::Receiver<Observed> {
        self.state.subscribe()
    }

    /// What is seen of it now.
    pub fn observed(&self) -> Observed {
        self.state.borrow().clone()
    }

    /// The number of QEMU's process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        held(&self.running).as_ref().map(|running| running.process.pid)
    }

    /// The driver's connection to the monitor, while the guest runs.
    pub fn qmp(&self) -> Result<Qmp, QemuError> {
        let running = held(&self.running).clone();
        let running = running.ok_or_else(|| QemuError::Conflict(format!("the guest '{}' does not run", self.id)))?;
        let lost =
            || QemuError::Qmp(QmpError::Connect(format!("the guest '{}' runs, and its monitor is lost", self.id)));
        running.qmp.filter(Qmp::is_alive).ok_or_else(lost)
    }

    /// A connection to the second monitor, which the driver itself does not use: for long work such as backups. It
    /// serves one client at a time.
    pub async fn backup_monitor(&self) -> Result<Qmp, QmpError> {
        Qmp::connect(&self.socket(layout::QMP2), QMP_LIMIT).await
    }

    /// The disks' ids and the names of their nodes in QEMU, in the guest's order.
    pub fn node_names(&self) -> Vec<(String, String)> {
        held(&self.spec).disks.iter().map(|disk| (disk.id.clone(), disk.node())).collect()
    }

    /// The disks' files, in the guest's order.
    pub fn disk_files(&self) -> Vec<(String, PathBuf)> {
        let spec = held(&self.spec);
        let file = |disk: &crate::DiskSpec| self.shared.layout.file(&self.id, &disk.placed());
        spec.disks.iter().map(|disk| (disk.id.clone(), file(disk))).collect()
    }

    /// Opens a session with the agent, within `limit`, which also bounds each of its commands.
    pub async fn agent(&self, limit: Duration) -> Result<AgentSession<'_>, QgaError> {
        let until = Instant::now() + limit;
        let turn = timeout(limit, self.agent.lock()).await.map_err(|_| QgaError::AgentSilent)?;
        let mut nonce = [0; 8];
        self.shared.ids.fill(&mut nonce);
        let left = until.saturating_duration_since(Instant::now());
        let socket = self.socket(layout::QGA);
        let session = Qga::connect(&socket, u64::from_le_bytes(nonce), left.max(Duration::from_millis(1))).await?;
        Ok(AgentSession { session, _turn: turn })
    }

    /// Counters of the disks, by their ids.
    pub async fn block_counters(&self) -> Result<Vec<(String, BlockCounters)>, QemuError> {
        let spec = self.spec();
        let stats = self.qmp()?.query_blockstats().await?;
        // By the device, as far as it is told: during an export another node is on top.
        let disk_of = |one: &BlockStats| {
            let of = |disk: &&crate::DiskSpec| {
                one.node == disk.node() || one.qdev.starts_with(&format!("{}/", device_path(disk)))
            };
            spec.disks.iter().find(of).map(|disk| disk.id.clone())
        };
        Ok(stats.into_iter().filter_map(|one| Some((disk_of(&one)?, one.stats))).collect())
    }

    /// Its addresses as the agent told them lately. Asks anew, for a later call, when that is a while ago.
    pub fn addresses(self: &Arc<Self>) -> Vec<String> {
        if self.state.borrow().state != GuestState::Running
            || held(&self.spec).nics.iter().all(|n| n.mode == NicMode::None)
        {
            return Vec::new();
        }
        let mut addresses = held(&self.addresses);
        if addresses.asked.is_none_or(|asked| asked.elapsed() > ADDRESSES_LIFE) {
            addresses.asked = Some(Instant::now());
            let guest = self.clone();
            self.shared.spawn(async move { guest.ask_addresses().await });
        }
        addresses.known.clone()
    }

    async fn ask_addresses(&self) {
        let Ok(mut agent) = self.agent(AGENT_LIMIT).await else { return };
        let Ok(interfaces) = agent.network_interfaces().await else { return };
        let found = interfaces.into_iter().flat_map(|one| one.addresses).map(|one| one.address);
        // A guest says what it likes: only what is an address counts, and not too many.
        let outward = found.filter(|text| {
            text.parse().is_ok_and(|address| match address {
                std::net::IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
                std::net::IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
            })
        });
        held(&self.addresses).known = outward.take(16).collect();
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        socket_in(self.place.as_fd(), name)
    }

    pub(crate) fn set(&self, state: GuestState, reason: Option<String>) {
        self.state.send_replace(Observed { state, reason });
    }

    /// Is cancelled when the guest is being destroyed: whatever is under way with it ends then.
    pub(crate) fn ending(&self) -> CancellationToken {
        held(&self.ending).clone()
    }

    /// What is seen of a guest that nobody watches yet.
    pub(crate) fn is(&self, state: GuestState, reason: Option<String>) {
        self.set(state, reason);
    }

    /// Goes from one of these states to another, at once, or is a conflict.
    pub(crate) fn shift(&self, from: &[GuestState], to: GuestState) -> Result<Observed, QemuError> {
        self.shift_because(from, to, None)
    }

    /// The same with a reason.
    pub(crate) fn shift_because(
        &self,
        from: &[GuestState],
        to: GuestState,
        reason: Option<&str>,
    ) -> Result<Observed, QemuError> {
        let mut before = None;
        let moved = self.state.send_if_modified(|seen| {
            before = Some(seen.clone());
            let may = from.contains(&seen.state);
            if may {
                *seen = Observed { state: to, reason: reason.map(str::to_owned) };
            }
            may
        });
        let before = before.unwrap_or(Observed { state: to, reason: None });
        if moved {
            return Ok(before);
        }
        Err(QemuError::Conflict(format!("the guest '{}' is {}", self.id, word(before.state))))
    }

    /// Runs work on the guest's files where it may block, one after the other, under the guest's lock. It is done to
    /// its end also when the caller is dropped: whoever comes next waits for that.
    pub(crate) async fn files<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, QemuError> + Send + 'static,
    ) -> Result<T, QemuError> {
        let turn = self.files.clone().lock_owned().await;
        let lock = self.lock.clone();
        blocking(move || {
            let _held = (turn, lock);
            work()
        })
        .await
    }

    /// Runs work where it may block, under the guest's lock, while others may work on its files: for what takes long.
    /// Whoever ends it early waits for its end.
    pub(crate) async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, QemuError> + Send + 'static,
    ) -> Result<T, QemuError> {
        let lock = self.lock.clone();
        blocking(move || {
            let _held = lock;
            work()
        })
        .await
    }

    /// Changes the document, durably.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut GuestSpec)) -> Result<(), QemuError> {
        let _writing = self.writing.lock().await;
        let mut next = self.spec();
        if next.phase == Phase::Deleting {
            return Err(QemuError::NotFound { what: "guest", id: self.id.clone() });
        }
        change(&mut next);
        let (layout, written) = (self.shared.layout.clone(), next.clone());
        self.files(move || layout.write_spec(&written)).await?;
        *held(&self.spec) = next;
        Ok(())
    }
}

/// A state in words.
fn word(state: GuestState) -> &'static str {
    match state {
        GuestState::Pending => "being made",
        GuestState::Failed => "not made yet",
        GuestState::Starting => "starting",
        GuestState::Running => "running",
        GuestState::Paused => "paused",
        GuestState::Rebooting => "rebooting",
        GuestState::Stopping => "stopping",
        GuestState::Stopped => "stopped",
    }
}
