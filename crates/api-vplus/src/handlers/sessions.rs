//! Login, logout, and who is logged in (section 1).

use crate::Vplus;
use crate::error::ApiError;
use crate::input::Body;
use crate::session::{Authenticated, DIALECT, cookie};
use crate::wire::session::{SessionInfo, session_info};
use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use portolan_http::{JsonBody, Peer};
use portolan_model::Secret;

/// Opens a session.
#[utoipa::path(post, path = "/session/login", request_body = crate::openapi::LoginRequest,
    responses((status = 200, description = "The user; the cookie opens all else", body = SessionInfo),
        (status = 401, description = "Wrong credentials", body = crate::openapi::ErrorBody),
        (status = 429, description = "Too many failures", body = crate::openapi::ErrorBody)), tag = "session")]
pub(crate) async fn login(
    State(state): State<Vplus>,
    peer: Option<Extension<Peer>>,
    body: Body,
) -> Result<Response, ApiError> {
    let fields = body.object()?;
    let (Some(login), Some(password)) = (fields.text("login")?, fields.text("password")?) else {
        return Err(ApiError::invalid("login and password are needed"));
    };
    let peer = peer.map(|p| p.0.address.ip());
    let sessions = &state.portolan.access.sessions;
    let opened = sessions.open(login, &Secret::new(password), DIALECT, peer).await;
    let (_, token) = opened.map_err(|e| match e {
        portolan::access::AccessError::Unauthenticated => {
            ApiError::new(StatusCode::UNAUTHORIZED, "WRONG_CREDENTIALS", "wrong login or password")
        }
        other => other.into(),
    })?;
    let caller = sessions.authenticate(token.reveal(), DIALECT).await?;
    let account = state.portolan.account_of(&caller).await?;
    let mut response = JsonBody::new(&session_info(&account, &caller)).into_response();
    if let Some(value) = cookie(&state, Some(&token)) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    Ok(response)
}

/// Checks the session.
#[utoipa::path(get, path = "/session", responses((status = 204, description = "Valid"),
    (status = 401, description = "No valid session", body = crate::openapi::ErrorBody)), tag = "session")]
pub(crate) async fn check(_: Authenticated) -> StatusCode {
    StatusCode::NO_CONTENT
}

/// The user of the session.
#[utoipa::path(get, path = "/session/user", responses((status = 200, body = SessionInfo),
    (status = 401, description = "No valid session", body = crate::openapi::ErrorBody)), tag = "session")]
pub(crate) async fn user(State(state): State<Vplus>, auth: Authenticated) -> Result<Response, ApiError> {
    let account = state.portolan.account_of(&auth.caller).await?;
    Ok(JsonBody::new(&session_info(&account, &auth.caller)).into_response())
}

/// The user of the session, under another name.
#[utoipa::path(get, path = "/user-info", responses((status = 200, body = SessionInfo)), tag = "session")]
pub(crate) async fn user_info(state: State<Vplus>, auth: Authenticated) -> Result<Response, ApiError> {
    user(state, auth).await
}

/// Ends the session.
#[utoipa::path(post, path = "/session/logout", responses((status = 204, description = "The session is gone"),
    (status = 401, description = "No valid session", body = crate::openapi::ErrorBody)), tag = "session")]
pub(crate) async fn logout(State(state): State<Vplus>, auth: Authenticated) -> Result<Response, ApiError> {
    if let Some(token) = &auth.token {
        state.portolan.access.sessions.close(token.reveal()).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Some(value) = cookie(&state, None) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    Ok(response)
}
