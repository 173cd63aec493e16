//! Stopping, rebooting, destroying.

use super::{AGENT_LIMIT, Guest, GuestState, held};
use crate::QemuError;
use crate::process::KILL_LIMIT;
use crate::qga::ShutdownMode;
use crate::spec::{Desired, Phase};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long QEMU may take to end when it is told to.
const QUIT_LIMIT: Duration = Duration::from_secs(20);
/// How long a guest has to show that it shuts down, before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How long a guest that was reset may take to show it.
const RESET_LIMIT: Duration = Duration::from_secs(10);

impl Guest {
    /// Shuts it down: through its agent, else by its power button, else, where the settings say so, by ending QEMU.
    /// Answers when that has begun. Where QEMU may not be ended, a guest that does not shut down runs on, and says so.
    pub async fn stop(self: &Arc<Self>) -> Result<(), QemuError> {
        let before = self.shift(&[GuestState::Running, GuestState::Paused], GuestState::Stopping)?;
        if let Err(error) = self.change(|spec| spec.desired = Desired::Stopped).await {
            self.state.send_replace(before);
            return Err(error);
        }
        let (guest, held_up) = (self.clone(), before.state == GuestState::Paused);
        self.shared.spawn(async move {
            let _turn = guest.turn.lock().await;
            let ending = guest.ending();
            tokio::select! {
                // First of all: one that was destroyed meanwhile is not touched any more.
                biased;
                () = ending.cancelled() => {}
                () = guest.shut_down(held_up) => {}
            }
        });
        Ok(())
    }

    async fn shut_down(&self, held_up: bool) {
        let (by_agent, by_button) = (self.shared.settings.agent_stop(), self.shared.settings.acpi_stop());
        if self.heeds(by_agent, by_button, held_up).await {
            return;
        }
        if self.shared.settings.force_stop {
            if self.end_process().await.is_ok() && self.has_stopped(KILL_LIMIT).await {
                return;
            }
            tracing::warn!(guest = self.id(), "QEMU does not end");
        }
        // It may have ended meanwhile.
        let reason = Some("it did not shut down when it was asked to");
        let _ = self.shift_because(&[GuestState::Stopping], GuestState::Running, reason);
    }

    /// Asks it to shut down, and says whether it does: through its agent, which has `by_agent` for it, and by its power
    /// button, for which there is `by_button` on top. A guest that is still booting hears neither, and one whose agent
    /// took the word and did nothing may still hear its button: it is asked again and again.
    pub(crate) async fn heeds(&self, by_agent: Duration, by_button: Duration, held_up: bool) -> bool {
        if held_up && let Ok(qmp) = self.qmp() {
            let _ = qmp.cont().await;
        }
        let begun = Instant::now();
        let left = |limit: Duration| limit.saturating_sub(begun.elapsed());
        let all = by_agent + by_button;
        let mut told = by_agent.is_zero();
        while !left(all).is_zero() {
            if !told {
                let share = left(by_agent).max(ASK_AGAIN).min(left(all));
                match self.agent_does(ShutdownMode::Powerdown, share, self.has_stopped(share)).await {
                    Some(true) => return true,
                    Some(false) => told = true,
                    None => {}
                }
            }
            // Where the monitor has ended, so has QEMU, most likely.
            if !by_button.is_zero()
                && let Ok(qmp) = self.qmp()
            {
                let _ = qmp.system_powerdown().await;
            }
            if self.has_stopped(left(all).min(ASK_AGAIN)).await {
                return true;
            }
        }
        false
    }

    /// Turns it off at once.
    pub async fn power_off(self: &Arc<Self>) -> Result<(), QemuError> {
        use GuestState::{Paused, Rebooting, Running, Stopping};
        let before = self.shift(&[Running, Paused, Rebooting, Stopping], Stopping)?;
        if let Err(error) = self.change(|spec| spec.desired = Desired::Stopped).await {
            self.state.send_replace(before);
            return Err(error);
        }
        self.end_process().await?;
        if self.has_stopped(KILL_LIMIT).await { Ok(()) } else { Err(self.does_not_end()) }
    }

