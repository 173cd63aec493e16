//! The API's objects on the wire. Times are RFC 3339 in UTC, sizes bytes; what is not known is `null`.

mod machines;
mod tasks;

pub(crate) use machines::*;
pub(crate) use tasks::*;

use portolan::Overview;
use portolan::access::{AccountView, TokenView};
use portolan::registry::{DestinationView, PlatformView, ProbeReport, SettingDescription};
use portolan::storage::Event;
use portolan_model::describe::Describe;
use portolan_model::{Caller, Privilege, TenantId, Timestamp, TypedId};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;

/// A part of a list.
#[derive(Serialize)]
pub(crate) struct List<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// How many there are in all.
    pub(crate) total: u64,
}

/// A setting that a driver or a kind of destination knows.
#[derive(Serialize, ToSchema)]
pub(crate) struct Setting {
    name: &'static str,
    about: &'static str,
    required: bool,
    /// Kept sealed and never shown again.
    secret: bool,
}

/// A driver, or a kind of destination.
#[derive(Serialize, ToSchema)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// `hypervisor`, `cloud` or `both`; of drivers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<&'static str>,
    pub(crate) settings: Vec<Setting>,
}

/// A platform.
#[derive(Serialize, ToSchema)]
pub(crate) struct Platform {
    id: Uuid,
    name: String,
    driver: String,
    /// `hypervisor`, `cloud` or `both`.
    kind: &'static str,
    url: String,
    /// Without secrets; empty for those who may not register platforms.
    settings: BTreeMap<String, String>,
    /// It stands in the server's configuration, and is changed there only.
    declared: bool,
    enabled: bool,
    /// The server that answers has its driver.
    connected: bool,
    last_sync: Option<String>,
    /// Why it could not be opened or listed; empty when all is well.
    last_error: String,
    created: String,
}

/// A backup destination.
#[derive(Serialize, ToSchema)]
pub(crate) struct Destination {
    id: Uuid,
    name: String,
    description: String,
    kind: String,
    /// The directory; of local destinations only.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    url: String,
    /// Without secrets; empty for those who may not register destinations.
    settings: BTreeMap<String, String>,
    /// Backups that name no destination go here.
    default: bool,
    /// It stands in the server's configuration, and is changed there only.
    declared: bool,
    /// Its repository is open in the server that answers.
    connected: bool,
    /// Why it could not be opened; empty when all is well.
    last_error: String,
    used_bytes: u64,
    free_bytes: u64,
    /// What the backups stand for, before deduplication and compression.
    logical_bytes: u64,
    created: String,
}

/// A new destination.
#[derive(Serialize, ToSchema)]
pub(crate) struct AddedDestination {
    #[serde(flatten)]
    pub(crate) destination: Destination,
    /// Told once: without it, whoever loses the server's data loses the backups. `null` for an adopted repository.
    pub(crate) recovery_key: Option<String>,
}

/// A further recovery key.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewRecoveryKey {
    /// Told once.
    pub(crate) recovery_key: String,
}

/// What a test came to.
#[derive(Serialize, ToSchema)]
pub(crate) struct TestResult {
    ok: bool,
    /// How many of what was found.
    found: BTreeMap<&'static str, u64>,
    /// What is there and cannot be used.
    problems: Vec<String>,
    error: Option<TestError>,
    duration_ms: u64,
}

/// Why a test failed.
#[derive(Serialize, ToSchema)]
pub(crate) struct TestError {
    /// `AUTH`, `UNREACHABLE`, `TIMEOUT`, …
    code: &'static str,
    message: String,
}

/// An account.
#[derive(Serialize, ToSchema)]
pub(crate) struct Account {
    id: Uuid,
    login: String,
    /// `ADMINISTRATOR`, `OPERATOR` or `VIEWER`.
    role: &'static str,
    /// The tenant that it is bound to; `null` for none.
    tenant: Option<Uuid>,
    enabled: bool,
    time_zone: String,
    last_login: Option<String>,
    last_failed_login: Option<String>,
    created: String,
}

/// A new account.
#[derive(Serialize, ToSchema)]
pub(crate) struct AddedAccount {
    #[serde(flatten)]
    pub(crate) account: Account,
    /// The generated password, told once; not there where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
}

/// The answer to a change of password.
#[derive(Serialize, ToSchema)]
pub(crate) struct PasswordSet {
    /// The generated password, told once; not there where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
}

/// Who asks.
#[derive(Serialize, ToSchema)]
pub(crate) struct WhoAmI {
    login: String,
    /// What this request may do: of token and account the lesser.
    role: &'static str,
    /// The tenant that this request is bound to; `null` for none.
    tenant: Option<Uuid>,
    /// The API token that the request came with; `null` for a password.
    token: Option<Uuid>,
    account: Account,
}

/// An API token.
#[derive(Serialize, ToSchema)]
pub(crate) struct Token {
    id: Uuid,
    name: String,
    /// The login of the account that it stands for.
    account: String,
    account_id: Uuid,
    /// What it may do at the most.
    role: &'static str,
    tenant: Option<Uuid>,
    /// `null` for never.
    expires: Option<String>,
    /// To the hour.
    last_used: Option<String>,
    created: String,
}

/// A new API token.
#[derive(Serialize, ToSchema)]
pub(crate) struct AddedToken {
    /// The token itself, told once.
    pub(crate) token: String,
    #[serde(flatten)]
    pub(crate) view: Token,
}

