//! Failures on cue, for tests: around any driver.

use crate::cloud::{Attempt, CloudCall, CloudDriver, CloudError, CloudErrorKind, Layer};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A driver that fails, hangs and loses answers as a test scripts it, and counts its calls. For tests only.
///
/// `nth` counts calls from the moment that the fault was scripted: 1 is the next one. A call may be given as `None`
/// for every call, so that a test can let the first, the second, the third call of an operation fail in turn.
pub struct Faults {
    inner: Arc<dyn CloudDriver>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    log: Vec<CloudCall>,
}

struct Rule {
    call: Option<CloudCall>,
    /// Calls to let pass.
    skip: u32,
    /// Calls to disturb, then.
    times: u32,
    fault: Fault,
}

#[derive(Clone)]
enum Fault {
    Before(CloudError),
    After(CloudError),
    HoldBefore(Arc<Gate>),
    HoldAfter(Arc<Gate>),
}

struct Gate {
    arrived: watch::Sender<u64>,
    open: watch::Sender<bool>,
}

/// Calls that wait while this value lives; dropping it lets them go on.
pub struct HeldCalls(Arc<Gate>);

impl HeldCalls {
    /// Waits until at least `n` calls wait here, or have waited.
    pub async fn arrived(&self, n: u64) {
        let mut seen = self.0.arrived.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = seen.wait_for(|count| *count >= n).await;
    }

    /// Lets the waiting calls go on.
    pub fn release(self) {}
}

impl Drop for HeldCalls {
    fn drop(&mut self) {
        self.0.open.send_replace(true);
    }
}

impl Gate {
    async fn pass(&self) {
        let mut open = self.open.subscribe();
        self.arrived.send_modify(|count| *count += 1);
        let _ = open.wait_for(|open| *open).await;
    }
}

impl Faults {
    /// Around `inner`, with no fault scripted yet.
    pub fn new(inner: Arc<dyn CloudDriver>) -> Arc<Self> {
        Arc::new(Self { inner, state: Mutex::default() })
    }

    /// The nth call fails before it goes out.
    pub fn fail_before(&self, call: impl Into<Option<CloudCall>>, nth: u32, error: CloudError) {
        self.script(call.into(), nth, 1, Fault::Before(error));
    }

    /// The nth call goes through, but its answer is lost.
    pub fn fail_after(&self, call: impl Into<Option<CloudCall>>, nth: u32, error: CloudError) {
        self.script(call.into(), nth, 1, Fault::After(error));
    }

    /// The nth call goes through, but its answer is nonsense.
    pub fn malformed(&self, call: impl Into<Option<CloudCall>>, nth: u32) {
        self.fail_after(call, nth, CloudError::new(CloudErrorKind::Malformed, "scripted nonsense"));
    }

    /// Every such call from now on fails before it goes out.
    pub fn fail_always(&self, call: impl Into<Option<CloudCall>>, error: CloudError) {
        self.script(call.into(), 1, u32::MAX, Fault::Before(error));
    }

    /// The nth call waits before it goes out: a delay when it is let go, a driver that hangs when it is not.
    pub fn hold_before(&self, call: impl Into<Option<CloudCall>>, nth: u32) -> HeldCalls {
        self.hold(call.into(), nth, Fault::HoldBefore)
    }

    /// The nth call goes through, and its answer waits.
    pub fn hold_after(&self, call: impl Into<Option<CloudCall>>, nth: u32) -> HeldCalls {
        self.hold(call.into(), nth, Fault::HoldAfter)
    }

    /// Forgets every fault that is scripted; calls that wait go on waiting.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// How often this was called by now, also where it failed.
    pub fn calls(&self, call: CloudCall) -> usize {
        self.lock().log.iter().filter(|logged| **logged == call).count()
    }

    /// Every call by now, in order.
    pub fn log(&self) -> Vec<CloudCall> {
        self.lock().log.clone()
    }

    fn hold(&self, call: Option<CloudCall>, nth: u32, fault: impl FnOnce(Arc<Gate>) -> Fault) -> HeldCalls {
        let gate = Arc::new(Gate { arrived: watch::Sender::new(0), open: watch::Sender::new(false) });
        self.script(call, nth, 1, fault(gate.clone()));
        HeldCalls(gate)
    }

    fn script(&self, call: Option<CloudCall>, nth: u32, times: u32, fault: Fault) {
        self.lock().rules.push(Rule { call, skip: nth.saturating_sub(1), times, fault });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call, and says what is to happen to it.
    fn arrive(&self, call: CloudCall) -> Vec<Fault> {
        let mut state = self.lock();
        state.log.push(call);
        let mut due = Vec::new();
        for rule in state.rules.iter_mut().filter(|rule| rule.call.is_none_or(|c| c == call)) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else {
                rule.times -= 1;
                due.push(rule.fault.clone());
            }
        }
        state.rules.retain(|rule| rule.times > 0);
        due
    }
}

impl Layer for Faults {
    fn inner(&self) -> &dyn CloudDriver {
        &*self.inner
    }

    async fn around<'a, T, F>(&'a self, call: CloudCall, attempt: F) -> Result<T, CloudError>
    where
        T: Send + 'a,
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    {
        let due = self.arrive(call);
        for fault in &due {
            match fault {
                Fault::HoldBefore(gate) => gate.pass().await,
                Fault::Before(error) => return Err(error.clone()),
                Fault::After(_) | Fault::HoldAfter(_) => {}
            }
        }
        let mut answer = attempt().await;
        for fault in &due {
            match fault {
                Fault::HoldAfter(gate) => gate.pass().await,
                Fault::After(error) => answer = Err(error.clone()),
                Fault::Before(_) | Fault::HoldBefore(_) => {}
            }
        }
        answer
    }
}
