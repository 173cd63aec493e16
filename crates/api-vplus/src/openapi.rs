//! The dialect's OpenAPI document, generated from the handlers.

use serde::Serialize;
use utoipa::{IntoParams, OpenApi, ToSchema};
use uuid::Uuid;

/// The document, as served and committed.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
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
        crate::handlers::sessions::logout,
        crate::handlers::machines::list,
        crate::handlers::machines::one,
        crate::handlers::machines::disks,
        crate::handlers::inventory::hypervisors,
        crate::handlers::inventory::hypervisor,
        crate::handlers::inventory::managers,
        crate::handlers::inventory::manager,
        crate::handlers::inventory::clusters,
        crate::handlers::inventory::storages,
        crate::handlers::inventory::nodes,
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
    )
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
    /// Replaces a machine of that name.
    overwrite: Option<bool>,
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
    /// On the snapshot time, inclusive.
    from: Option<i64>,
    /// On the snapshot time, inclusive.
    to: Option<i64>,
    #[param(rename = "only-mountable")]
    only_mountable: Option<bool>,
    #[param(rename = "min-size")]
    min_size: Option<i64>,
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
