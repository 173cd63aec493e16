//! One login for all callers of a driver, made anew once when it runs out or is revoked.

use crate::cloud::{CloudError, CloudErrorKind};
use async_trait::async_trait;
use portolan_model::{Clock, Timestamp};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a driver logs in.
#[async_trait]
pub trait Login: Send + Sync {
    /// What the provider gives for the credentials. Mind that it prints as `***` (`portolan_model::Secret`).
    type Token: Send + Sync + 'static;

    /// Presents the credentials. `Auth` when they are refused.
    async fn login(&self) -> Result<Granted<Self::Token>, CloudError>;
}

/// A token, and for how long it is good.
pub struct Granted<T> {
    /// The token.
    pub token: T,
    /// How long it is good from when it was asked for, by the provider's own clock: its time of expiry less its time
    /// of issue (or the answer's `Date`), so that a clock that is wrong here does no harm. Nothing, or no time at
    /// all, when that is unknown: the token is used until it is refused.
    pub valid_for: Option<Duration>,
}

/// The one login that all callers of a driver share (`docs/drivers/writing.md`, 6).
///
/// A token is made anew before it runs out, and when the provider refuses it: once, whoever many callers found it
/// refused, and each of them repeats its call once. A login that fails is the answer of everybody who waited for it.
pub struct Relogin<L: Login> {
    login: L,
    clock: Arc<dyn Clock>,
    margin: Duration,
    /// Held while logging in.
    gate: tokio::sync::Mutex<()>,
    state: Mutex<State<L::Token>>,
}

struct State<T> {
    current: Option<Current<T>>,
    /// Logins that ended, well or not.
    ended: u64,
    /// The failure of the last login; nothing when it went well.
    failure: Option<CloudError>,
}

struct Current<T> {
    token: Arc<T>,
    /// The number of the login that gave it.
    number: u64,
    until: Option<Timestamp>,
}

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Self { token: self.token.clone(), number: self.number, until: self.until }
    }
}

impl<L: Login> Relogin<L> {
    /// How long before its end a token is not used any more.
    pub const MARGIN: Duration = Duration::from_secs(60);

    /// Logs in at the first call. Tokens are made anew [`Relogin::MARGIN`] before their end.
    pub fn new(login: L, clock: Arc<dyn Clock>) -> Self {
        Self {
            login,
            clock,
            margin: Self::MARGIN,
            gate: tokio::sync::Mutex::new(()),
            state: Mutex::new(State { current: None, ended: 0, failure: None }),
        }
    }

    /// The same with another margin. A token that is good for less than twice of it is used for half its time.
    #[must_use]
    pub fn with_margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }

    /// How the driver logs in.
    pub fn login(&self) -> &L {
        &self.login
    }

    /// Makes a call with the token. When the provider refuses it (`Auth`), logs in anew, unless somebody else did so
    /// meanwhile, and makes the call once more; a second refusal is the answer.
    pub async fn call<R, F, Fut>(&self, call: F) -> Result<R, CloudError>
    where
        F: Fn(Arc<L::Token>) -> Fut + Send,
        Fut: Future<Output = Result<R, CloudError>> + Send,
    {
        let used = self.token(None).await?;
        match call(used.token).await {
            Err(e) if e.kind == CloudErrorKind::Auth => {
                let fresh = self.token(Some(used.number)).await?;
                call(fresh.token).await
            }
            answer => answer,
        }
    }

    /// The token that is good now, other than that of the login `refused`.
    async fn token(&self, refused: Option<u64>) -> Result<Current<L::Token>, CloudError> {
        let came = {
            let state = self.lock();
            if let Some(current) = self.good(&state, refused) {
                return Ok(current);
            }
            state.ended
        };
        let _turn = self.gate.lock().await;
        {
            let state = self.lock();
            if let Some(current) = self.good(&state, refused) {
                return Ok(current);
            }
            // Somebody tried while this caller waited: trying again would only lock the account.
            if let (true, Some(failure)) = (state.ended > came, &state.failure) {
                return Err(failure.clone());
            }
        }
        let asked = self.clock.now();
        let answer = self.login.login().await;
        let mut state = self.lock();
        state.ended += 1;
        match answer {
            Ok(granted) => {
                let until = granted.valid_for.filter(|life| !life.is_zero());
                let until = until.map(|life| asked + (life - self.margin.min(life / 2)));
                let current = Current { token: Arc::new(granted.token), number: state.ended, until };
                state.failure = None;
                state.current = Some(current.clone());
                Ok(current)
            }
            Err(failure) => {
                state.failure = Some(failure.clone());
                Err(failure)
            }
        }
    }

    fn good(&self, state: &State<L::Token>, refused: Option<u64>) -> Option<Current<L::Token>> {
        let current = state.current.as_ref()?;
        let refused = refused.is_some_and(|number| current.number <= number);
        let over = current.until.is_some_and(|until| self.clock.now() >= until);
        (!refused && !over).then(|| current.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State<L::Token>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
