//! The whole.

use super::{NoParams, object};
use crate::Manage;
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::input::Params;
use crate::wire::{self, Status};
use axum::extract::State;
use axum::response::Response;

/// How everything is.
#[utoipa::path(get, path = "/status", responses((status = 200, body = Status)), tag = "system")]
pub(crate) async fn status(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let overview = state.portolan.overview(&auth.caller).await?;
    Ok(object(&wire::status(&state.options, overview, &auth.caller, state.portolan.now())))
}
