//! QEMU's machine protocol: commands with ids, their replies, and events.
//!
//! Only what is used is typed; what else a newer QEMU says is passed over. A connection that is lost, or whose peer
//! talks nonsense, ends every call that waits on it with [`QmpError::Lost`].

use crate::wire::{LONGEST_LINE, Refusal, present, read_line};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::timeout;

/// How many events a listener may be behind before it loses some.
const EVENTS: usize = 256;

/// Why a command was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QmpError {
    /// The monitor cannot be reached.
    #[error("the monitor cannot be reached: {0}")]
    Connect(String),
    /// QEMU refused the command.
    #[error("QEMU refused '{command}': {desc} ({class})")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's class of the error, `GenericError`.
        class: String,
        /// QEMU's sentence.
        desc: String,
    },
    /// No reply came in time. The command may be done all the same.
    #[error("QEMU did not answer '{0}' in time")]
    TimedOut(String),
    /// The connection is lost. The command may be done all the same.
    #[error("the connection to QEMU is lost: {0}")]
    Lost(String),
    /// The reply makes no sense.
    #[error("QEMU's answer to '{command}' makes no sense: {reason}")]
    Malformed {
        /// The command.
        command: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Something that QEMU reports of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct QmpEvent {
    /// Its name, `SHUTDOWN`.
    pub name: String,
    /// What is said with it.
    pub data: Value,
}

/// QEMU's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QemuVersion {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub micro: u32,
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// What `query-status` answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RunStatus {
    /// Whether the processors run.
    pub running: bool,
    /// The word, `running`, `paused`, `internal-error`.
    pub status: String,
}

/// A device of `query-blockstats`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BlockStats {
    /// The name of its node.
    #[serde(rename = "node-name", default)]
    pub node: String,
    /// Where QEMU has the device.
    #[serde(default)]
    pub qdev: String,
    /// Its counters.
    #[serde(default)]
    pub stats: BlockCounters,
}

/// Counters of a disk since the guest was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BlockCounters {
    /// Bytes read.
    pub rd_bytes: u64,
    /// Bytes written.
    pub wr_bytes: u64,
    /// Reads.
    pub rd_operations: u64,
    /// Writes.
    pub wr_operations: u64,
    /// Flushes.
    pub flush_operations: u64,
}

/// A connection to a monitor; clones share it. It is closed when the last one is dropped.
#[derive(Clone)]
pub struct Qmp {
    inner: Arc<Inner>,
}

struct Inner {
    version: QemuVersion,
    calls: Arc<Calls>,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    next: AtomicU64,
    limit: Duration,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Who waits, and for what.
struct Calls {
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    events: broadcast::Sender<QmpEvent>,
    /// Why the connection ended; nothing while it lives.
    end: watch::Sender<Option<String>>,
}

type Reply = Result<Value, (String, String)>;

#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "QMP")]
    qmp: GreetingBody,
}

#[derive(Deserialize)]
struct GreetingBody {
    version: GreetingVersion,
}

#[derive(Deserialize)]
struct GreetingVersion {
    qemu: GreetingNumbers,
}

#[derive(Deserialize)]
struct GreetingNumbers {
    major: u32,
    minor: u32,
    micro: u32,
}

#[derive(Deserialize)]
struct Line {
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(rename = "return", default, deserialize_with = "present")]
    done: Option<Value>,
    error: Option<Refusal>,
    id: Option<u64>,
}

