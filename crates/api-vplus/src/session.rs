//! The session cookie (section 1).

use crate::Vplus;
use crate::error::ApiError;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use portolan_http::OriginVerdict;
use portolan_http::auth::{CookieOptions, SameSite, cookies, set_cookie};
use portolan_model::{Caller, Secret};

/// The cookie's name. No client cares which it is; cookies do not tell ports apart, so it is this dialect's own.
pub const COOKIE: &str = "JSESSIONID";
/// What sessions of this dialect are filed under.
pub(crate) const DIALECT: &str = "vplus";

/// A request with a valid session.
pub(crate) struct Authenticated {
    /// Who asks.
    pub(crate) caller: Caller,
    /// The session's token, to log out with.
    pub(crate) token: Secret,
}

impl FromRequestParts<Vplus> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Vplus) -> Result<Self, ApiError> {
        // The cookie travels cross-site: a page that is not configured may not make a user's browser write.
        if !matches!(parts.method, Method::GET | Method::HEAD)
            && state.options.cors.verdict(&parts.headers) == OriginVerdict::Foreign
        {
            return Err(ApiError::new(StatusCode::FORBIDDEN, "ORIGIN_NOT_ALLOWED", "this origin may not call"));
        }
        for token in cookies(&parts.headers, COOKIE) {
            let token = Secret::new(token);
            match state.portolan.access.sessions.authenticate(token.reveal(), DIALECT).await {
                Ok(caller) => return Ok(Self { caller, token }),
                Err(portolan::access::AccessError::Unauthenticated) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(ApiError::unauthorized())
    }
}

/// The `Set-Cookie` of a login, or with no token that of a logout.
pub(crate) fn cookie(state: &Vplus, token: Option<&Secret>) -> Option<HeaderValue> {
    let same_site = Some(if state.options.secure { SameSite::None } else { SameSite::Lax });
    let max_age = token.is_none().then_some(std::time::Duration::ZERO);
    let options = CookieOptions { path: "/", secure: state.options.secure, same_site, max_age };
    set_cookie(COOKIE, token.map(Secret::reveal).unwrap_or_default(), options)
}
