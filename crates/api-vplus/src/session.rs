//! Who asks: the session cookie, or an API token (section 1).

use crate::error::ApiError;
use crate::{Vplus, VplusOptions};
use async_trait::async_trait;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use portolan::Portolan;
use portolan::access::AccessError;
use portolan_http::OriginVerdict;
use portolan_http::auth::{CookieOptions, Credentials, SameSite, cookies, credentials, set_cookie};
use portolan_http::idempotency::{Identify, PortError, sender_of};
use portolan_model::{Caller, RequestKey, Secret};
use std::sync::Arc;

/// The cookie's name. No client cares which it is; cookies do not tell ports apart, so it is this dialect's own.
pub const COOKIE: &str = "JSESSIONID";
/// What sessions of this dialect are filed under.
pub(crate) const DIALECT: &str = "vplus";

/// A request with a valid session or API token.
pub(crate) struct Authenticated {
    /// Who asks.
    pub(crate) caller: Caller,
    /// The session's token, to log out with; nothing where an API token asks.
    pub(crate) token: Option<Secret>,
}

impl FromRequestParts<Vplus> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Vplus) -> Result<Self, ApiError> {
        // The cookie travels cross-site: a page that is not configured may not make a user's browser write.
        if is_foreign_write(parts, state) {
            return Err(ApiError::new(StatusCode::FORBIDDEN, "ORIGIN_NOT_ALLOWED", "this origin may not call"));
        }
        let mut found = authenticate(parts, state).await?.ok_or_else(ApiError::unauthorized)?;
        found.caller.request = parts.extensions.get::<RequestKey>().copied();
        Ok(found)
    }
}

fn is_foreign_write(parts: &Parts, state: &Vplus) -> bool {
    !matches!(parts.method, Method::GET | Method::HEAD)
        && state.options.cors.verdict(&parts.headers) == OriginVerdict::Foreign
}

/// The API token, else the session of the first cookie that has one. A request that names a token has said who asks:
/// one that proves nobody is not helped by a cookie.
async fn authenticate(parts: &Parts, state: &Vplus) -> Result<Option<Authenticated>, AccessError> {
    let access = &state.portolan.access;
    if let Ok(Credentials::Bearer(token)) = credentials(&parts.headers) {
        let caller = known(access.tokens.authenticate(token.reveal()).await)?;
        return Ok(caller.map(|caller| Authenticated { caller, token: None }));
    }
    for token in cookies(&parts.headers, COOKIE) {
        let token = Secret::new(token);
        if let Some(caller) = known(access.sessions.authenticate(token.reveal(), DIALECT).await)? {
            return Ok(Some(Authenticated { caller, token: Some(token) }));
        }
    }
    Ok(None)
}

/// Nothing for credentials that prove nobody.
fn known(found: Result<Caller, AccessError>) -> Result<Option<Caller>, AccessError> {
    match found {
        Ok(caller) => Ok(Some(caller)),
        Err(AccessError::Unauthenticated) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Tells who sends a request with an `Idempotency-Key`: the account of its session or token (section 2.7).
pub fn senders(portolan: Arc<Portolan>, options: VplusOptions) -> Arc<dyn Identify> {
    Arc::new(Senders(Vplus { portolan, options }))
}

struct Senders(Vplus);

#[async_trait]
impl Identify for Senders {
    async fn sender(&self, parts: &mut Parts) -> Result<Option<String>, PortError> {
        // Whoever logs in is nobody yet, and wants a session that lives; foreign pages are refused by the handlers.
        let logs_in = parts.uri.path().trim_end_matches('/') == "/api/session/login";
        if logs_in || is_foreign_write(parts, &self.0) {
            return Ok(None);
        }
        Ok(authenticate(parts, &self.0).await?.and_then(|found| sender_of(&found.caller)))
    }
}

/// The `Set-Cookie` of a login, or with no token that of a logout.
pub(crate) fn cookie(state: &Vplus, token: Option<&Secret>) -> Option<HeaderValue> {
    let same_site = Some(if state.options.secure { SameSite::None } else { SameSite::Lax });
    let max_age = token.is_none().then_some(std::time::Duration::ZERO);
    let options = CookieOptions { path: "/", secure: state.options.secure, same_site, max_age };
    set_cookie(COOKIE, token.map(Secret::reveal).unwrap_or_default(), options)
}
