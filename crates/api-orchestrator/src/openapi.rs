//! The dialect's OpenAPI document, generated from the handlers.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Content, ObjectBuilder, PathItem, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

/// The document, as served and committed.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let mut paths = std::mem::take(&mut document.paths.paths);
    if let Some(sizes) = paths.get("/sizes/{cloud}").cloned() {
        paths.insert("/flavors/{cloud}".to_owned(), sizes);
    }
    // Without a cloud, `default` is meant.
    let named: Vec<(String, PathItem)> = paths
        .iter()
        .filter_map(|(path, item)| path.strip_suffix("/{cloud}").map(|short| (short.to_owned(), item.clone())))
        .collect();
    for (path, mut item) in named {
        for operation in [&mut item.get, &mut item.put, &mut item.post].into_iter().flatten() {
            operation.parameters = None;
        }
        paths.insert(path, item);
    }
    for (path, item) in paths {
        let item = document.paths.paths.entry(path.clone()).insert_entry(item).into_mut();
        for (method, operation) in [("get", &mut item.get), ("put", &mut item.put), ("post", &mut item.post)] {
            if let Some(operation) = operation {
                operation.operation_id = Some(operation_id(method, &path));
                common_answers(&path, method != "get", operation);
            }
        }
    }
    document
}

/// A name that no other operation has: `put-vm-stop-cloud`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(['/', '{', '}']).filter(|word| !word.is_empty());
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("-")
}

/// Adds the error answers that follow from what an operation takes rather than from what it does.
fn common_answers(path: &str, writes: bool, operation: &mut Operation) {
    let body = operation.request_body.is_some();
    let home = path == "/";
    let keyed = writes && !path.starts_with("/auth");
    if keyed {
        let text =
            "Names the request: repeated under the same key, it is carried out once and answered the same for a day";
        let schema = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255));
        let key =
            ParameterBuilder::new().name("Idempotency-Key").parameter_in(ParameterIn::Header).description(Some(text));
        operation.parameters.get_or_insert_default().push(RefOr::T(key.schema(Some(schema)).build()));
    }
    let answers = [
        (!home, StatusCode::FORBIDDEN, "Credentials are needed and missing, or wrong, or of too little privilege"),
        (body, StatusCode::REQUEST_TIMEOUT, "The body stopped arriving"),
        (keyed, StatusCode::CONFLICT, "The same request is at work"),
        (body, StatusCode::PAYLOAD_TOO_LARGE, "The body is too long"),
        (keyed, StatusCode::UNPROCESSABLE_ENTITY, "The key was given to another request"),
        (true, StatusCode::INTERNAL_SERVER_ERROR, "There is no such cloud, it failed, or the server did"),
        (true, StatusCode::SERVICE_UNAVAILABLE, "Not just now: try again"),
    ];
    for (_, status, text) in answers.into_iter().filter(|row| row.0) {
        let content = Content::new(Some(Ref::from_schema_name("Error")));
        let response = ResponseBuilder::new().description(text).content("application/json", content).build();
        operation.responses.responses.entry(status.as_str().to_owned()).or_insert(RefOr::T(response));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Orchestrator API v1, as served by Portolan",
        description = "Names of members are sorted, answers indented by two, or on one line with \
                       X-Requested-With: XMLHttpRequest. A path without a cloud means the cloud `default`. Methods that a \
                       path does not list are 501, GET among them is the text `Dev`. The dummy cloud is open; others \
                       take a token (auth_token in the body or the query, X-Auth-Token, Authorization: Bearer), \
                       Authorization: Basic, or the cookie of POST /auth.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    servers((url = "/api/v1")),
    paths(
        crate::handlers::probes::home,
        crate::handlers::probes::echo,
        crate::handlers::probes::probe,
        crate::handlers::probes::kill,
        crate::handlers::listings::clouds,
        crate::handlers::listings::nodes,
        crate::handlers::listings::images,
        crate::handlers::listings::sizes,
        crate::handlers::listings::tenants,
        crate::handlers::nodes::start,
        crate::handlers::nodes::stop,
        crate::handlers::actions::assign,
        crate::handlers::actions::release,
        crate::handlers::actions::status,
        crate::handlers::sessions::login,
        crate::handlers::sessions::logout,
    ),
    components(schemas(ErrorBody, NotFoundBody))
)]
struct Document;

/// Every answer that is not a success, but for that of an unknown path.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
#[allow(dead_code)]
pub(crate) struct ErrorBody {
    /// What went wrong.
    message: String,
    /// Always `error`.
    status: String,
    /// The HTTP status again.
    status_code: u16,
    /// The status in a sentence.
    status_long_message: String,
    /// The status in a word.
    status_short_message: String,
}

/// The answer of an unknown path.
#[derive(Serialize, ToSchema)]
#[schema(as = NotFound)]
#[allow(dead_code)]
pub(crate) struct NotFoundBody {
    /// Always `Page not found`.
    message: String,
    /// Always `error`.
    status: String,
}

/// A wish for a node.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct StartBody {
    /// Id of the image.
    image: String,
    /// Name of a key pair that the cloud has.
    keyname: Option<String>,
    /// What the cloud keeps with the node.
    #[schema(value_type = Option<Object>)]
    metadata: Option<serde_json::Value>,
    /// The name; some clouds choose their own.
    name: String,
    /// Id of the size.
    size: String,
}

/// The node to destroy: the first one that has this id or this name.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct StopBody {
    /// Its name.
    hostname: Option<String>,
    /// Its id.
    node: Option<String>,
}

/// A wish for an assignment.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct AssignBody {
    /// Anything true answers as if it were done, and does nothing.
    emulate: Option<bool>,
    /// The node's name.
    hostname: Option<String>,
    /// The node's id.
    node: Option<String>,
    /// Who shall hold it.
    user: String,
    /// What it shall be used as.
    vm_type: String,
}

/// The node to take back.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct ReleaseBody {
    /// Anything true answers as if it were done, and does nothing.
    emulate: Option<bool>,
    /// The node's name.
    hostname: Option<String>,
    /// The node's id.
    node: Option<String>,
}

/// Credentials.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct LoginBody {
    password: String,
    username: String,
}
