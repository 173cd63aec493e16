//! API tokens.

use super::{NoParams, PageParams, created, list as list_answer, object, role_of, tenant_of};
use crate::Manage;
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::input::{Body, Named, Params, instant, page};
use crate::wire::{self, AddedToken, Token};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use portolan::access::NewToken;
use serde::Deserialize;
use utoipa::ToSchema;

/// A new token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenBody {
    /// What it is for, unique among the tokens of its account.
    name: String,
    /// The account that it stands for, by login or id; one's own when left out.
    account: Option<String>,
    /// What it may do at the most; all that the account may when left out.
    role: Option<String>,
    /// The tenant that it is bound to, by name or id; the account's when left out.
    tenant: Option<String>,
    /// When it ends, in RFC 3339; never when left out.
    expires: Option<String>,
}

/// Tokens by name: one's own, or for those who manage access all that they see.
#[utoipa::path(get, path = "/tokens", params(PageParams),
    responses((status = 200, body = inline(crate::openapi::ListOf<Token>))), tag = "tokens")]
pub(crate) async fn list(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(params): Params<PageParams>,
) -> Result<Response, ApiError> {
    let page = page(params.limit, params.offset)?;
    let tokens = state.portolan.access.tokens.list(&auth.caller, page).await?;
    let total = tokens.total.unwrap_or(0);
    Ok(list_answer(tokens.items.into_iter().map(|t| wire::token(t.value)).collect(), total))
}

/// Makes a token and tells it, once.
#[utoipa::path(post, path = "/tokens", request_body = TokenBody,
    responses((status = 201, body = AddedToken)), tag = "tokens")]
pub(crate) async fn add(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<TokenBody>,
) -> Result<Response, ApiError> {
    let new = NewToken {
        name: body.name,
        account: body.account,
        role: body.role.as_deref().map(role_of).transpose()?,
        tenant: tenant_of(&state, &auth.caller, body.tenant.as_deref()).await?,
        expires: instant("expires", body.expires.as_deref())?,
    };
    let (view, secret) = state.portolan.access.tokens.create(&auth.caller, new).await?;
    Ok(created(&AddedToken { token: secret.reveal().to_owned(), view: wire::token(view) }))
}

/// One token.
#[utoipa::path(get, path = "/tokens/{token}", params(("token" = String, Path, description = "Id or name")),
    responses((status = 200, body = Token)), tag = "tokens")]
pub(crate) async fn show(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    Ok(object(&wire::token(state.portolan.access.tokens.find(&auth.caller, &name).await?)))
}

/// Ends a token.
#[utoipa::path(delete, path = "/tokens/{token}", params(("token" = String, Path, description = "Id or name")),
    responses((status = 204, description = "Ended")), tag = "tokens")]
pub(crate) async fn revoke(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let tokens = &state.portolan.access.tokens;
    let id = tokens.find(&auth.caller, &name).await?.id;
    tokens.revoke(&auth.caller, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
