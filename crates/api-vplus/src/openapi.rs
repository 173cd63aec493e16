//! The dialect's OpenAPI document, generated from the handlers.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Content, ObjectBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoParams, OpenApi, ToSchema};
use uuid::Uuid;

/// The document, as served and committed.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in
            [("get", &mut item.get), ("put", &mut item.put), ("post", &mut item.post), ("delete", &mut item.delete)]
        {
            if let Some(operation) = operation {
                operation.operation_id = Some(operation_id(method, path));
                common_answers(path, method != "get", operation);
            }
        }
    }
    document
}

/// A name that no other operation has: `get-backups-guid`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(['/', '{', '}']).filter(|word| !word.is_empty());
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("-")
}

/// Adds the error answers that follow from what an operation takes rather than from what it does.
fn common_answers(path: &str, writes: bool, operation: &mut Operation) {
    let body = operation.request_body.is_some();
    let named = path.contains('{');
    let asked = body || operation.parameters.as_ref().is_some_and(|all| all.len() > usize::from(named));
    let login = path == "/session/login";
    let keyed = writes && !login;
    if keyed {
        let text =
            "Names the request: repeated under the same key, it is carried out once and answered the same for a day";
        let schema = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255));
        let key =
            ParameterBuilder::new().name("Idempotency-Key").parameter_in(ParameterIn::Header).description(Some(text));
        operation.parameters.get_or_insert_default().push(RefOr::T(key.schema(Some(schema)).build()));
    }
    let answers = [
        (asked || keyed, StatusCode::BAD_REQUEST, "The request makes no sense; the message says why"),
        (!login, StatusCode::UNAUTHORIZED, "No valid session"),
        (true, StatusCode::FORBIDDEN, "A privilege is missing, or a page of another origin calls"),
        (named, StatusCode::NOT_FOUND, "No such object for this account"),
        (body, StatusCode::REQUEST_TIMEOUT, "The body stopped arriving"),
        (
            keyed,
            StatusCode::CONFLICT,
            "The object's state, another object, or the same request at work stands against it",
        ),
        (keyed, StatusCode::UNPROCESSABLE_ENTITY, "The key was given to another request"),
        (body, StatusCode::PAYLOAD_TOO_LARGE, "The body is too long"),
        (true, StatusCode::INTERNAL_SERVER_ERROR, "The server failed; its log has the details"),
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
        title = "vPlus API, as served by Portolan",
        description = "Log in with POST /session/login and keep the cookie. Lists are whole unless `size` is given; \
                       X-Total-Count says how many there are. Times are milliseconds since the epoch, sizes bytes.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    servers((url = "/api")),
    paths(
        crate::handlers::sessions::login,
        crate::handlers::sessions::check,
        crate::handlers::sessions::user,
        crate::handlers::sessions::user_info,
        crate::handlers::sessions::logout,
        crate::handlers::machines::list,
        crate::handlers::machines::detailed,
        crate::handlers::machines::obstacles,
        crate::handlers::machines::one,
        crate::handlers::machines::disks,
        crate::handlers::inventory::hypervisors,
        crate::handlers::inventory::hypervisor,
        crate::handlers::inventory::managers,
        crate::handlers::inventory::manager,
        crate::handlers::inventory::clusters,
        crate::handlers::inventory::storages,
        crate::handlers::inventory::nodes,
        crate::handlers::inventory::projects,
        crate::handlers::destinations::list,
        crate::handlers::destinations::usable,
        crate::handlers::tasks::list,
        crate::handlers::tasks::one,
        crate::handlers::tasks::export,
        crate::handlers::tasks::inventory_sync,
        crate::handlers::tasks::verify,
        crate::handlers::tasks::set_state,
        crate::handlers::tasks::remove,
        crate::handlers::tasks::remove_finished,
        crate::handlers::tasks::remove_finished_and_queued,
        crate::handlers::tasks::cancel_running,
        crate::handlers::restores::restore_and_import,
        crate::handlers::restores::jobs,
        crate::handlers::backups::list,
        crate::handlers::backups::one,
        crate::handlers::backups::describe,
        crate::handlers::backups::acknowledge,
        crate::handlers::backups::locations,
        crate::handlers::files::list,
        crate::handlers::files::detailed,
        crate::handlers::files::for_restore,
        crate::handlers::workflows::list,
        crate::handlers::workflows::remove,
        crate::handlers::dashboard::protection,
        crate::handlers::dashboard::backup_stats,
        crate::handlers::dashboard::staging_space,
        crate::handlers::dashboard::destination_stats,
        crate::handlers::empty::snapshots,
        crate::handlers::empty::flavors,
        crate::handlers::empty::networks,
        crate::handlers::empty::shared_networks,
        crate::handlers::empty::schedules,
        crate::handlers::empty::backup_policies,
        crate::handlers::empty::policies_of_machines,
        crate::handlers::empty::snapshot_policies,
        crate::handlers::empty::backup_rules,
        crate::handlers::empty::mounted_backups,
        crate::handlers::empty::mailing_lists,
    ),
    components(schemas(ErrorBody))
)]
struct Document;

