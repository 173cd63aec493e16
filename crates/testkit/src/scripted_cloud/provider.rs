//! The provider's front door: tokens, limits, and failures on cue.

use super::account::Account;
use super::skewed;
use crate::clock::FakeClock;
use crate::cloud::Failure;
use portolan_driver::{CloudError, CloudErrorKind, Granted, ProviderDetail, kind_of_status, retry_after};
use portolan_model::{Secret, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How the provider says no.
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// No, with this status.
pub(super) fn no<T>(status: u16, code: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { status, code, message: message.into() })
}

/// What tests turn.
pub(super) struct Settings {
    pub(super) page_size: usize,
    pub(super) settle_after: u32,
    pub(super) quota: usize,
    pub(super) call_limit: Option<(u32, Duration)>,
    pub(super) token_life: Duration,
    pub(super) ahead: i64,
    pub(super) failing: Option<(u32, Failure)>,
}

pub(super) struct Provider {
    pub(super) clock: Arc<FakeClock>,
    state: Mutex<State>,
}

struct State {
    settings: Settings,
    accounts: BTreeMap<String, Account>,
    /// Tokens: whose, and until when by the provider's clock.
    tokens: HashMap<String, (String, Timestamp)>,
    logins: u64,
    requests: u64,
    /// When the time of the limit began, and how many requests came in it.
    window: (Timestamp, u32),
}

impl Provider {
    pub(super) fn new(clock: Arc<FakeClock>) -> Self {
        let settings = Settings {
            page_size: 100,
            settle_after: 1,
            quota: 10_000,
            call_limit: None,
            token_life: Duration::from_secs(3600),
            ahead: 0,
            failing: None,
        };
        let state = State {
            settings,
            accounts: BTreeMap::new(),
            tokens: HashMap::new(),
            logins: 0,
            requests: 0,
            window: (Timestamp::MIN, 0),
        };
        Self { clock, state: Mutex::new(state) }
    }

    pub(super) fn set(&self, set: impl FnOnce(&mut Settings)) {
        set(&mut self.lock().settings);
    }

    pub(super) fn change<T>(&self, account: &str, change: impl FnOnce(&mut Account) -> T) -> T {
        change(self.lock().accounts.entry(account.to_owned()).or_default())
    }

    pub(super) fn now(&self) -> Timestamp {
        skewed(&*self.clock, self.lock().settings.ahead)
    }

    pub(super) fn revoke(&self) {
        self.lock().tokens.clear();
    }

    pub(super) fn requests(&self) -> u64 {
        self.lock().requests
    }

    pub(super) fn logins(&self) -> u64 {
        self.lock().logins
    }

    pub(super) fn nodes_of(&self, account: &str) -> usize {
        self.lock().accounts.get(account).map_or(0, Account::node_count)
    }

    /// Gives a token. The provider says until when it is good, and what time it is, both by its own clock.
    pub(super) fn login(&self, account: &str) -> Granted<Secret> {
        let mut state = self.lock();
        state.logins += 1;
        let token = format!("token-{}-of-{account}", state.logins);
        let now = skewed(&*self.clock, state.settings.ahead);
        let until = now + state.settings.token_life;
        state.tokens.insert(token.clone(), (account.to_owned(), until));
        Granted { token: Secret::new(token), valid_for: Some(until.since(now)) }
    }

    /// Answers a request, as the driver's transport hands it on.
    pub(super) async fn request<T>(
        &self,
        token: &Secret,
        work: impl FnOnce(&mut Account, &Settings) -> Result<T, Refusal>,
    ) -> Result<T, CloudError> {
        // A request takes a turn, so that others come between as over a wire.
        tokio::task::yield_now().await;
        let failure = self.arrive();
        if matches!(failure, Some(Failure::Silent)) {
            return std::future::pending().await;
        }
        let done = match &failure {
            Some(failure) if !failure.is_late() => None,
            _ => Some(self.work(token, work)),
        };
        if let Some(failure) = failure {
            return Err(self.seen(&failure));
        }
        let Some(done) = done else { return Err(self.seen(&Failure::Reset)) };
        done.map_err(|refusal| self.refused(&refusal))
    }

    /// Counts the request, and says how it will fail.
    fn arrive(&self) -> Option<Failure> {
        let mut state = self.lock();
        state.requests += 1;
        let (times, failure) = state.settings.failing.take()?;
        if times > 1 {
            state.settings.failing = Some((times - 1, failure.clone()));
        }
        Some(failure)
    }

    fn work<T>(
        &self,
        token: &Secret,
        work: impl FnOnce(&mut Account, &Settings) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut state = self.lock();
        let state = &mut *state;
        let now = skewed(&*self.clock, state.settings.ahead);
        let Some((account, _)) = state.tokens.get(token.reveal()).filter(|(_, until)| now < *until) else {
            return no(401, "TokenExpired", "log in first");
        };
        if let Some((calls, within)) = state.settings.call_limit {
            if now.since(state.window.0) >= within {
                state.window = (now, 0);
            }
            state.window.1 += 1;
            if state.window.1 > calls {
                return no(429, "Throttled", "slow down");
            }
        }
        let account = state.accounts.entry(account.clone()).or_default();
        work(account, &state.settings)
    }

    /// What a driver makes of a failure of transport.
    fn seen(&self, failure: &Failure) -> CloudError {
        let (kind, text) = match failure {
            Failure::Status(status) => {
                return self.status(*status, None, "Scripted", "scripted");
            }
            Failure::RetryAfter(status, header) => {
                return self.status(*status, Some(header), "Scripted", "scripted");
            }
            Failure::Malformed => (CloudErrorKind::Malformed, "the answer is no JSON"),
            Failure::Truncated => (CloudErrorKind::Malformed, "the answer ends too early"),
            Failure::Refused => (CloudErrorKind::Unreachable, "connection refused"),
            Failure::Reset => (CloudErrorKind::Unreachable, "connection reset"),
            Failure::Tls => (CloudErrorKind::Unreachable, "the certificate is of another host"),
            Failure::Silent => (CloudErrorKind::Unreachable, "no answer"),
        };
        CloudError::new(kind, text)
    }

    fn refused(&self, refusal: &Refusal) -> CloudError {
        let pause = if refusal.status == 429 { Some("1") } else { None };
        self.status(refusal.status, pause, refusal.code, &refusal.message)
    }

    fn status(&self, status: u16, header: Option<&str>, code: &str, message: &str) -> CloudError {
        let pause = header.and_then(|header| retry_after(header, self.now()));
        let detail = ProviderDetail {
            status: Some(status),
            code: code.to_owned(),
            request_id: format!("req-{}", self.lock().requests),
        };
        let error = CloudError::new(kind_of_status(status, pause.is_some()), message).said(detail);
        match pause {
            Some(pause) => error.after(pause),
            None => error,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
