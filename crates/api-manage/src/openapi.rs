//! The API's OpenAPI document, generated from the handlers.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, ObjectBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

/// A part of a list.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct ListOf<T> {
    items: Vec<T>,
    /// How many there are in all.
    total: u64,
}

/// The document, as served and committed.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ] {
            if let Some(operation) = operation {
                operation.operation_id = Some(operation_id(method, path));
                common_answers(path, method != "get", operation);
            }
        }
    }
    let components = document.components.get_or_insert_default();
    let scheme = |scheme| SecurityScheme::Http(HttpBuilder::new().scheme(scheme).build());
    components.add_security_scheme("token", scheme(HttpAuthScheme::Bearer));
    components.add_security_scheme("password", scheme(HttpAuthScheme::Basic));
    let either = ["token", "password"].map(|name| SecurityRequirement::new(name, [""; 0]));
    document.security = Some(either.into());
    document
}

/// A name that no other operation has: `get-platforms-platform`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(['/', '{', '}']).filter(|word| !word.is_empty());
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("-")
}

/// Adds the error answers that follow from what an operation takes rather than from what it does.
fn common_answers(path: &str, writes: bool, operation: &mut Operation) {
    let body = operation.request_body.is_some();
    let named = path.contains('{');
    if writes {
        let text = "Names the request: repeated under the same key, it is carried out once and answered the same for \
                    a day";
        let schema = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255)).build();
        let key = ParameterBuilder::new().name("Idempotency-Key").parameter_in(ParameterIn::Header);
        let key = key.description(Some(text)).schema(Some(schema)).build();
        operation.parameters.get_or_insert_default().push(RefOr::T(key));
    }
    let answers = [
        (true, StatusCode::BAD_REQUEST, "The request makes no sense; the message says why"),
        (true, StatusCode::UNAUTHORIZED, "No valid credentials"),
        (true, StatusCode::FORBIDDEN, "A privilege is missing"),
        (named, StatusCode::NOT_FOUND, "No such object for this account"),
        (body, StatusCode::REQUEST_TIMEOUT, "The body stopped arriving"),
        (
            writes,
            StatusCode::CONFLICT,
            "The object's state, another object, or the same request at work stands against it",
        ),
        (writes, StatusCode::UNPROCESSABLE_ENTITY, "The key was given to another request"),
        (body, StatusCode::PAYLOAD_TOO_LARGE, "The body is too long"),
        (writes, StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is of another type than application/json"),
        (true, StatusCode::TOO_MANY_REQUESTS, "Too many failed logins"),
        (true, StatusCode::INTERNAL_SERVER_ERROR, "The server failed; its log has the details"),
        (true, StatusCode::SERVICE_UNAVAILABLE, "Not just now: try again"),
    ];
    for (_, status, text) in answers.into_iter().filter(|row| row.0) {
        let content = Content::new(Some(Ref::from_schema_name("ErrorBody")));
        let response = ResponseBuilder::new().description(text).content("application/json", content).build();
        operation.responses.responses.entry(status.as_str().to_owned()).or_insert(RefOr::T(response));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Portolan management API",
        description = "Platforms, machines, backups, destinations, accounts, tokens, tenants, tasks and the audit log. Times are RFC 3339, sizes bytes. \
                       Unknown fields and unknown parameters are refused. Secrets go in and never come out, but for \
                       those that are told once: tokens, generated passwords, recovery keys.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    servers((url = "/manage/v1")),
    paths(
        crate::handlers::platforms::drivers,
        crate::handlers::platforms::list,
        crate::handlers::platforms::add,
        crate::handlers::platforms::try_request,
        crate::handlers::platforms::show,
        crate::handlers::platforms::remove,
        crate::handlers::platforms::try_stored,
        crate::handlers::platforms::sync,
        crate::handlers::destinations::kinds,
        crate::handlers::destinations::list,
        crate::handlers::destinations::add,
        crate::handlers::destinations::show,
        crate::handlers::destinations::remove,
        crate::handlers::destinations::try_stored,
        crate::handlers::destinations::make_default,
        crate::handlers::destinations::make_recovery_key,
        crate::handlers::machines::list,
        crate::handlers::machines::show,
        crate::handlers::machines::power,
        crate::handlers::machines::clone,
        crate::handlers::machines::relocate,
        crate::handlers::machines::back_up,
        crate::handlers::machines::snapshots,
        crate::handlers::machines::snapshot,
        crate::handlers::machines::remove_snapshot,
        crate::handlers::machines::revert,
        crate::handlers::backups::list,
        crate::handlers::backups::show,
        crate::handlers::backups::restore,
        crate::handlers::backups::instant_restore,
        crate::handlers::backups::trial,
        crate::handlers::accounts::whoami,
        crate::handlers::accounts::list,
        crate::handlers::accounts::add,
        crate::handlers::accounts::show,
        crate::handlers::accounts::change,
        crate::handlers::accounts::remove,
        crate::handlers::accounts::password,
        crate::handlers::tokens::list,
        crate::handlers::tokens::add,
        crate::handlers::tokens::show,
        crate::handlers::tokens::revoke,
        crate::handlers::tenants::list,
        crate::handlers::tenants::add,
        crate::handlers::tenants::show,
        crate::handlers::tenants::change,
        crate::handlers::tenants::remove,
        crate::handlers::tasks::list,
        crate::handlers::tasks::show,
        crate::handlers::tasks::cancel,
        crate::handlers::tasks::retry,
        crate::handlers::tasks::abandon,
        crate::handlers::tasks::drain_state,
        crate::handlers::tasks::set_drain,
        crate::handlers::system::audit,
        crate::handlers::system::status,
    ),
    components(schemas(crate::error::ErrorBody))
)]
struct Document;
