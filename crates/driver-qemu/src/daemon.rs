//! `qemu-storage-daemon`: serves disks of guests that do not run over NBD, for exports and imports. It works in one
//! directory, where its socket, its log and its process id are, and is known by those after a restart of Portolan.

use crate::QemuError;
use crate::layout::open_private;
use crate::process::{self, KILL_LIMIT, Process};
use crate::programs::Programs;
use crate::wire::socket_in;
use portolan_nbd::{Address, ClientOptions, Connection, NbdError};
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

/// How long it may take until its socket answers.
const START_LIMIT: Duration = Duration::from_secs(30);
const START_POLL: Duration = Duration::from_millis(5);
/// How long it may take to write out what it holds when it is asked to end.
const END_LIMIT: Duration = Duration::from_secs(120);

/// A place where a daemon may run.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    dir: PathBuf,
    /// What its files are called.
    name: &'static str,
}

/// A node and the export of it.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// The node, as for `blockdev-add`.
    pub(crate) node: Value,
    /// The export's name, which is the node's too.
    pub(crate) name: String,
    pub(crate) writable: bool,
    /// A dirty bitmap to tell of.
    pub(crate) bitmap: Option<String>,
}

impl Daemon {
    pub(crate) fn new(dir: PathBuf, name: &'static str) -> Self {
        Self { dir, name }
    }

    fn file(&self, ending: &str) -> String {
        format!("{}.{ending}", self.name)
    }

    /// Starts it, and waits until it serves.
    pub(crate) async fn start(&self, programs: &Programs, served: &[Served]) -> Result<(), QemuError> {
        let (socket, log) = (self.file("sock"), self.file("log"));
        for leftover in [&socket, &log, &self.file("pid")] {
            let _ = std::fs::remove_file(self.dir.join(leftover));
        }
        let mut args = Vec::new();
        let mut two = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
        two("--pidfile", self.file("pid"));
        for one in served {
            two("--blockdev", one.node.to_string());
        }
        let server = json!({ "addr": { "type": "unix", "path": socket } });
        two("--nbd-server", server.to_string());
        for (n, one) in served.iter().enumerate() {
            let mut export = json!({ "type": "nbd", "id": format!("x{n}"), "node-name": one.node["node-name"],
                "name": one.name, "writable": one.writable });
            if let Some(bitmap) = &one.bitmap {
                export["bitmaps"] = json!([bitmap]);
            }
            two("--export", export.to_string());
        }
        // Before it runs, so that nobody else can read what it complains.
        let path = self.dir.join(&log);
        drop(open_private(&path).map_err(QemuError::file("write", &path))?);
        let mut child = process::spawn_program(programs, &programs.qemu_storage_daemon, &self.dir, &log, &args)?;
        let until = Instant::now() + START_LIMIT;
        loop {
            let place = File::open(&self.dir).map_err(QemuError::file("open", &self.dir))?;
            if UnixStream::connect(socket_in(place.as_fd(), &socket)).await.is_ok() {
                return Ok(());
            }
            let ended = !matches!(child.try_wait(), Ok(None));
            if ended || Instant::now() >= until {
                let _ = child.kill().await;
                let why = process::complaint_in(&self.dir, &log);
                self.clear();
                if why.contains("lock") {
                    return Err(QemuError::Conflict(format!("a disk is in use by another program: {why}")));
                }
                return Err(QemuError::Program(format!("qemu-storage-daemon did not start: {why}")));
            }
            sleep(START_POLL).await;
        }
    }

    /// Opens an export of it.
    pub(crate) async fn connect(&self, export: &str, options: &ClientOptions) -> Result<Connection, NbdError> {
        let place = File::open(&self.dir).map_err(|e| NbdError::Address(e.to_string()))?;
        let address = Address::unix(socket_in(place.as_fd(), &self.file("sock")), export);
        Connection::connect(&address, options).await
    }

    fn running(&self) -> Vec<Process> {
        process::find_helpers(&self.dir, &self.file("pid"))
    }

    /// Whether it runs.
    pub(crate) fn runs(&self) -> bool {
        !self.running().is_empty()
    }

    /// Ends it, if it runs, and removes its files. With `gently` it writes out what it holds first; when that takes too
    /// long it runs on, and this is an error: killed, it may lose what was written.
    pub(crate) async fn end(&self, gently: bool) -> Result<(), QemuError> {
        for process in self.running() {
            if gently {
                process.terminate();
                if timeout(END_LIMIT, process.ended()).await.is_err() {
                    let what = format!("qemu-storage-daemon did not write out within {} s", END_LIMIT.as_secs());
                    return Err(QemuError::Conflict(what));
                }
                continue;
            }
            process.kill();
            if timeout(KILL_LIMIT, process.ended()).await.is_err() {
                return Err(QemuError::Conflict("qemu-storage-daemon does not end".into()));
            }
        }
        self.clear();
        Ok(())
    }

    /// Kills it without waiting, where its directory goes with it.
    pub(crate) fn kill(dir: &Path, name: &str) {
        for process in process::find_helpers(dir, &format!("{name}.pid")) {
            process.kill();
        }
    }

    fn clear(&self) {
        for ending in ["sock", "log", "pid"] {
            let _ = std::fs::remove_file(self.dir.join(self.file(ending)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;
    use tokio::io::AsyncReadExt;
    use tokio::process::Command;

    #[tokio::test]
    async fn what_does_not_end_in_peace_is_not_killed_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo; read word", "sh", "--pidfile", "import.pid"]);
        command.current_dir(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        // It is deaf from here on.
        child.stdout.take().unwrap().read_u8().await.unwrap();
        let daemon = Daemon::new(dir.path().to_owned(), "import");
        assert!(daemon.runs());
        tokio::time::pause();
        assert!(matches!(daemon.end(true).await, Err(QemuError::Conflict(_))));
        assert!(daemon.runs(), "it may be writing still");
        tokio::time::resume();
        daemon.end(false).await.unwrap();
        assert!(!daemon.runs());
        child.wait().await.unwrap();
    }
}