    /// Reboots it: through its agent, else by its reset button. Answers when that has begun.
    pub async fn reboot(self: &Arc<Self>) -> Result<(), QemuError> {
        self.shift(&[GuestState::Running], GuestState::Rebooting)?;
        let guest = self.clone();
        self.shared.spawn(async move {
            let _turn = guest.turn.lock().await;
            let ending = guest.ending();
            tokio::select! {
                // First of all: one that was destroyed meanwhile is not touched any more.
                biased;
                () = ending.cancelled() => {}
                () = guest.start_again() => {}
            }
        });
        Ok(())
    }

    async fn start_again(&self) {
        let by_agent = self.shared.settings.agent_stop();
        if !by_agent.is_zero()
            && self.agent_does(ShutdownMode::Reboot, by_agent, self.has_reset(by_agent)).await == Some(true)
        {
            return;
        }
        let done = match self.qmp() {
            Ok(qmp) => qmp.system_reset().await.map_err(QemuError::from),
            Err(error) => Err(error),
        };
        if done.is_ok() && self.has_reset(RESET_LIMIT).await {
            return;
        }
        // It may have ended meanwhile.
        let reason = Some("it did not reboot when it was asked to");
        let _ = self.shift_because(&[GuestState::Rebooting], GuestState::Running, reason);
    }

    /// Whether the guest is out of its reboot within `limit`, one way or another.
    async fn has_reset(&self, limit: Duration) -> bool {
        let mut seen = self.observe();
        timeout(limit, seen.wait_for(|seen| seen.state != GuestState::Rebooting)).await.is_ok()
    }

    /// Has the agent do it, and waits until `done` says whether that came to be. Nothing where there is no agent.
    async fn agent_does(&self, mode: ShutdownMode, limit: Duration, done: impl Future<Output = bool>) -> Option<bool> {
        let mut agent = self.agent(AGENT_LIMIT.min(limit)).await.ok()?;
        agent.shutdown(mode).await.ok()?;
        tokio::select! {
            done = done => Some(done),
            () = agent.refused() => Some(false),
        }
    }

    /// Destroys it with its disks. It is gone for everybody once that is written down; should this process end
    /// before the rest is done, the next one does it.
    pub(crate) async fn destroy(self: &Arc<Self>, incarnation: &str) -> Result<(), QemuError> {
        self.ending().cancel();
        let _turn = self.turn.lock().await;
        let replaced = self.spec().incarnation != incarnation;
        if replaced {
            // A restore put another one in its place meanwhile, which nobody wants to destroy.
            *held(&self.ending) = CancellationToken::new();
        }
        if replaced || !self.dir.exists() {
            return Err(QemuError::NotFound { what: "guest", id: self.id.clone() });
        }
        if self.spec().phase != Phase::Deleting {
            self.change(|spec| spec.phase = Phase::Deleting).await?;
        }
        self.end_process().await?;
        crate::export::end_offline(self, "the guest was destroyed").await?;
        // What is being written just now belongs to a guest that is there.
        let _writing = self.writing.lock().await;
        let (layout, spec) = (self.shared.layout.clone(), self.spec());
        self.files(move || layout.remove_guest(&spec)).await
    }

    /// Ends QEMU, if it runs: in peace, else by killing it.
    pub(crate) async fn end_process(&self) -> Result<(), QemuError> {
        let known = held(&self.running).as_ref().map(|running| running.process.clone());
        let known = known.filter(|process| !process.has_ended());
        let process = match known {
            Some(process) => Some(process),
            None => self.find_process().await?,
        };
        let Some(process) = process else { return Ok(()) };
        if let Ok(qmp) = self.qmp()
            && qmp.quit().await.is_ok()
            && timeout(QUIT_LIMIT, process.ended()).await.is_ok()
        {
            return Ok(());
        }
        process.kill();
        timeout(KILL_LIMIT, process.ended()).await.map_err(|_| self.does_not_end())
    }

    fn does_not_end(&self) -> QemuError {
        QemuError::Conflict(format!("QEMU of the guest '{}' does not end", self.id))
    }
}
