//! What can go wrong in a cloud.

use crate::DriverError;
use std::fmt;
use std::time::Duration;

/// What kind of failure it was: what a caller decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloudErrorKind {
    /// The provider refused the credentials, also after they were presented anew.
    Auth,
    /// The credentials are good and may not do this.
    Denied,
    /// There is no such thing.
    NotFound,
    /// The thing is there already, is in use, or is in no state for this.
    Conflict,
    /// A quota is used up.
    Quota,
    /// Too many calls; [`CloudError::retry_after`] says when to come back, where the provider did.
    RateLimited,
    /// The driver or the provider cannot do this at all.
    Unsupported,
    /// The provider answered with nonsense, or broke its answer off.
    Malformed,
    /// The provider did not answer, or said that it cannot just now.
    Unreachable,
    /// The request makes no sense to the provider.
    Invalid,
}

impl CloudErrorKind {
    /// Whether the same call may succeed later without anybody changing anything.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unreachable)
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Auth => "the provider refused the credentials",
            Self::Denied => "the credentials may not do this",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::Quota => "a quota is used up",
            Self::RateLimited => "too many calls",
            Self::Unsupported => "unsupported",
            Self::Malformed => "malformed answer",
            Self::Unreachable => "the provider does not answer",
            Self::Invalid => "the provider refused the request",
        }
    }
}

/// What the provider said with a failure, for support and for logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProviderDetail {
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
    /// The provider's own code; empty for none.
    pub code: String,
    /// The provider's id of the request; empty for none.
    pub request_id: String,
}

/// Why a cloud could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct CloudError {
    /// What kind of failure.
    pub kind: CloudErrorKind,
    /// What happened, for people: the thing that was not found, the provider's own sentence. Never a secret.
    pub message: String,
    /// What the provider said with it.
    pub provider: ProviderDetail,
    /// When to come back, where the provider said so.
    pub retry_after: Option<Duration>,
}

impl CloudError {
    /// A failure that no provider said anything about.
    pub fn new(kind: CloudErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), provider: ProviderDetail::default(), retry_after: None }
    }

    /// There is no such thing.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(CloudErrorKind::NotFound, format!("there is no {what} '{id}'"))
    }

    /// The driver cannot do this.
    pub fn unsupported(what: &str) -> Self {
        Self::new(CloudErrorKind::Unsupported, what)
    }

    /// The same with what the provider said.
    #[must_use]
    pub fn said(mut self, provider: ProviderDetail) -> Self {
        self.provider = provider;
        self
    }

    /// The same with when to come back.
    #[must_use]
    pub fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }

    /// Whether the provider may have done what it was asked all the same: the answer was lost or unreadable. Look
    /// before you ask again.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self.kind, CloudErrorKind::Unreachable | CloudErrorKind::Malformed)
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.words())?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        let ProviderDetail { status, code, request_id } = &self.provider;
        let status = status.map(|s| s.to_string()).unwrap_or_default();
        let parts = [("status", status.as_str()), ("code", code), ("request", request_id)];
        let said: Vec<String> =
            parts.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k} {v}")).collect();
        if said.is_empty() { Ok(()) } else { write!(f, " ({})", said.join(", ")) }
    }
}

impl From<CloudError> for DriverError {
    fn from(e: CloudError) -> Self {
        let text = e.to_string();
        match e.kind {
            CloudErrorKind::Auth | CloudErrorKind::Denied => Self::Auth,
            CloudErrorKind::NotFound => Self::NotFound { what: "thing", id: e.message },
            CloudErrorKind::Conflict | CloudErrorKind::Quota | CloudErrorKind::Invalid => Self::Conflict(text),
            CloudErrorKind::Unsupported => Self::Unsupported(e.message),
            CloudErrorKind::Malformed => Self::Malformed(e.message),
            CloudErrorKind::RateLimited | CloudErrorKind::Unreachable => {
                Self::Unreachable { reason: text, retry_after: e.retry_after }
            }
        }
    }
}
