//! The whole, and who did what.

use super::{NoParams, object};
use crate::Manage;
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::input::{Params, instant, items, page};
use crate::wire::{self, AuditPage, Status};
use axum::extract::State;
use axum::response::Response;
use portolan::storage::EventQuery;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

/// Events have no more names than this in one question.
const MAX_NAMES: usize = 50;

/// Which events.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditParams {
    /// Names, with commas between them; `account.` stands for all that begin so.
    names: Option<String>,
    /// Who did it, by login; empty for Portolan itself.
    actor: Option<String>,
    /// The object that they are about.
    subject: Option<Uuid>,
    /// Not before, in RFC 3339.
    from: Option<String>,
    /// Before, in RFC 3339.
    until: Option<String>,
    /// Of numbers below this one: `next` of a page leads on.
    before: Option<i64>,
    /// 1 to 1000; 100 when left out.
    limit: Option<u64>,
}

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

/// Who did what, newest first.
#[utoipa::path(get, path = "/audit", params(AuditParams), responses((status = 200, body = AuditPage)), tag = "system")]
pub(crate) async fn audit(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(params): Params<AuditParams>,
) -> Result<Response, ApiError> {
    let names: Vec<String> = items(params.names.as_deref()).map(str::to_owned).collect();
    if names.len() > MAX_NAMES {
        return Err(ApiError::invalid(format!("names are {MAX_NAMES} at the most")));
    }
    let limit = page(params.limit, None)?.limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(u32::MAX);
    let query = EventQuery {
        names,
        actor: params.actor,
        subject: params.subject,
        from: instant("from", params.from.as_deref())?,
        until: instant("until", params.until.as_deref())?,
        before: params.before,
        limit,
    };
    let events = state.portolan.audit(&auth.caller, query).await?;
    Ok(object(&wire::audit(events, limit)))
}
