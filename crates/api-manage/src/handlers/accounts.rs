//! Accounts and their passwords.

use super::{NoParams, PageParams, created, list as list_answer, object, role_of, tenant_of};
use crate::Manage;
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::input::{Body, Named, Params, page};
use crate::wire::{self, Account, AddedAccount, PasswordSet, WhoAmI};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use portolan::access::{AccessError, AccountChange, NewAccount};
use portolan::storage::Query;
use portolan_model::Secret;
use portolan_model::query::Sort;
use serde::Deserialize;
use utoipa::ToSchema;

/// A new account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountBody {
    /// Unique, whatever the case of its letters.
    login: String,
    /// 8 characters to 1024 bytes; generated and told once when left out.
    #[schema(value_type = Option<String>)]
    password: Option<Secret>,
    /// `ADMINISTRATOR`, `OPERATOR` or `VIEWER`.
    role: String,
    /// The tenant that it is bound to, by name or id.
    tenant: Option<String>,
    /// IANA name; UTC when left out.
    time_zone: Option<String>,
}

/// What changes in an account; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountPatch {
    role: Option<String>,
    /// Whether it may log in.
    enabled: Option<bool>,
    time_zone: Option<String>,
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordBody {
    /// The present one: needed for one's own account.
    #[schema(value_type = Option<String>)]
    current: Option<Secret>,
    /// The new one; for others' accounts generated and told once when left out.
    #[schema(value_type = Option<String>)]
    new: Option<Secret>,
    /// Ends the account's API tokens too; others' accounts only.
    #[serde(default)]
    revoke_tokens: bool,
}

/// Who asks, and what the request may do.
#[utoipa::path(get, path = "/whoami", responses((status = 200, body = WhoAmI)), tag = "accounts")]
pub(crate) async fn whoami(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let own = auth.caller.account.ok_or_else(ApiError::unauthorized)?;
    let account = state.portolan.access.accounts.get(&auth.caller, own).await?;
    Ok(object(&wire::who_am_i(&auth.caller, account)))
}

/// Accounts by login.
#[utoipa::path(get, path = "/accounts", params(PageParams),
    responses((status = 200, body = inline(crate::openapi::ListOf<Account>))), tag = "accounts")]
pub(crate) async fn list(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(params): Params<PageParams>,
) -> Result<Response, ApiError> {
    let page = page(params.limit, params.offset)?;
    let query = Query { sort: Sort::by("login"), page, count: true, ..Query::default() };
    let accounts = state.portolan.access.accounts.list(&auth.caller, query).await?;
    let total = accounts.total.unwrap_or(0);
    Ok(list_answer(accounts.items.into_iter().map(|a| wire::account(a.value)).collect(), total))
}

/// Makes an account.
#[utoipa::path(post, path = "/accounts", request_body = AccountBody,
    responses((status = 201, body = AddedAccount)), tag = "accounts")]
pub(crate) async fn add(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<AccountBody>,
) -> Result<Response, ApiError> {
    let accounts = &state.portolan.access.accounts;
    let new = NewAccount {
        login: body.login,
        password: Secret::default(),
        role: role_of(&body.role)?,
        tenant: tenant_of(&state, &auth.caller, body.tenant.as_deref()).await?,
        time_zone: body.time_zone,
    };
    let (account, told) = match body.password {
        Some(password) => (accounts.create(&auth.caller, NewAccount { password, ..new }).await?, None),
        None => accounts.create_generated(&auth.caller, new).await.map(|(account, told)| (account, Some(told)))?,
    };
    let password = told.map(|secret| secret.reveal().to_owned());
    Ok(created(&AddedAccount { account: wire::account(account), password }))
}

/// One account. Everybody may look at their own.
#[utoipa::path(get, path = "/accounts/{account}", params(("account" = String, Path, description = "Login or id")),
    responses((status = 200, body = Account)), tag = "accounts")]
pub(crate) async fn show(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let account = state.portolan.access.accounts.find(&auth.caller, &name).await?;
    Ok(object(&wire::account(account)))
}

/// Changes an account. The last administrator stays one.
#[utoipa::path(patch, path = "/accounts/{account}", params(("account" = String, Path, description = "Login or id")),
    request_body = AccountPatch, responses((status = 200, body = Account)), tag = "accounts")]
pub(crate) async fn change(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<AccountPatch>,
) -> Result<Response, ApiError> {
    let role = body.role.as_deref().map(role_of).transpose()?;
    let change = AccountChange { role, enabled: body.enabled, time_zone: body.time_zone };
    let accounts = &state.portolan.access.accounts;
    let id = accounts.find(&auth.caller, &name).await?.id;
    Ok(object(&wire::account(accounts.change(&auth.caller, id, change).await?)))
}

/// Removes an account with its tokens and sessions.
#[utoipa::path(delete, path = "/accounts/{account}", params(("account" = String, Path, description = "Login or id")),
    responses((status = 204, description = "Removed")), tag = "accounts")]
pub(crate) async fn remove(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let accounts = &state.portolan.access.accounts;
    let id = accounts.find(&auth.caller, &name).await?.id;
    accounts.delete(&auth.caller, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Sets a password and ends the account's sessions: one's own with the present one, others' as an administrator.
#[utoipa::path(post, path = "/accounts/{account}/password",
    params(("account" = String, Path, description = "Login or id")), request_body = PasswordBody,
    responses((status = 200, body = PasswordSet)), tag = "accounts")]
pub(crate) async fn password(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<PasswordBody>,
) -> Result<Response, ApiError> {
    let accounts = &state.portolan.access.accounts;
    let id = accounts.find(&auth.caller, &name).await?.id;
    if auth.caller.account != Some(id) {
        let told = accounts.reset_password(&auth.caller, id, body.new.as_ref(), body.revoke_tokens).await?;
        return Ok(object(&PasswordSet { password: told.map(|secret| secret.reveal().to_owned()) }));
    }
    let (Some(current), Some(new)) = (body.current, body.new) else {
        return Err(ApiError::invalid("your own password needs the current and the new one"));
    };
    match accounts.change_own_password(&auth.caller, &current, &new, auth.peer).await {
        Ok(()) => Ok(object(&PasswordSet { password: None })),
        // The request's own credentials are good: it is the field that is not.
        Err(AccessError::Unauthenticated) => Err(ApiError::wrong_password()),
        Err(e) => Err(e.into()),
    }
}