/// Every answer that is not a success.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
#[allow(dead_code)]
pub(crate) struct ErrorBody {
    /// For people.
    message: String,
    /// For programs.
    code: String,
    /// The HTTP status again.
    status: u16,
}

/// A reference; the bare guid is accepted too.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct Reference {
    guid: Uuid,
}

/// An enum value; the bare name is accepted too.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct Choice {
    name: String,
}

/// The body of a login.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct LoginRequest {
    login: String,
    password: String,
}

/// A wish for backups.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct ExportBody {
    /// The machines.
    protected_entities: Vec<Reference>,
    /// FULL or INCREMENTAL; FULL when left out.
    backup_type: Option<Choice>,
    /// The default destination when left out.
    backup_destination: Option<Reference>,
    /// 0 to 100; 50 when left out.
    priority: Option<i64>,
    /// Now when left out.
    window_start: Option<i64>,
    /// Five hours after the start when left out.
    window_end: Option<i64>,
    /// How many copies of a failed task may follow.
    retry_count: Option<i64>,
    /// Without `backupDestination`, the primary destination of the first rule that names one.
    rules: Option<Vec<RuleChoice>>,
}

/// A rule, as far as a backup looks at it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct RuleChoice {
    rule_backup_destinations: Option<Vec<RuleDestination>>,
    /// The older form: the first is the primary one.
    backup_destinations: Option<Vec<Reference>>,
}

/// A destination of a rule. One without a guid is passed over.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct RuleDestination {
    role_type: Option<Choice>,
    backup_destination: Option<Reference>,
}

/// A wish for a restore.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct RestoreBody {
    /// The backup; or `backupLocation`.
    backup: Option<Reference>,
    /// The copy to read.
    backup_location: Option<LocationChoice>,
    hypervisor: Option<Reference>,
    hypervisor_manager: Option<Reference>,
    /// The new machine's name; that of the backed-up one when left out.
    restored_pe_name: Option<String>,
    /// The platform's own id of the storage.
    restore_storage_id: Option<String>,
    /// The platform's own id of the cluster.
    restore_cluster_id: Option<String>,
    /// Replaces a machine of that name, which must be off.
    overwrite: Option<bool>,
    /// Turns the machine that is replaced off first, at once. Portolan's own.
    power_off_overwritten: Option<bool>,
    task_files: Option<Vec<DiskChoice>>,
    priority: Option<i64>,
}

/// The copy that a restore reads.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct LocationChoice {
    backup: Reference,
    backup_destination: Reference,
}

/// What a restore does with one disk.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct DiskChoice {
    original_disk_name: String,
    storage_id: Option<String>,
    excluded_from_restore: Option<bool>,
}

/// A wish for a sync; of everything when empty.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct SyncBody {
    hypervisor_managers: Option<Vec<Reference>>,
    hypervisors: Option<Vec<Reference>>,
}

/// A wish for a check.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct VerifyBody {
    backup: Reference,
    /// The copy to check.
    backup_destination: Option<Reference>,
    /// STRUCTURE, PACK or DATA; DATA when left out.
    depth: Option<String>,
}

/// Machines to look at.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct EntitiesBody {
    entities: Vec<Reference>,
}

/// Machines to look at.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct ProtectedEntitiesBody {
    /// Guids.
    protected_entities: Vec<String>,
}

/// A wish for another state.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct StateBody {
    /// CANCELLED.
    state: Choice,
    /// Why.
    status_info: Option<String>,
}

/// A text.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct TextValue {
    value: String,
}

/// A truth value.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct FlagValue {
    value: bool,
}

