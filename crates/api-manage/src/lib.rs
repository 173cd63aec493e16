//! The management API: platforms, machines, backups, destinations, accounts, tokens, tenants, tasks and the audit log,
//! for operators and for the command line.
//!
//! Every request carries an API token (`Authorization: Bearer`) or a login and a password (`Basic`). Bodies are JSON
//! and strict: what is not known is refused, so that a typing error never passes for a default. `docs/managing.md`
//! shows how it is used.

mod auth;
mod error;
mod handlers;
mod input;
mod openapi;
mod wire;

pub use auth::senders;
pub use error::{ApiError, shape_fault};
pub use openapi::document;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get, post, put};
use portolan::Portolan;
use portolan_model::Timestamp;
use std::sync::Arc;

/// What the server says of itself.
#[derive(Debug, Clone)]
pub struct ManageOptions {
    /// The version of the program.
    pub version: String,
    /// The name of this process.
    pub node: String,
    /// When it started.
    pub started: Timestamp,
}

/// What every handler has.
#[derive(Clone)]
pub(crate) struct Manage {
    pub(crate) portolan: Arc<Portolan>,
    pub(crate) options: ManageOptions,
}

/// The API under `/manage/v1`, with its own answers for unknown paths and methods below that.
pub fn router(portolan: Arc<Portolan>, options: ManageOptions) -> Router {
    let mut api = Router::new();
    for (path, route) in table() {
        api = api.route(path, route);
    }
    let api = api.fallback(unknown_path).method_not_allowed_fallback(unknown_method);
    Router::new().nest("/manage/v1", api).with_state(Manage { portolan, options })
}

/// Every path that is served.
fn table() -> Vec<(&'static str, MethodRouter<Manage>)> {
    use handlers::{accounts, backups, destinations, machines, platforms, system, tasks, tenants, tokens};
    vec![
        ("/drivers", get(platforms::drivers)),
        ("/platforms", get(platforms::list).post(platforms::add)),
        ("/platforms/test", post(platforms::try_request)),
        ("/platforms/{platform}", get(platforms::show).delete(platforms::remove)),
        ("/platforms/{platform}/test", post(platforms::try_stored)),
        ("/platforms/{platform}/sync", post(platforms::sync)),
        ("/destination-kinds", get(destinations::kinds)),
        ("/destinations", get(destinations::list).post(destinations::add)),
        ("/destinations/{destination}", get(destinations::show).delete(destinations::remove)),
        ("/destinations/{destination}/test", post(destinations::try_stored)),
        ("/destinations/{destination}/default", put(destinations::make_default)),
        ("/destinations/{destination}/recovery-key", post(destinations::make_recovery_key)),
        ("/machines", get(machines::list)),
        ("/machines/{machine}", get(machines::show)),
        ("/machines/{machine}/power", post(machines::power)),
        ("/machines/{machine}/clone", post(machines::clone)),
        ("/machines/{machine}/move", post(machines::relocate)),
        ("/machines/{machine}/backup", post(machines::back_up)),
        ("/machines/{machine}/snapshots", get(machines::snapshots).post(machines::snapshot)),
        ("/machines/{machine}/snapshots/{snapshot}", axum::routing::delete(machines::remove_snapshot)),
        ("/machines/{machine}/snapshots/{snapshot}/revert", post(machines::revert)),
        ("/backups", get(backups::list)),
        ("/backups/{backup}", get(backups::show)),
        ("/backups/{backup}/restore", post(backups::restore)),
        ("/backups/{backup}/instant-restore", post(backups::instant_restore)),
        ("/backups/{backup}/trial", post(backups::trial)),
        ("/whoami", get(accounts::whoami)),
        ("/accounts", get(accounts::list).post(accounts::add)),
        ("/accounts/{account}", get(accounts::show).patch(accounts::change).delete(accounts::remove)),
        ("/accounts/{account}/password", post(accounts::password)),
        ("/tokens", get(tokens::list).post(tokens::add)),
        ("/tokens/{token}", get(tokens::show).delete(tokens::revoke)),
        ("/tenants", get(tenants::list).post(tenants::add)),
        ("/tenants/{tenant}", get(tenants::show).patch(tenants::change).delete(tenants::remove)),
        ("/tasks", get(tasks::list)),
        ("/tasks/drain", get(tasks::drain_state).put(tasks::set_drain)),
        ("/tasks/{task}", get(tasks::show)),
        ("/tasks/{task}/cancel", post(tasks::cancel)),
        ("/tasks/{task}/retry", post(tasks::retry)),
        ("/tasks/{task}/abandon", post(tasks::abandon)),
        ("/audit", get(system::audit)),
        ("/status", get(system::status)),
    ]
}

async fn unknown_path() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such resource")
}

async fn unknown_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "the resource does not support this method")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_path_is_documented_and_every_documented_path_is_served() {
        let served: BTreeSet<String> = table().into_iter().map(|row| row.0.to_owned()).collect();
        let documented: BTreeSet<String> = document().paths.paths.keys().cloned().collect();
        assert_eq!(served.symmetric_difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}
