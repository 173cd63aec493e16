//! The programs that the driver runs: where they are, which version, and how they are run within bounds.

use crate::qmp::QemuVersion;
use crate::{QemuError, QemuSettings};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

/// The oldest QEMU that will do.
pub const OLDEST: QemuVersion = QemuVersion { major: 7, minor: 2, micro: 0 };
/// How much of a program's output is read.
const MOST_OUTPUT: u64 = 4 << 20;
/// How long a program may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// `qemu-img`.
    pub qemu_img: PathBuf,
    /// `qemu-storage-daemon`.
    pub qemu_storage_daemon: PathBuf,
    /// QEMU's version.
    pub version: QemuVersion,
    /// `setsid`, which starts a program in a session of its own.
    pub(crate) setsid: PathBuf,
}

impl Programs {
    /// Finds them and asks QEMU for its version.
    pub async fn find(settings: &QemuSettings) -> Result<Self, QemuError> {
        let qemu = find(settings.qemu.as_deref(), "qemu-system-x86_64", "qemu-system-x86")?;
        let qemu_img = find(settings.qemu_img.as_deref(), "qemu-img", "qemu-utils")?;
        let daemon = settings.qemu_storage_daemon.as_deref();
        let qemu_storage_daemon = find(daemon, "qemu-storage-daemon", "qemu-utils")?;
        let setsid = find(None, "setsid", "util-linux")?;
        let told = run(Command::new(&qemu).arg("--version"), VERSION_LIMIT).await?;
        let version = parse_version(&told).ok_or_else(|| {
            QemuError::Program(format!("{} does not say which version of QEMU it is", qemu.display()))
        })?;
        if version < OLDEST {
            return Err(QemuError::Program(format!(
                "{} is QEMU {version}, and {}.{} is the oldest that will do",
                qemu.display(),
                OLDEST.major,
                OLDEST.minor
            )));
        }
        Ok(Self { qemu, qemu_img, qemu_storage_daemon, version, setsid })
    }
}

fn find(named: Option<&Path>, program: &str, package: &str) -> Result<PathBuf, QemuError> {
    if let Some(named) = named {
        return if named.is_file() {
            Ok(named.to_owned())
        } else {
            Err(QemuError::Program(format!("there is no program {}", named.display())))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/bin", "/usr/sbin"].map(PathBuf::from));
    places.map(|place| place.join(program)).find(|file| file.is_file()).ok_or_else(|| {
        QemuError::Program(format!("'{program}' is not installed: on Debian it is in the package {package}"))
    })
}

/// `QEMU emulator version 10.0.2 (Debian …)`.
fn parse_version(text: &str) -> Option<QemuVersion> {
    let numbers = text.split("version ").nth(1)?.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut numbers = numbers.split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(QemuVersion { major: next()?, minor: next()?, micro: next().unwrap_or(0) })
}

/// Runs a program to its end within `limit` and gives what it printed. Fails with what it complained when it fails.
/// It is killed at the limit, and when the caller gives up.
pub(crate) async fn run(command: &mut Command, limit: Duration) -> Result<String, QemuError> {
    run_within(command, limit, None).await
}

/// The same with no more than so many bytes of memory, for programs that read what is not trusted.
pub(crate) async fn run_within(
    command: &mut Command,
    limit: Duration,
    memory: Option<u64>,
) -> Result<String, QemuError> {
    let name = program_name(command.as_std().get_program());
    let failed = |what: String| QemuError::Program(format!("{name} {what}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env("LC_ALL", "C");
    let mut child = command.spawn().map_err(|e| failed(format!("cannot be run: {e}")))?;
    if let (Some(most), Some(pid)) = (memory, child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))) {
        // One that has ended by now needs no limit.
        let most = Rlimit { current: Some(most), maximum: Some(most) };
        let _ = prlimit(Some(pid), Resource::As, most);
    }
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let whole = async {
        let (out, err, status) = tokio::join!(text(out), text(err), child.wait());
        (out, err, status)
    };
    let Ok((out, err, status)) = timeout(limit, whole).await else {
        return Err(failed(format!("did not end within {} s", limit.as_secs())));
    };
    let status = status.map_err(|e| failed(format!("cannot be waited for: {e}")))?;
    if status.success() {
        return Ok(out);
    }
    let why = err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it did not say why");
    Err(failed(format!("failed ({status}): {why}")))
}

fn program_name(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}

/// What is printed, up to a bound; the rest is read and dropped, so that the program is not held up.
async fn text(from: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut bytes = Vec::new();
    let _ = (&mut from).take(MOST_OUTPUT).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let version = |text| parse_version(text).map(|v| v.to_string());
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds)\n"), Some("10.0.2".to_owned()));
        assert_eq!(version("QEMU emulator version 7.2\n"), Some("7.2.0".to_owned()));
        assert_eq!(version("something else"), None);
        assert!(QemuVersion { major: 7, minor: 1, micro: 9 } < OLDEST);
    }

    #[tokio::test]
    async fn programs_are_bounded_and_their_complaints_kept() {
        let limit = Duration::from_secs(20);
        assert_eq!(run(Command::new("echo").arg("hello"), limit).await.unwrap(), "hello\n");
        let error = run(Command::new("sh").args(["-c", "echo no room >&2; exit 3"]), limit).await.unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(run(&mut Command::new("/no/such/program"), limit).await.is_err());
        // It is let go on when its limit has been set.
        let hungry = "sleep 0.2; dd if=/dev/zero of=/dev/null bs=256M count=1 2>&1";
        let mut command = Command::new("sh");
        assert!(run_within(command.args(["-c", hungry]), limit, Some(128 << 20)).await.is_err());
        assert!(run(Command::new("sh").args(["-c", hungry]), limit).await.is_ok());
    }

    #[tokio::test]
    async fn missing_and_old_programs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = QemuSettings::new(dir.path().to_owned());
        settings.qemu = Some(dir.path().join("qemu"));
        assert!(Programs::find(&settings).await.unwrap_err().to_string().contains("there is no program"));
        std::fs::write(dir.path().join("qemu"), "#!/bin/sh\necho QEMU emulator version 6.2.0\n").unwrap();
        std::fs::set_permissions(dir.path().join("qemu"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = Programs::find(&settings).await.unwrap_err().to_string();
        assert!(error.contains("6.2.0") && error.contains("7.2"), "{error}");
        assert!(find(None, "no-such-program", "its-package").unwrap_err().to_string().contains("its-package"));
    }
}
