//! The views that clients look at to see whether anybody is there (section 6).

use super::plain::{self, Page};
use crate::access::{Asked, Given};
use crate::error::ApiError;
use crate::input::CloudName;
use crate::openapi::ErrorBody;
use crate::wire::format::Memory;
use crate::wire::{Done, Probe};
use axum::extract::Path;
use axum::response::Response;

/// What stands in the path where a number belongs.
type User = Option<Path<String>>;

/// Says that the API is there.
#[utoipa::path(get, path = "/", responses((status = 200, description = "It is", body = Done)), tag = "probes")]
pub(crate) async fn home(given: Given) -> Response {
    static MEMORY: Memory = Memory::new();
    given.answer(&Done::OK, &MEMORY)
}

/// Says that the body is JSON.
#[utoipa::path(post, path = "/", request_body = Object, responses((status = 200, description = "It is", body = Done),
    (status = 400, description = "It is not", body = ErrorBody)), tag = "probes")]
pub(crate) async fn echo(given: Given) -> Result<Response, ApiError> {
    given.body.value()?;
    Ok(home(given).await)
}

/// Says that the token is good and `default` answers.
#[utoipa::path(put, path = "/test/start", responses((status = 200, description = "Both are so", body = Probe),
    (status = 400, description = "The body says that it is JSON, and is none", body = ErrorBody)), tag = "probes")]
pub(crate) async fn probe(asked: Asked) -> Result<Response, ApiError> {
    static MEMORY: Memory = Memory::new();
    if asked.given.body.says_json() {
        asked.given.body.value()?;
    }
    asked.authenticated()?;
    let at = asked.at(&CloudName::Default).await?;
    asked.portolan().inventory.cloud_nodes(&at.caller, at.cloud.id).await?;
    Ok(asked.given.answer(&Probe::PASSED, &MEMORY))
}

/// The same under a second path, with a number that nobody looks at.
#[utoipa::path(put, path = "/test/{user}/kill", params(("user" = u64, Path, description = "Any number")),
    responses((status = 200, description = "The token is good and `default` answers", body = Probe),
        (status = 400, description = "The body says that it is JSON, and is none", body = ErrorBody),
        (status = 404, description = "Not a number", body = crate::openapi::NotFoundBody)), tag = "probes")]
pub(crate) async fn kill(user: User, asked: Asked) -> Result<Response, ApiError> {
    numbered(user)?;
    probe(asked).await
}

/// The same path as a page.
pub(crate) async fn kill_page(user: User) -> Result<Page, ApiError> {
    numbered(user)?;
    Ok(plain::dev().await)
}

/// The same path by any other method.
pub(crate) async fn kill_otherwise(user: User) -> ApiError {
    numbered(user).err().unwrap_or_else(ApiError::not_implemented)
}

/// Without a number there is no such path, whatever the method.
fn numbered(user: User) -> Result<(), ApiError> {
    match user {
        Some(Path(user)) if user.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => Err(ApiError::page_not_found()),
    }
}
