//! Power: each action answers when it is done, and says so when it was not.

use crate::QemuError;
use crate::guest::{Guest, GuestState};
use crate::settings::LONGEST_WAIT;
use crate::spec::Desired;
use portolan_driver::PowerAction;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a guest may take to be started or to be reset.
const SETTLE_LIMIT: Duration = Duration::from_secs(180);

impl Guest {
    /// Does it to its end, also when the caller gives up.
    pub(crate) async fn power(self: &Arc<Self>, action: PowerAction) -> Result<(), QemuError> {
        let guest = self.clone();
        self.shared.detached(async move { guest.power_now(action).await }).await
    }

    async fn power_now(self: &Arc<Self>, action: PowerAction) -> Result<(), QemuError> {
        use GuestState::{Failed, Paused, Rebooting, Running, Starting, Stopped, Stopping};
        let state = self.observed().state;
        match action {
            PowerAction::Start => {
                if state == Stopping {
                    // What was begun is waited for; then it is started again.
                    self.comes_out_of(&[Stopping]).await?;
                }
                if matches!(self.observed().state, Stopped | Failed) {
                    self.start().await?;
                }
                self.runs().await
            }
            PowerAction::Shutdown { within } => match state {
                Stopped | Failed => Ok(()),
                _ => self.shut_down_within(within).await,
            },
            PowerAction::Off => match state {
                Stopped | Failed => Ok(()),
                Starting => {
                    self.comes_out_of(&[Starting]).await?;
                    self.power_off_unless_off().await
                }
                _ => self.power_off_unless_off().await,
            },
            PowerAction::Reboot => {
                self.reboot().await?;
                self.comes_out_of(&[Rebooting]).await?;
                let seen = self.observed();
                match (seen.state, seen.reason) {
                    (Running, Some(reason)) => Err(QemuError::Conflict(reason)),
                    (Running | Paused, _) => Ok(()),
                    (_, reason) => Err(self.is_off(reason)),
                }
            }
            PowerAction::Reset => Ok(self.qmp()?.system_reset().await?),
        }
    }

    async fn power_off_unless_off(self: &Arc<Self>) -> Result<(), QemuError> {
        match self.power_off().await {
            Err(_) if self.observed().state == GuestState::Stopped => Ok(()),
            done => done,
        }
    }

    /// Waits until it runs; why it does not, when it stopped instead.
    pub(crate) async fn runs(&self) -> Result<(), QemuError> {
        self.comes_out_of(&[GuestState::Pending, GuestState::Starting, GuestState::Rebooting]).await?;
        let seen = self.observed();
        match seen.state {
            GuestState::Running | GuestState::Paused => Ok(()),
            _ => Err(self.is_off(seen.reason)),
        }
    }

    fn is_off(&self, reason: Option<String>) -> QemuError {
        QemuError::Conflict(format!("the guest '{}' is off: {}", self.id(), reason.unwrap_or_default()))
    }

    pub(crate) async fn comes_out_of(&self, states: &[GuestState]) -> Result<(), QemuError> {
        let mut seen = self.observe();
        let waiting = timeout(SETTLE_LIMIT, seen.wait_for(|seen| !states.contains(&seen.state)));
        match waiting.await {
            Ok(_) => Ok(()),
            Err(_) => Err(QemuError::Conflict(format!("the guest '{}' does not settle", self.id()))),
        }
    }

    /// Asks the agent, and then the power button; unlike [`Guest::stop`] never pulls the plug, and waits for it.
    async fn shut_down_within(self: &Arc<Self>, within: Duration) -> Result<(), QemuError> {
        use GuestState::{Paused, Running, Stopping};
        let within = within.min(LONGEST_WAIT);
        let before = self.shift(&[Running, Paused], Stopping)?;
        if let Err(error) = self.change(|spec| spec.desired = Desired::Stopped).await {
            let _ = self.shift_because(&[Stopping], before.state, before.reason.as_deref());
            return Err(error);
        }
        let _turn = self.turn.lock().await;
        let ending = self.ending();
        let done = tokio::select! {
            // First of all: one that was destroyed meanwhile is not touched any more.
            biased;
            () = ending.cancelled() => true,
            done = self.heeds(within.mul_f64(0.7), within.mul_f64(0.3), before.state == Paused) => done,
        };
        if done {
            return Ok(());
        }
        // It may have ended meanwhile.
        let reason = "it did not shut down when it was asked to";
        match self.shift_because(&[Stopping], Running, Some(reason)) {
            Ok(_) => Err(QemuError::Conflict(format!("the guest '{}' runs on: {reason}", self.id()))),
            Err(_) => Ok(()),
        }
    }
}
