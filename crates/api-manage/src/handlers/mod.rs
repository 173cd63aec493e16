//! The handlers: extract, authenticate, one use-case call, map.

pub(crate) mod accounts;
pub(crate) mod backups;
pub(crate) mod destinations;
pub(crate) mod machines;
pub(crate) mod platforms;
pub(crate) mod system;
pub(crate) mod tasks;
pub(crate) mod tenants;
pub(crate) mod tokens;

use crate::Manage;
use crate::error::ApiError;
use crate::wire::List;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use portolan_http::JsonBody;
use portolan_model::{Caller, Role, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// The parameters of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// 1 to 1000; 100 when left out.
    limit: Option<u64>,
    /// How many to pass over.
    offset: Option<u64>,
}

/// The parameter of a removal.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ForceParams {
    /// Forgets what refers to it, too.
    force: Option<bool>,
}

/// No parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParams {}

/// No fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoFields {}

/// The answer of a list.
fn list<T: Serialize>(items: Vec<T>, total: u64) -> Response {
    JsonBody::new(&List { items, total }).into_response()
}

/// The answer of one object.
fn object<T: Serialize>(item: &T) -> Response {
    JsonBody::new(item).into_response()
}

/// The answer of work that has been begun.
fn task_begun(task: portolan::tasks::Task) -> Response {
    (StatusCode::ACCEPTED, object(&crate::wire::task(task))).into_response()
}

/// The answer of something new.
fn created<T: Serialize>(item: &T) -> Response {
    JsonBody::new(item).status(StatusCode::CREATED).into_response()
}

/// The tenant of this name or id.
async fn tenant_of(state: &Manage, caller: &Caller, asked: Option<&str>) -> Result<Option<TenantId>, ApiError> {
    match asked {
        None => Ok(None),
        Some(asked) => Ok(Some(state.portolan.access.tenants.find(caller, asked).await?.id)),
    }
}

/// A role by its name, in any case of letters.
fn role_of(text: &str) -> Result<Role, ApiError> {
    let unknown = || ApiError::invalid("role must be ADMINISTRATOR, OPERATOR or VIEWER");
    text.to_ascii_uppercase().parse().map_err(|_| unknown())
}
