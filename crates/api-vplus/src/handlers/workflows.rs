//! Workflow executions: chains of tasks (section 6.6).

use super::{list as list_answer, names, narrowed};
use crate::Vplus;
use crate::error::ApiError;
use crate::input::{PathText, path_id};
use crate::query::Params;
use crate::session::Authenticated;
use crate::wire::workflow::{Workflow, workflow};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use portolan::ChainView;
use portolan::tasks::TaskQuery;
use portolan_http::SizeHint;
use portolan_model::query::Sort;

static LIST: SizeHint = SizeHint::new();

/// The order is over the first tasks of the chains: what changes from link to link has none.
const ORDER: &[(&str, &str)] = &[
    ("type", "kind"),
    ("definitionName", "kind"),
    ("instance", "vm_name"),
    ("protectedEntity.name", "vm_name"),
    ("priority", "priority"),
    ("startTime", "started"),
];

/// Chains, newest first.
#[utoipa::path(get, path = "/workflow-executions", params(crate::openapi::ListParams, crate::openapi::TenantParam),
    responses((status = 200, body = [Workflow], headers(("X-Total-Count" = u64, description = "How many in all")))),
    tag = "tasks")]
pub(crate) async fn list(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let Some(caller) = narrowed(&state, auth.caller, &params).await? else {
        return Ok(list_answer::<Workflow>(&[], Some(0), &LIST));
    };
    let sort = params.sort(ORDER, Sort::newest());
    let query = TaskQuery { filter: params.text(), sort, page: params.page()?, count: true };
    let (chains, total) = state.portolan.chains(&caller, query).await?;
    let names = names(&state, &caller, chains.iter().flat_map(ChainView::tasks)).await?;
    let items: Vec<Workflow> = chains.iter().map(|c| workflow(c, &names)).collect();
    Ok(list_answer(&items, total, &LIST))
}

/// Forgets the ended tasks of a chain.
#[utoipa::path(delete, path = "/workflow-executions/{guid}", params(("guid" = uuid::Uuid, Path)),
    responses((status = 204, description = "As asked")), tag = "tasks")]
pub(crate) async fn remove(
    State(state): State<Vplus>,
    auth: Authenticated,
    PathText(guid): PathText,
) -> Result<StatusCode, ApiError> {
    state.portolan.forget_chain(&auth.caller, path_id(&guid, "workflow execution")?).await?;
    Ok(StatusCode::NO_CONTENT)
}
