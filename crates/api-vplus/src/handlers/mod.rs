//! The handlers: extract, authenticate, one use-case call, map.

pub(crate) mod backups;
pub(crate) mod dashboard;
pub(crate) mod destinations;
pub(crate) mod empty;
pub(crate) mod files;
pub(crate) mod inventory;
pub(crate) mod machines;
pub(crate) mod restores;
pub(crate) mod sessions;
pub(crate) mod tasks;
pub(crate) mod workflows;

use crate::Vplus;
use crate::error::ApiError;
use crate::names::{Names, Refers};
use crate::query::Params;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use portolan_http::{JsonBody, SizeHint};
use portolan_model::Caller;
use portolan_model::query::Page;
use serde::Serialize;

/// The answer of a list: the items, and how many there are in all (section 2.4).
pub(crate) fn list<T: Serialize>(items: &[T], total: Option<u64>, hint: &SizeHint) -> Response {
    let total = total.unwrap_or(items.len() as u64);
    let mut response = JsonBody::new(items).sized(hint).into_response();
    response.headers_mut().insert("x-total-count", HeaderValue::from(total));
    response
}

/// The answer of one object.
pub(crate) fn object<T: Serialize>(item: &T) -> Response {
    JsonBody::new(item).into_response()
}

/// The caller as narrowed by the request's tenant filter; nothing where no object can match.
pub(crate) async fn narrowed(state: &Vplus, caller: Caller, params: &Params) -> Result<Option<Caller>, ApiError> {
    match params.tenant() {
        None => Ok(Some(caller)),
        Some(tenant) => Ok(state.portolan.narrow(caller, tenant).await?),
    }
}

/// The part of a list that was gathered as a whole which the parameters ask for, and how many there are in all.
pub(crate) fn part<T>(items: Vec<T>, page: Page) -> (Vec<T>, Option<u64>) {
    let total = items.len() as u64;
    let skip = usize::try_from(page.offset).unwrap_or(usize::MAX);
    let take = page.limit.map_or(usize::MAX, |l| usize::try_from(l).unwrap_or(usize::MAX));
    (items.into_iter().skip(skip).take(take).collect(), Some(total))
}

/// Names for the ids in an answer about these objects.
pub(crate) async fn names<'a, T: Refers + 'a>(
    state: &Vplus,
    caller: &Caller,
    items: impl IntoIterator<Item = &'a T>,
) -> Result<Names, ApiError> {
    Names::of(&state.portolan, caller, items).await
}

/// `Task` mapped with the names it needs.
pub(crate) async fn task_answer(
    state: &Vplus,
    caller: &Caller,
    task: &portolan::tasks::Task,
) -> Result<Response, ApiError> {
    let names = names(state, caller, [task]).await?;
    Ok(object(&crate::wire::task::task(task, &names)))
}
