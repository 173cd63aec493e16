//! QEMU's guest agent: a program in the guest that freezes file systems, runs commands and shuts down.
//!
//! The guest is not trusted, and there need be no agent in it: the channel takes what is written to it all the same.
//! So every session begins with a synchronisation of a random number, and everything has a time limit; what does not
//! answer is [`QgaError::AgentSilent`].

use crate::wire::{LONGEST_LINE, Refusal, present, read_line};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How often a command that runs in the guest is asked for its end.
const EXEC_POLL: Duration = Duration::from_millis(50);
/// How much of a command's output is taken, of each of the two.
pub const MOST_OUTPUT: usize = 1 << 20;

/// Why the agent did not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QgaError {
    /// The channel cannot be reached.
    #[error("the guest agent's channel cannot be reached: {0}")]
    Connect(String),
    /// No agent answers.
    #[error("the guest agent does not answer")]
    AgentSilent,
    /// The agent refused the command.
    #[error("the guest agent refused '{command}': {desc} ({class})")]
    Refused {
        /// The command.
        command: String,
        /// The agent's class of the error.
        class: String,
        /// The agent's sentence.
        desc: String,
    },
    /// The channel was closed: QEMU ended, or gave it to somebody else.
    #[error("the guest agent's channel is lost: {0}")]
    Lost(String),
    /// The answer makes no sense.
    #[error("the guest agent's answer to '{command}' makes no sense: {reason}")]
    Malformed {
        /// The command.
        command: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A command in the guest did not end in time. It may run still.
    #[error("the command in the guest did not end in time")]
    ExecTimedOut,
}

/// Whether file systems are frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FreezeStatus {
    /// They are not.
    Thawed,
    /// They are.
    Frozen,
}

/// How a guest shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// It turns itself off.
    Powerdown,
    /// It starts again.
    Reboot,
    /// It stops and stays.
    Halt,
}

/// What a command in the guest came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// Its exit code; nothing when a signal ended it.
    pub exit_code: Option<i64>,
    /// What it printed, [`MOST_OUTPUT`] bytes at most.
    pub stdout: Vec<u8>,
    /// What it complained.
    pub stderr: Vec<u8>,
    /// Whether more was printed than is here.
    pub truncated: bool,
}

/// A network card as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GuestInterface {
    /// Its name.
    pub name: String,
    /// Its hardware address, where it has one.
    #[serde(rename = "hardware-address")]
    pub hardware_address: Option<String>,
    /// Its addresses.
    #[serde(rename = "ip-addresses", default)]
    pub addresses: Vec<GuestAddress>,
}

/// An address of a card.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GuestAddress {
    /// The address.
    #[serde(rename = "ip-address")]
    pub address: String,
    /// The length of its prefix.
    #[serde(default)]
    pub prefix: u32,
}

/// A session with an agent. The channel serves one at a time. After an error other than `Refused` the session is of
/// no more use; make another one.
#[derive(Debug)]
pub struct Qga {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    limit: Duration,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return", default, deserialize_with = "present")]
    done: Option<Value>,
    error: Option<Refusal>,
}

impl Qga {
    /// Opens a session on the socket at `path` and makes sure that an agent answers, all within `limit`, which also
    /// bounds each command. `nonce` is a number that nobody can guess: what an earlier session left in the channel
    /// is told from this one's by it.
    pub async fn connect(path: &Path, nonce: u64, limit: Duration) -> Result<Self, QgaError> {
        let within = Instant::now() + limit;
        let stream = timeout_at(within, UnixStream::connect(path))
            .await
            .map_err(|_| QgaError::AgentSilent)?
            .map_err(|e| QgaError::Connect(e.to_string()))?;
        let (reader, writer) = stream.into_split();
        let mut session = Self { reader: BufReader::new(reader), writer, limit };
        timeout_at(within, session.synchronise(nonce)).await.map_err(|_| QgaError::AgentSilent)??;
        Ok(session)
    }

