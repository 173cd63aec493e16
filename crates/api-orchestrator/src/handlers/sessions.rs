//! Logging in and out (section 3).

use crate::access::{DIALECT, Given};
use crate::error::ApiError;
use crate::openapi::{ErrorBody, LoginBody};
use crate::surround::Session;
use crate::wire::LoggedIn;
use crate::wire::format::Memory;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use portolan_model::Secret;
use serde_json::Value;

/// Opens a session: the answer's token, and its cookie, open what is not open anyway. `/auth/login` takes it too.
#[utoipa::path(post, path = "/auth", request_body = LoginBody,
    responses((status = 200, description = "The token", body = LoggedIn<'static>),
        (status = 400, description = "The body is no JSON", body = ErrorBody)), tag = "auth")]
pub(crate) async fn login(given: Given) -> Result<Response, ApiError> {
    static MEMORY: Memory = Memory::new();
    let body = given.body.value()?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).ok_or_else(ApiError::forbidden);
    let (username, password) = (text("username")?, Secret::new(text("password")?));
    let sessions = &given.state.portolan.access.sessions;
    let (_, token) = sessions.open(username, &password, DIALECT, given.peer).await?;
    let mut response = given.answer(&LoggedIn::new(token.reveal()), &MEMORY);
    response.extensions_mut().insert(Session::Opened(token));
    Ok(response)
}

/// Ends the session of the cookie, and that of a token that is given.
#[utoipa::path(get, path = "/auth/logout", responses((status = 302, description = "To the root; the session is gone")),
    tag = "auth")]
pub(crate) async fn logout(given: Given) -> Result<Response, ApiError> {
    for token in given.sessions() {
        given.state.portolan.access.sessions.close(token.reveal()).await?;
    }
    let mut response = StatusCode::FOUND.into_response();
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
    response.extensions_mut().insert(Session::Closed);
    Ok(response)
}