/// What every list takes.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(crate) struct ListParams {
    /// From 0; with `size`.
    page: Option<u64>,
    /// At least 1; the whole list when left out.
    size: Option<u64>,
    /// A path of the object; unknown ones leave the default order.
    #[param(rename = "orderBy")]
    order_by: Option<String>,
    /// `asc` or `desc`.
    direction: Option<String>,
    /// Free text, in any case of letters.
    filter: Option<String>,
}

/// What the list of machines takes besides.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(crate) struct MachineParams {
    /// The platform's own id.
    uuid: Option<String>,
    /// The tenant; also tenantid, tenant-id, project-uuid.
    #[param(rename = "tenantId")]
    tenant_id: Option<String>,
    #[param(rename = "hypervisor-manager")]
    hypervisor_manager: Option<Uuid>,
    #[param(rename = "hypervisor-manager-type")]
    hypervisor_manager_type: Option<String>,
    hypervisor: Option<Uuid>,
}

/// The tenant filter.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(crate) struct TenantParam {
    /// The tenant; also tenantid, tenant-id, project-uuid.
    #[param(rename = "tenantId")]
    tenant_id: Option<String>,
}

/// What lists take that know neither order nor filter.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(crate) struct PageParams {
    /// From 0; with `size`.
    page: Option<u64>,
    /// At least 1; the whole list when left out.
    size: Option<u64>,
}

/// Which backup's files.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(crate) struct FileParams {
    backup: Uuid,
}

/// What the list of projects takes besides.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(crate) struct ProjectParams {
    /// What the system in front calls it.
    uuid: Option<String>,
    /// The project of this backup.
    backup: Option<Uuid>,
    /// Projects with this quota: none.
    quota: Option<String>,
}

/// What the list of tasks takes besides.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(crate) struct TaskParams {
    /// A machine; also protected-entity.
    #[param(rename = "protectedEntity")]
    protected_entity: Option<Uuid>,
    backup: Option<Uuid>,
    schedule: Option<Uuid>,
    /// QUEUED, RUNNING, FINISHED, FAILED, CANCELLED; repeatable, also as `states`.
    state: Option<Vec<String>>,
    /// A type's name; repeatable.
    #[param(rename = "type")]
    kind: Option<Vec<String>>,
    #[param(rename = "workflow-execution")]
    workflow_execution: Option<Uuid>,
    hypervisor: Option<Uuid>,
    #[param(rename = "hypervisor-manager")]
    hypervisor_manager: Option<Uuid>,
    node: Option<Uuid>,
    #[param(rename = "parent-task")]
    parent_task: Option<Uuid>,
    #[param(rename = "backup-destination")]
    backup_destination: Option<Uuid>,
    #[param(rename = "restore-job")]
    restore_job: Option<Uuid>,
    /// The tenant; also tenantid, tenant-id, project-uuid.
    #[param(rename = "tenantId")]
    tenant_id: Option<String>,
}

/// What the list of backups takes besides.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(crate) struct BackupParams {
    #[param(rename = "protected-entity")]
    protected_entity: Option<Uuid>,
    /// Repeatable.
    status: Option<Vec<String>>,
    /// FULL, INCREMENTAL; repeatable.
    #[param(rename = "type")]
    kind: Option<Vec<String>>,
    /// On the snapshot time, inclusive; where there is none, on the time of the request.
    from: Option<i64>,
    /// On the snapshot time, inclusive; where there is none, on the time of the request.
    to: Option<i64>,
    #[param(rename = "only-mountable")]
    only_mountable: Option<bool>,
    #[param(rename = "min-size")]
    min_size: Option<i64>,
    hypervisor: Option<Uuid>,
    #[param(rename = "hypervisor-manager")]
    hypervisor_manager: Option<Uuid>,
    #[param(rename = "backup-destination")]
    backup_destination: Option<Uuid>,
    #[param(rename = "parent-backup")]
    parent_backup: Option<Uuid>,
    /// VM; any other finds nothing.
    #[param(rename = "protected-entity-type")]
    protected_entity_type: Option<String>,
    #[param(rename = "tenantId")]
    tenant_id: Option<String>,
}

/// What the list of locations takes.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(crate) struct LocationParams {
    #[param(rename = "protected-entity")]
    protected_entity: Option<Uuid>,
    /// PRESENT, IN_PROGRESS, FAILED, REMOVED; repeatable.
    #[param(rename = "location-status")]
    location_status: Option<Vec<String>>,
}