    async fn synchronise(&mut self, nonce: u64) -> Result<(), QgaError> {
        // JSON numbers of the agent are signed.
        let nonce = nonce & 0x7fff_ffff_ffff_ffff;
        // The agent drops whatever half request it holds at a byte that no JSON has.
        let request = json!({ "execute": "guest-sync-delimited", "arguments": { "id": nonce } });
        self.write(&[b"\xff".as_slice(), request.to_string().as_bytes(), b"\n"].concat()).await?;
        let mut line = Vec::new();
        loop {
            skip_past(&mut self.reader, 0xff).await.map_err(lost)?;
            if read_line(&mut self.reader, &mut line, LONGEST_LINE).await.map_err(lost)?.is_none() {
                return Err(QgaError::Lost("it was closed".into()));
            }
            // What is not ours is an answer to somebody before us, or nonsense.
            if let Ok(Answer { done: Some(id), .. }) = serde_json::from_slice(&line)
                && id.as_u64() == Some(nonce)
            {
                return Ok(());
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), QgaError> {
        self.writer.write_all(bytes).await.map_err(lost)
    }

    /// Runs a command and gives its answer.
    pub async fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, QgaError> {
        self.execute_within(command, arguments, self.limit).await
    }

    /// The same within `limit`.
    pub async fn execute_within(
        &mut self,
        command: &str,
        arguments: Option<Value>,
        limit: Duration,
    ) -> Result<Value, QgaError> {
        timeout(limit, self.ask(command, arguments)).await.map_err(|_| QgaError::AgentSilent)?
    }

    async fn ask(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, QgaError> {
        self.send(command, arguments).await?;
        let mut line = Vec::new();
        if read_line(&mut self.reader, &mut line, LONGEST_LINE).await.map_err(lost)?.is_none() {
            return Err(QgaError::Lost("it was closed".into()));
        }
        let malformed = |reason: String| QgaError::Malformed { command: command.to_owned(), reason };
        let answer: Answer = serde_json::from_slice(&line).map_err(|e| malformed(e.to_string()))?;
        match answer {
            Answer { error: Some(Refusal { class, desc }), .. } => {
                Err(QgaError::Refused { command: command.to_owned(), class, desc })
            }
            Answer { done: Some(value), .. } => Ok(value),
            _ => Err(malformed("neither an answer nor an error".into())),
        }
    }

    async fn send(&mut self, command: &str, arguments: Option<Value>) -> Result<(), QgaError> {
        let mut request = json!({ "execute": command });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        self.write(format!("{request}\n").as_bytes()).await
    }

    async fn typed<T: DeserializeOwned>(&mut self, command: &str, arguments: Option<Value>) -> Result<T, QgaError> {
        let value = self.execute(command, arguments).await?;
        T::deserialize(value).map_err(|e| QgaError::Malformed { command: command.to_owned(), reason: e.to_string() })
    }

    /// Does nothing, if the agent is there.
    pub async fn ping(&mut self) -> Result<(), QgaError> {
        self.execute("guest-ping", None).await.map(drop)
    }

    /// Freezes the file systems within `limit` and gives their number. When it fails, they may be frozen all the
    /// same: thaw them.
    pub async fn fsfreeze_freeze(&mut self, limit: Duration) -> Result<u64, QgaError> {
        self.count("guest-fsfreeze-freeze", limit).await
    }

    /// Thaws the file systems and gives the number of those that were frozen.
    pub async fn fsfreeze_thaw(&mut self, limit: Duration) -> Result<u64, QgaError> {
        self.count("guest-fsfreeze-thaw", limit).await
    }

    async fn count(&mut self, command: &str, limit: Duration) -> Result<u64, QgaError> {
        let value = self.execute_within(command, None, limit).await?;
        let malformed = || QgaError::Malformed { command: command.to_owned(), reason: "no number".into() };
        value.as_u64().ok_or_else(malformed)
    }

    /// Whether file systems are frozen.
    pub async fn fsfreeze_status(&mut self) -> Result<FreezeStatus, QgaError> {
        self.typed("guest-fsfreeze-status", None).await
    }

    /// Runs a program in the guest to its end, within `limit`, and takes what it prints.
    pub async fn exec(&mut self, path: &str, args: &[&str], limit: Duration) -> Result<ExecResult, QgaError> {
        #[derive(Deserialize)]
        struct Started {
            pid: i64,
        }
        let until = Instant::now() + limit;
        let wish = json!({ "path": path, "arg": args, "capture-output": true });
        let started: Started = self.typed("guest-exec", Some(wish)).await?;
        loop {
            let status: ExecStatus = self.typed("guest-exec-status", Some(json!({ "pid": started.pid }))).await?;
            if status.exited {
                return status.result();
            }
            if Instant::now() >= until {
                return Err(QgaError::ExecTimedOut);
            }
            sleep(EXEC_POLL).await;
        }
    }

    /// Asks the guest to shut down. There is no answer to wait for: the agent ends with the guest. Keep the session
    /// until it has: QEMU may drop what it has not read yet when its peer goes.
    pub async fn shutdown(&mut self, mode: ShutdownMode) -> Result<(), QgaError> {
        let mode = match mode {
            ShutdownMode::Powerdown => "powerdown",
            ShutdownMode::Reboot => "reboot",
            ShutdownMode::Halt => "halt",
        };
        let limit = self.limit;
        let send = self.send("guest-shutdown", Some(json!({ "mode": mode })));
        timeout(limit, send).await.map_err(|_| QgaError::AgentSilent)?
    }

    /// After [`Qga::shutdown`]: ends when the agent says that it will not. When it does what it was asked, this never
    /// ends.
    pub async fn refused(&mut self) {
        let mut line = Vec::new();
        if !matches!(read_line(&mut self.reader, &mut line, LONGEST_LINE).await, Ok(Some(()))) {
            // The guest went: just what it was asked to.
            std::future::pending().await
        }
    }

    /// The guest's network cards and their addresses.
    pub async fn network_interfaces(&mut self) -> Result<Vec<GuestInterface>, QgaError> {
        self.typed("guest-network-get-interfaces", None).await
    }
}

#[derive(Deserialize)]
struct ExecStatus {
    exited: bool,
    exitcode: Option<i64>,
    #[serde(rename = "out-data", default)]
    out: String,
    #[serde(rename = "err-data", default)]
    err: String,
    #[serde(rename = "out-truncated", default)]
    out_truncated: bool,
    #[serde(rename = "err-truncated", default)]
    err_truncated: bool,
}

impl ExecStatus {
    fn result(self) -> Result<ExecResult, QgaError> {
        let decode = |text: &str| {
            let malformed = |e: base64::DecodeError| QgaError::Malformed {
                command: "guest-exec-status".into(),
                reason: e.to_string(),
            };
            BASE64.decode(text).map_err(malformed)
        };
        let (mut stdout, mut stderr) = (decode(&self.out)?, decode(&self.err)?);
        let more = stdout.len() > MOST_OUTPUT || stderr.len() > MOST_OUTPUT;
        stdout.truncate(MOST_OUTPUT);
        stderr.truncate(MOST_OUTPUT);
        let truncated = more || self.out_truncated || self.err_truncated;
        Ok(ExecResult { exit_code: self.exitcode, stdout, stderr, truncated })
    }
}

fn lost(error: std::io::Error) -> QgaError {
    QgaError::Lost(error.to_string())
}

/// Passes over everything up to and with `byte`.
async fn skip_past<R: AsyncBufRead + Unpin>(from: &mut R, byte: u8) -> std::io::Result<()> {
    loop {
        let chunk = from.fill_buf().await?;
        if chunk.is_empty() {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it was closed"));
        }
        let at = chunk.iter().position(|b| *b == byte);
        let taken = at.map_or(chunk.len(), |at| at + 1);
        from.consume(taken);
        if at.is_some() {
            return Ok(());
        }
    }
}