/// A tenant.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tenant {
    id: Uuid,
    name: String,
    /// What the system in front calls it; empty for nothing.
    external_id: String,
    created: String,
}

/// A part of the audit log.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditPage {
    items: Vec<AuditEvent>,
    /// To be given as `before` for what came earlier; `null` at the end.
    next: Option<i64>,
}

/// Something that somebody did.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditEvent {
    seq: i64,
    at: String,
    /// `platform.added`, `account.deleted`, …
    name: String,
    /// By login; empty for Portolan itself.
    actor: String,
    /// The object that it is about.
    subject: Option<Uuid>,
    tenant: Option<Uuid>,
    #[schema(value_type = Object)]
    data: serde_json::Value,
}

/// How everything is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) node: String,
    pub(crate) started: String,
    pub(crate) uptime_seconds: u64,
    /// Tasks that have not ended, by state.
    pub(crate) tasks: BTreeMap<String, u64>,
    pub(crate) platforms: Vec<Platform>,
    pub(crate) destinations: Vec<Destination>,
}

fn time(at: Timestamp) -> String {
    at.to_rfc3339()
}

fn id<T: TypedId>(id: Option<T>) -> Option<Uuid> {
    id.map(TypedId::uuid)
}

pub(crate) fn settings(described: &[SettingDescription]) -> Vec<Setting> {
    let one = |d: &SettingDescription| Setting { name: d.name, about: d.about, required: d.required, secret: d.secret };
    described.iter().map(one).collect()
}

pub(crate) fn platform(view: PlatformView, caller: &Caller) -> Platform {
    let p = view.platform;
    Platform {
        id: p.id.uuid(),
        name: p.name.to_string(),
        driver: p.driver,
        kind: view.kind.name(),
        url: p.url,
        settings: if caller.may(Privilege::PlatformManage) { p.settings } else { BTreeMap::new() },
        declared: p.declared,
        enabled: p.enabled,
        connected: view.connected,
        last_sync: p.last_sync.map(time),
        last_error: view.problem,
        created: time(p.created),
    }
}

pub(crate) fn destination(view: DestinationView, caller: &Caller) -> Destination {
    let d = view.destination;
    Destination {
        id: d.id.uuid(),
        name: d.name.to_string(),
        description: d.description,
        path: (d.kind == "local").then(|| d.url.clone()),
        kind: d.kind,
        url: d.url,
        settings: if caller.may(Privilege::PlatformManage) { d.settings } else { BTreeMap::new() },
        default: d.default,
        declared: d.declared,
        connected: view.connected,
        last_error: view.problem,
        used_bytes: d.used_bytes,
        free_bytes: d.free_bytes,
        logical_bytes: d.logical_bytes,
        created: time(d.created),
    }
}

pub(crate) fn test_result(report: ProbeReport) -> TestResult {
    TestResult {
        ok: report.failure.is_none(),
        found: report.found,
        problems: report.problems,
        error: report.failure.map(|f| TestError { code: f.code, message: f.message }),
        duration_ms: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
    }
}

pub(crate) fn account(a: AccountView) -> Account {
    Account {
        id: a.id.uuid(),
        login: a.login.to_string(),
        role: a.role.name(),
        tenant: id(a.tenant),
        enabled: a.enabled,
        time_zone: a.time_zone,
        last_login: a.last_login.map(time),
        last_failed_login: a.last_failed_login.map(time),
        created: time(a.created),
    }
}

pub(crate) fn who_am_i(caller: &Caller, view: AccountView) -> WhoAmI {
    WhoAmI {
        login: caller.login.clone(),
        role: caller.role.name(),
        tenant: caller.scope.tenant().map(TenantId::uuid),
        token: id(caller.token),
        account: account(view),
    }
}

pub(crate) fn token(t: TokenView) -> Token {
    Token {
        id: t.id.uuid(),
        name: t.name.to_string(),
        account: t.login,
        account_id: t.account.uuid(),
        role: t.role.name(),
        tenant: id(t.tenant),
        expires: t.expires.map(time),
        last_used: t.last_used.map(time),
        created: time(t.created),
    }
}

pub(crate) fn tenant(t: portolan_model::Tenant) -> Tenant {
    Tenant { id: t.id.uuid(), name: t.name.to_string(), external_id: t.external_id, created: time(t.created) }
}

pub(crate) fn audit(events: Vec<Event>, limit: u32) -> AuditPage {
    let full = events.len() as u64 >= u64::from(limit);
    let next = events.last().map(|event| event.seq).filter(|_| full);
    let one = |e: Event| AuditEvent {
        seq: e.seq,
        at: time(e.at),
        name: e.name,
        actor: e.actor,
        subject: e.subject,
        tenant: id(e.tenant),
        data: e.data,
    };
    AuditPage { items: events.into_iter().map(one).collect(), next }
}

pub(crate) fn status(options: &crate::ManageOptions, overview: Overview, caller: &Caller, now: Timestamp) -> Status {
    Status {
        version: options.version.clone(),
        node: options.node.clone(),
        started: time(options.started),
        uptime_seconds: now.since(options.started).as_secs(),
        tasks: overview.tasks.into_iter().collect(),
        platforms: overview.platforms.into_iter().map(|p| platform(p, caller)).collect(),
        destinations: overview.destinations.into_iter().map(|d| destination(d, caller)).collect(),
    }
}
