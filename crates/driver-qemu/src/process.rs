//! QEMU's processes: started in a session of their own so that they outlive Portolan, found again, watched and killed.

use crate::QemuError;
use crate::layout::{LOG, PID};
use crate::programs::Programs;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use uuid::Uuid;

/// How much of QEMU's complaints is repeated in an error.
const COMPLAINT: u64 = 2000;

/// How long a process may take to end when it is killed.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(20);

/// A process that is known to be a guest's QEMU, held so that its number cannot come to mean another one.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    fd: Arc<AsyncFd<OwnedFd>>,
}

impl Process {
    /// The process of that number, if it is the QEMU of the guest with that uuid, in that directory.
    pub(crate) fn verified(pid: u32, dir: &Path, uuid: Uuid) -> Option<Self> {
        Self::held(pid, || is_guest(pid, dir, uuid))
    }

    fn held(pid: u32, is_it: impl FnOnce() -> bool) -> Option<Self> {
        let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
        // First held, then looked at: what is seen is what is held.
        let fd = pidfd_open(number, PidfdFlags::empty()).ok()?;
        is_it().then_some(())?;
        Some(Self { pid, fd: Arc::new(watched(fd).ok()?) })
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        // A file that cannot be waited for would be one that is not there.
        let _ = self.fd.readable().await;
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return true };
        is_zombie(&stat)
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        let _ = pidfd_send_signal(self.fd.get_ref(), Signal::TERM);
    }

    /// Kills it.
    pub(crate) fn kill(&self) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(self.fd.get_ref(), Signal::KILL);
    }
}

/// What replaces the deprecated call cannot be used without `unsafe`. Its fault is that a type might lie about its file
/// descriptor, which [`OwnedFd`] does not.
#[allow(deprecated, reason = "sound for a descriptor that is owned")]
fn watched(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// The guest's QEMU, by its own record or, where that is not there yet or not any more, by looking at all processes.
pub(crate) fn find(dir: &Path, uuid: Uuid) -> Option<Process> {
    if let Some(found) = recorded(dir).and_then(|pid| Process::verified(pid, dir, uuid)) {
        return Some(found);
    }
    let numbers = std::fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.find_map(|pid| is_guest(pid, dir, uuid).then(|| Process::verified(pid, dir, uuid))?)
}

/// Whether the guest's QEMU runs, for guests of other Portolan nodes: nothing is held.
pub(crate) fn is_running(dir: &Path, uuid: Uuid) -> bool {
    recorded(dir).is_some_and(|pid| is_guest(pid, dir, uuid))
}

fn recorded(dir: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(dir.join(PID)).ok()?.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The helpers that work in a directory and write their number into the file `pid_file` there: one, or those that
/// a crash left.
pub(crate) fn find_helpers(dir: &Path, pid_file: &str) -> Vec<Process> {
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_helper = |pid| works_as(pid, dir, "--pidfile", pid_file);
    numbers.filter(|pid| is_helper(*pid)).filter_map(|pid| Process::held(pid, || is_helper(pid))).collect()
}

/// Its arguments name the guest, it works in the guest's directory, and it lives.
fn is_guest(pid: u32, dir: &Path, uuid: Uuid) -> bool {
    works_as(pid, dir, "-uuid", &uuid.hyphenated().to_string())
}

/// It has this argument, works in that directory, and lives.
fn works_as(pid: u32, dir: &Path, flag: &str, value: &str) -> bool {
    let proc = Path::new("/proc").join(pid.to_string());
    let mut words = Vec::new();
    let read = File::open(proc.join("cmdline")).and_then(|file| file.take(1 << 20).read_to_end(&mut words));
    if read.is_err() {
        return false;
    }
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    let named = words.windows(2).any(|pair| pair[0] == flag.as_bytes() && pair[1] == value.as_bytes());
    let place = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    named
        && place(&proc.join("cwd")).is_some_and(|works_in| Some(works_in) == place(dir))
        && std::fs::read_to_string(proc.join("stat")).is_ok_and(|stat| !is_zombie(&stat))
}

/// The state stands behind the name, which may hold anything.
fn is_zombie(stat: &str) -> bool {
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

/// Starts QEMU in `dir`, in a session of its own, with its complaints in a file there.
pub(crate) fn spawn(programs: &Programs, dir: &Path, args: &[String]) -> Result<Child, QemuError> {
    let _ = std::fs::rename(dir.join(LOG), dir.join(format!("{LOG}.1")));
    spawn_program(programs, &programs.qemu, dir, LOG, args)
}

/// Starts a program as [`spawn`] starts QEMU.
pub(crate) fn spawn_program(
    programs: &Programs,
    program: &Path,
    dir: &Path,
    log: &str,
    args: &[String],
) -> Result<Child, QemuError> {
    let path = dir.join(log);
    let log = crate::layout::open_private(&path).map_err(QemuError::file("write", &path))?;
    let twin = log.try_clone().map_err(QemuError::file("write", &path))?;
    let mut command = Command::new(&programs.setsid);
    command.arg(program).args(args).current_dir(dir);
    // Nothing of Portolan's own environment is a guest's business.
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(log).stderr(twin);
    command.spawn().map_err(|e| QemuError::Start(format!("{} cannot be run: {e}", programs.setsid.display())))
}

/// What QEMU last complained.
pub(crate) fn complaint(dir: &Path) -> String {
    complaint_in(dir, LOG)
}

/// What stands last in a program's log.
pub(crate) fn complaint_in(dir: &Path, log: &str) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(dir.join(log))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(COMPLAINT)))?;
        let mut bytes = Vec::new();
        file.take(COMPLAINT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("warning:"));
    let lines: Vec<&str> = lines.collect();
    // The first line says what is wrong, the one after it often how to do better.
    let last = &lines[lines.len().saturating_sub(3)..];
    if last.is_empty() { "it did not say why".to_owned() } else { last.join("; ") }
}
