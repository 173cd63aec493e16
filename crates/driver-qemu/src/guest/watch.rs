//! Watching: what QEMU reports, and its end.

use super::{Guest, GuestState, QMP_LIMIT, held};
use crate::layout;
use crate::process::Process;
use crate::qmp::{Qmp, QmpEvent};
use crate::spec::{Desired, StopRecord};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, interval, sleep_until, timeout};

/// How often the console log is measured, and a monitor that was lost is tried again.
const TICK: Duration = Duration::from_secs(5);
/// How long the console log may become, and how much of it is kept when it is cut.
const LONGEST_CONSOLE: u64 = 8 << 20;
const KEPT_CONSOLE: u64 = 1 << 20;
/// How long the connection may last after the process.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Guest {
    /// Watches the process to its end.
    pub(super) async fn watch(&self, process: Process, child: Option<Child>, qmp: Option<Qmp>) {
        let mut ended_by = None;
        let mut monitor = qmp.map(|qmp| (qmp.events(), qmp));
        let mut tick = interval(TICK);
        let mut ended = std::pin::pin!(process.ended());
        loop {
            tokio::select! {
                event = next(&mut monitor) => match event {
                    Some(event) => self.heard(event, &mut ended_by),
                    None => monitor = None,
                },
                () = &mut ended => break,
                _ = tick.tick() => {
                    let path = self.console();
                    let _ = tokio::task::spawn_blocking(move || cut(&path)).await;
                    if monitor.is_none() {
                        monitor = self.monitor_again().await;
                    }
                }
            }
        }
        // What QEMU said of its end may be on its way still; behind it the connection ends. Often it has already.
        if monitor.is_some() {
            let rest = async {
                while let Some(event) = next(&mut monitor).await {
                    self.heard(event, &mut ended_by);
                }
            };
            if timeout(LAST_WORDS, rest).await.is_err() {
                tracing::debug!(guest = self.id(), "QEMU is gone, and its monitor is not");
            }
        }
        let status = match child {
            // It has ended; this only fetches what it ended with.
            Some(mut child) => child.wait().await.ok(),
            None => None,
        };
        let reason = ended_by.unwrap_or_else(|| match status {
            Some(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("QEMU was ended by signal {signal}"),
                (None, code) => format!("QEMU ended with {}", code.unwrap_or_default()),
            },
            None => "QEMU was killed or crashed; what it ended with is not known".to_owned(),
        });
        self.stopped(reason).await;
    }

    fn heard(&self, event: QmpEvent, ended_by: &mut Option<String>) {
        use GuestState::{Paused, Rebooting, Running};
        match event.name.as_str() {
            "SHUTDOWN" => {
                let why = event.data["reason"].as_str().unwrap_or("unknown");
                *ended_by = Some(why.chars().take(100).collect());
            }
            // It is fine when the guest is in another state.
            "STOP" => drop(self.shift(&[Running], Paused)),
            "RESUME" => drop(self.shift(&[Paused], Running)),
            "RESET" => drop(self.shift(&[Rebooting], Running)),
            "BLOCK_IO_ERROR" => {
                tracing::warn!(guest = self.id(), data = %event.data, "a disk of a guest failed");
            }
            _ => {}
        }
    }

    /// The monitor closed though QEMU runs: somebody took it, or it never answered.
    async fn monitor_again(&self) -> Option<Monitor> {
        let qmp = Qmp::connect(&self.socket(layout::QMP), QMP_LIMIT.min(TICK)).await.ok()?;
        held(&self.running).as_mut()?.qmp = Some(qmp.clone());
        Some((qmp.events(), qmp))
    }

    async fn stopped(&self, reason: String) {
        *held(&self.running) = None;
        *held(&self.addresses) = super::Addresses::default();
        tracing::info!(guest = self.id(), reason, "a guest stopped");
        let record = StopRecord { at: self.shared.clock.now(), reason: reason.clone() };
        // One that shut itself down was asked to by somebody; one that was killed should run still.
        let meant = matches!(reason.as_str(), "guest-shutdown" | "host-qmp-quit" | "host-qmp-system-powerdown");
        let written = self.change(|spec| {
            spec.last_stop = Some(record);
            if meant {
                spec.desired = Desired::Stopped;
            }
        });
        if let Err(error) = written.await {
            tracing::debug!(guest = self.id(), error = error.text(), "the end of a guest was not written down");
        }
        self.set(GuestState::Stopped, Some(reason));
    }

    /// Waits until it is no longer stopping; says whether that came within `limit`. It may have been started again by
    /// the time that this looks.
    pub(crate) async fn has_stopped(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut seen = self.observe();
        tokio::select! {
            found = seen.wait_for(|seen| seen.state != GuestState::Stopping) => found.is_ok(),
            () = sleep_until(until) => false,
        }
    }
}

/// A monitor, and what it reports.
type Monitor = (broadcast::Receiver<QmpEvent>, Qmp);

/// The next event; nothing when the connection has ended and all was heard. Without a connection there never is one.
async fn next(monitor: &mut Option<Monitor>) -> Option<QmpEvent> {
    let Some((events, qmp)) = monitor else { return std::future::pending().await };
    loop {
        let heard = tokio::select! {
            biased;
            heard = events.recv() => heard,
            _ = qmp.ended() => match events.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Lagged(_)) => continue,
                Err(_) => return None,
            },
        };
        match heard {
            Ok(event) => return Some(event),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

/// Cuts a console log that is too long; its end is kept in the file before it.
fn cut(path: &Path) {
    let shorten = || -> std::io::Result<()> {
        let mut file = std::fs::File::options().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        if length <= LONGEST_CONSOLE {
            return Ok(());
        }
        file.seek(SeekFrom::Start(length - KEPT_CONSOLE))?;
        let mut kept = Vec::new();
        (&file).take(KEPT_CONSOLE).read_to_end(&mut kept)?;
        let mut before = path.as_os_str().to_owned();
        before.push(".1");
        let mut old = layout::open_private(Path::new(&before))?;
        old.set_len(0)?;
        old.write_all(&kept)?;
        // QEMU appends: it goes on at the new end.
        file.set_len(0)
    };
    if let Err(error) = shorten() {
        tracing::debug!(%error, path = %path.display(), "a console log could not be cut");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_console_is_cut_and_its_end_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, before) = (dir.path().join("console.log"), dir.path().join("console.log.1"));
        std::fs::write(&path, "short").unwrap();
        cut(&path);
        assert_eq!((std::fs::read(&path).unwrap(), before.exists()), (b"short".to_vec(), false));
        // As QEMU does, which goes on writing.
        let mut qemu = std::fs::File::options().append(true).open(&path).unwrap();
        qemu.write_all(&vec![b'x'; usize::try_from(LONGEST_CONSOLE).unwrap()]).unwrap();
        qemu.write_all(b"the end").unwrap();
        cut(&path);
        qemu.write_all(b"and on").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"and on");
        let kept = std::fs::read(&before).unwrap();
        assert_eq!(kept.len() as u64, KEPT_CONSOLE);
        assert!(kept.ends_with(b"xxxthe end"));
        cut(&dir.path().join("missing"));
    }
}
