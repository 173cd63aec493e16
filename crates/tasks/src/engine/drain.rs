//! Keeping an engine from taking on more.

use std::sync::Arc;
use tokio::sync::watch;

/// Makes one engine drain: it claims nothing more, runs what it has to its end, and goes on when it is switched back.
/// The switch belongs to the engine in this process alone: nothing of it is stored, and a process that starts again
/// claims.
#[derive(Debug)]
pub struct DrainSwitch {
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    draining: bool,
    /// Claims that have been sent and not yet answered: each may bring tasks.
    claiming: usize,
    running: usize,
}

impl Default for DrainSwitch {
    fn default() -> Self {
        Self { state: watch::channel(State::default()).0 }
    }
}

impl DrainSwitch {
    /// Claims nothing from here on. A claim that is on its way may still bring tasks; [`DrainSwitch::idle`] knows.
    pub fn start(&self) {
        self.state.send_modify(|state| state.draining = true);
    }

    /// Claims again.
    pub fn end(&self) {
        self.state.send_modify(|state| state.draining = false);
    }

    /// Whether nothing is claimed.
    pub fn is_draining(&self) -> bool {
        self.state.borrow().draining
    }

    /// How many tasks run in this engine.
    pub fn running(&self) -> usize {
        self.state.borrow().running
    }

    /// Waits until nothing runs in this engine and no claim is on its way. While it drains, that stays so.
    pub async fn idle(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.state.subscribe().wait_for(|state| state.claiming == 0 && state.running == 0).await;
    }

    /// Waits until it does not drain.
    pub(super) async fn open(&self) {
        let _ = self.state.subscribe().wait_for(|state| !state.draining).await;
    }

    /// Begins a claim; nothing while it drains.
    pub(super) fn claiming(&self) -> Option<Claiming<'_>> {
        let begun = self.state.send_if_modified(|state| {
            state.claiming += usize::from(!state.draining);
            !state.draining
        });
        begun.then_some(Claiming(self))
    }
}

/// A claim on its way.
pub(super) struct Claiming<'a>(&'a DrainSwitch);

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.claiming = state.claiming.saturating_sub(1));
    }
}

/// A task that runs, until this is dropped.
pub(super) struct Running(Arc<DrainSwitch>);

impl Running {
    pub(super) fn new(switch: &Arc<DrainSwitch>) -> Self {
        switch.state.send_modify(|state| state.running += 1);
        Self(switch.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.running = state.running.saturating_sub(1));
    }
}