impl Qmp {
    /// Connects to the monitor at `path`, within `limit`, which also bounds each command. A monitor serves one client
    /// at a time: while it has another one, no greeting comes, and this ends with [`QmpError::TimedOut`].
    pub async fn connect(path: &Path, limit: Duration) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(path).await.map_err(|e| QmpError::Connect(e.to_string()))?;
        timeout(limit, Self::begin(stream, limit)).await.map_err(|_| QmpError::TimedOut("greeting".into()))?
    }

    async fn begin(stream: UnixStream, limit: Duration) -> Result<Self, QmpError> {
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        let lost = |e: std::io::Error| QmpError::Lost(e.to_string());
        read_line(&mut reader, &mut line, LONGEST_LINE)
            .await
            .map_err(lost)?
            .ok_or_else(|| QmpError::Lost("it was closed before the greeting".into()))?;
        let greeting: Greeting = serde_json::from_slice(&line)
            .map_err(|e| QmpError::Malformed { command: "greeting".into(), reason: e.to_string() })?;
        let GreetingNumbers { major, minor, micro } = greeting.qmp.version.qemu;
        let calls = Arc::new(Calls {
            waiting: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
            end: watch::channel(None).0,
        });
        let reader = tokio::spawn(listen(reader, calls.clone()));
        let version = QemuVersion { major, minor, micro };
        let writer = tokio::sync::Mutex::new(writer);
        let qmp = Self { inner: Arc::new(Inner { version, calls, writer, next: AtomicU64::new(1), limit, reader }) };
        qmp.execute("qmp_capabilities", None).await?;
        Ok(qmp)
    }

    /// QEMU's version.
    pub fn version(&self) -> QemuVersion {
        self.inner.version
    }

    /// Events from now on. A listener that is too far behind loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<QmpEvent> {
        self.inner.calls.events.subscribe()
    }

    /// Ends with the reason when the connection ends.
    pub async fn ended(&self) -> String {
        let mut end = self.inner.calls.end.subscribe();
        match end.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "it was closed".to_owned(),
        }
    }

    /// Whether the connection still lives.
    pub fn is_alive(&self) -> bool {
        self.inner.calls.end.borrow().is_none()
    }

    /// Runs a command and gives its answer, within the connection's limit.
    pub async fn execute(&self, command: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, self.inner.limit).await
    }

    /// The same within `limit`.
    pub async fn execute_within(
        &self,
        command: &str,
        arguments: Option<Value>,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let mut request = json!({ "execute": command, "id": id });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        let mut bytes = request.to_string().into_bytes();
        bytes.push(b'\n');
        let (done, answer) = oneshot::channel();
        let calls = &self.inner.calls;
        calls.waiting().insert(id, done);
        // A caller who gives up is no longer waited for.
        let _forget = Forget { calls, id };
        let call = async {
            self.send(bytes).await?;
            answer.await.map_err(|_| self.lost())
        };
        match timeout(limit, call).await {
            Err(_) => Err(QmpError::TimedOut(command.to_owned())),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err((class, desc)))) => Err(QmpError::Refused { command: command.to_owned(), class, desc }),
        }
    }

    /// Writes a whole request, also when its caller gives up midway: half a request would spoil the next one.
    async fn send(&self, bytes: Vec<u8>) -> Result<(), QmpError> {
        if !self.is_alive() {
            return Err(self.lost());
        }
        let inner = self.inner.clone();
        let write = tokio::spawn(async move { inner.writer.lock().await.write_all(&bytes).await });
        match write.await {
            Ok(Ok(())) if self.is_alive() => Ok(()),
            Ok(Err(e)) if self.is_alive() => Err(QmpError::Lost(e.to_string())),
            _ => Err(self.lost()),
        }
    }

    fn lost(&self) -> QmpError {
        QmpError::Lost(self.inner.calls.end.borrow().clone().unwrap_or_else(|| "it was closed".to_owned()))
    }

    async fn typed<T: DeserializeOwned>(&self, command: &str) -> Result<T, QmpError> {
        let value = self.execute(command, None).await?;
        T::deserialize(value).map_err(|e| QmpError::Malformed { command: command.to_owned(), reason: e.to_string() })
    }

    /// Whether the guest runs.
    pub async fn query_status(&self) -> Result<RunStatus, QmpError> {
        self.typed("query-status").await
    }

    /// Counters of every disk.
    pub async fn query_blockstats(&self) -> Result<Vec<BlockStats>, QmpError> {
        self.typed("query-blockstats").await
    }

    /// Presses the power button.
    pub async fn system_powerdown(&self) -> Result<(), QmpError> {
        self.execute("system_powerdown", None).await.map(drop)
    }

    /// Presses the reset button.
    pub async fn system_reset(&self) -> Result<(), QmpError> {
        self.execute("system_reset", None).await.map(drop)
    }

    /// Ends QEMU; its disks are flushed and their bitmaps kept.
    pub async fn quit(&self) -> Result<(), QmpError> {
        self.execute("quit", None).await.map(drop)
    }

    /// Holds the guest's processors.
    pub async fn stop(&self) -> Result<(), QmpError> {
        self.execute("stop", None).await.map(drop)
    }

    /// Lets the guest's processors go on.
    pub async fn cont(&self) -> Result<(), QmpError> {
        self.execute("cont", None).await.map(drop)
    }
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qmp").field("version", &self.inner.version).finish_non_exhaustive()
    }
}

impl Calls {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Reply>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, reason: String) {
        self.end.send_replace(Some(reason));
        self.waiting().clear();
    }
}

struct Forget<'a> {
    calls: &'a Calls,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.calls.waiting().remove(&self.id);
    }
}

async fn listen(mut reader: BufReader<OwnedReadHalf>, calls: Arc<Calls>) {
    let mut line = Vec::new();
    let reason = loop {
        match read_line(&mut reader, &mut line, LONGEST_LINE).await {
            Ok(Some(())) => {}
            Ok(None) => break "QEMU closed it".to_owned(),
            Err(e) => break e.to_string(),
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let said: Line = match serde_json::from_slice(&line) {
            Ok(said) => said,
            Err(e) => break format!("QEMU talks nonsense: {e}"),
        };
        if let Some(name) = said.event {
            // Nobody need listen.
            let _ = calls.events.send(QmpEvent { name, data: said.data });
            continue;
        }
        let reply = match (said.done, said.error) {
            (Some(value), None) => Ok(value),
            (_, Some(refusal)) => Err((refusal.class, refusal.desc)),
            // A line of a kind that nobody has heard of.
            (None, None) => continue,
        };
        // A reply without an id answers a request that QEMU could not read; we send none.
        if let Some(caller) = said.id.and_then(|id| calls.waiting().remove(&id)) {
            let _ = caller.send(reply);
        }
    };
    calls.close(reason);
}
