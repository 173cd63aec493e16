//! The request for a backup: one chain a machine.

use crate::error::ProtectError;
use crate::repeat::{Begins, tasks_removed};
use crate::service::{EXPORT_WINDOW, Protect, origin_of, type_note};
use portolan_model::backup::{BackupStatus, BackupType, CopyStatus, DestinationRole, Origin, StepTimes};
use portolan_model::query::Filter;
use portolan_model::*;
use portolan_storage::{Kind, Query, StorageExt, StoreError, UnitOfWork};
use portolan_tasks::{NewTask, Task, TaskLinks};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The most machines of one request: it is written in one transaction.
const MOST_VMS: usize = 1000;
/// What the task and the point of a machine's backup are in their request.
const TASK: &str = "export.task";
const POINT: &str = "export.point";

/// Machines to back up.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportRequest {
    /// The machines, 1000 at the most: one backup each, also when a machine is named twice.
    pub vms: Vec<VmId>,
    /// What is wanted. An increment without a base becomes a full backup, and says so.
    pub backup_type: BackupType,
    /// Where to; nothing for the default destination.
    pub destination: Option<BackupDestinationId>,
    /// 0 to 100.
    pub priority: i16,
    /// Not started before; nothing, or a time that has passed, for now.
    pub window_start: Option<Timestamp>,
    /// Fails when not started by then; nothing for five hours after the start.
    pub window_end: Option<Timestamp>,
    /// How many copies of a failed link may follow.
    pub retries: i32,
}

/// What the links of a backup chain know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BackupPayload {
    pub(crate) point: RecoveryPointId,
    pub(crate) copy: BackupCopyId,
    pub(crate) vm: VmId,
    pub(crate) destination: BackupDestinationId,
    /// What was asked for.
    pub(crate) wanted: BackupType,
    /// When the link before ended; nothing for the first.
    #[serde(default)]
    pub(crate) ready: Option<Timestamp>,
}

impl Protect {
    /// Asks for backups. Each machine gets a recovery point in state `Queued`, a copy, and a chain that begins
    /// with an EXPORT task; all of a request is written at once. Answers the tasks, in the machines' order. A
    /// request that its sender named is carried out once: a repetition answers the tasks that are there.
    pub async fn export(&self, caller: &Caller, request: ExportRequest) -> Result<Vec<Task>, ProtectError> {
        caller.require(Privilege::BackupWrite)?;
        if request.vms.is_empty() {
            return Err(ProtectError::Invalid("no virtual machine was named".into()));
        }
        if request.vms.len() > MOST_VMS {
            return Err(ProtectError::Invalid(format!("a request must not name more than {MOST_VMS} machines")));
        }
        if !(0..=100).contains(&request.priority) {
            return Err(ProtectError::Invalid("the priority must lie between 0 and 100".into()));
        }
        if !(0..=100).contains(&request.retries) {
            return Err(ProtectError::Invalid("the retry count must lie between 0 and 100".into()));
        }
        let vms = once(&request.vms);
        if let Some(tasks) = self.exported_before(caller, &vms).await? {
            return Ok(tasks);
        }
        let now = self.clock.now();
        // A start in the past is now: tasks are ranked by their due time, and nobody shall jump the queue by it.
        let run_at = request.window_start.map_or(now, |start| start.max(now));
        let start_by = request.window_end.unwrap_or(run_at + EXPORT_WINDOW);
        if start_by <= run_at {
            let ended = request.window_start.is_some_and(|start| start < start_by);
            let text = if ended { "the window has ended" } else { "the window ends before it starts" };
            return Err(ProtectError::Invalid(text.into()));
        }
        let destination = self.destination_for(caller, request.destination).await?;

        let begins = self.begins(caller);
        let mut unit = UnitOfWork::new();
        let mut tasks = Vec::new();
        for vm in self.vms_of(caller.scope, &vms).await? {
            if !vm.observed.present {
                return Err(ProtectError::Conflict(format!(
                    "the virtual machine '{}' is no longer present on its platform",
                    vm.observed.name
                )));
            }
            let (point, copy) = self.new_point(begins, now, &vm, &destination, request.backup_type, origin_of(caller));
            let task = NewTask {
                id: begins.id(TASK, vm.id),
                priority: request.priority,
                run_at,
                start_by: Some(start_by),
                retries: request.retries,
                ..self.export_link(&vm, &point, &copy, request.backup_type)
            };
            tasks.push(task.id);
            unit = unit.create(&point).create(&copy).enqueue(task);
        }
        match self.storage.apply(now, caller.scope, unit).await {
            Ok(_) => self.tasks_of(caller.scope, &tasks).await,
            // The request itself, carried out elsewhere at the same time, may have been faster.
            Err(e @ StoreError::Conflict(_)) => self.exported_before(caller, &vms).await?.ok_or_else(|| e.into()),
            Err(e) => Err(e.into()),
        }
    }

    /// The tasks of the same request, where it was carried out before.
    async fn exported_before(&self, caller: &Caller, vms: &[VmId]) -> Result<Option<Vec<Task>>, ProtectError> {
        let begins = self.begins(caller);
        let (true, Some(first)) = (begins.may_repeat(), vms.first()) else { return Ok(None) };
        let ids: Vec<TaskId> = vms.iter().map(|vm| begins.id(TASK, *vm)).collect();
        let tasks = self.tasks_there(caller.scope, &ids).await?;
        if !tasks.is_empty() {
            return Ok(Some(tasks));
        }
        match self.storage.find::<RecoveryPoint>(caller.scope, begins.id(POINT, *first)).await? {
            Some(_) => Err(tasks_removed()),
            None => Ok(None),
        }
    }

    /// The machines of these ids, in that order.
    async fn vms_of(&self, scope: Scope, ids: &[VmId]) -> Result<Vec<VirtualMachine>, ProtectError> {
        let mut found = BTreeMap::new();
        for some in ids.chunks(500) {
            for vm in self.storage.find_all::<VirtualMachine>(scope, some).await? {
                found.insert(vm.id, vm.value);
            }
        }
        ids.iter().map(|id| found.remove(id).ok_or_else(|| ProtectError::not_found(Kind::Vm, id.uuid()))).collect()
    }

    /// The destination that was named, else the default one.
    pub(crate) async fn destination_for(
        &self,
        caller: &Caller,
        named: Option<BackupDestinationId>,
    ) -> Result<BackupDestination, ProtectError> {
        if let Some(id) = named {
            return Ok(self.storage.fetch::<BackupDestination>(caller.scope, id).await?.value);
        }
        let query = Query::matching(Filter::eq("is_default", true));
        let mut found = self.storage.list_of::<BackupDestination>(caller.scope, query).await?.items;
        match found.pop() {
            Some(default) => Ok(default.value),
            None => Err(ProtectError::Conflict("no backup destination is the default one: name one".into())),
        }
    }

    fn new_point(
        &self,
        begins: Begins<'_>,
        now: Timestamp,
        vm: &VirtualMachine,
        destination: &BackupDestination,
        backup_type: BackupType,
        origin: Origin,
    ) -> (RecoveryPoint, BackupCopy) {
        let id = begins.id(POINT, vm.id);
        let point = RecoveryPoint {
            id,
            name: point_name(vm, now),
            vm: vm.id,
            vm_name: vm.observed.name.to_string(),
            platform: vm.observed.platform,
            host: vm.observed.host,
            tenant: vm.settings.tenant,
            status: BackupStatus::Queued,
            status_info: String::new(),
            backup_type,
            chain: begins.id("export.chain", vm.id),
            session: None,
            parent: None,
            snapshot_time: None,
            consistency: Consistency::NotApplicable,
            frozen_ms: None,
            checkpoint: None,
            backup_time: None,
            created: now,
            size_bytes: 0,
            virtual_bytes: vm.observed.disks.iter().map(|d| d.size_bytes).sum(),
            stored_bytes: 0,
            disks: Vec::new(),
            description: String::new(),
            warnings: Vec::new(),
            warnings_acknowledged: false,
            locked: false,
            origin,
            times: StepTimes::default(),
            last_verified: None,
            trial: None,
        };
        let copy = BackupCopy {
            id: begins.id("export.copy", vm.id),
            point: id,
            vm: vm.id,
            tenant: vm.settings.tenant,
            destination: destination.id,
            role: DestinationRole::Primary,
            status: CopyStatus::InProgress,
            created: now,
            expires: None,
            locked_until: None,
        };
        (point, copy)
    }

    /// The EXPORT link, with what cleans up when the chain fails at it.
    fn export_link(
        &self,
        vm: &VirtualMachine,
        point: &RecoveryPoint,
        copy: &BackupCopy,
        wanted: BackupType,
    ) -> NewTask {
        let links = TaskLinks {
            vm: Some(vm.id),
            vm_name: point.vm_name.clone(),
            point: Some(point.id),
            point_name: point.name.clone(),
            destination: Some(copy.destination),
            platform: Some(point.platform),
            host: point.host,
            note: type_note(wanted),
            ..TaskLinks::default()
        };
        let payload = BackupPayload {
            point: point.id,
            copy: copy.id,
            vm: vm.id,
            destination: copy.destination,
            wanted,
            ready: None,
        };
        let payload = serde_json::to_value(payload).unwrap_or_default();
        NewTask {
            payload: payload.clone(),
            on_failure: Some(Box::new(self.backup_cleanup(point.chain, point.tenant, payload))),
            origin: point.origin.clone(),
            ..self.link(task_kind::EXPORT, point.chain, point.tenant, links)
        }
    }

    /// The tasks of these ids, in that order.
    pub(crate) async fn tasks_of(&self, scope: Scope, ids: &[TaskId]) -> Result<Vec<Task>, ProtectError> {
        let found = self.tasks_there(scope, ids).await?;
        if found.len() == ids.len() {
            return Ok(found);
        }
        let there: BTreeSet<TaskId> = found.iter().map(|t| t.new.id).collect();
        let gone = ids.iter().copied().find(|id| !there.contains(id));
        Err(ProtectError::NotFound { kind: "task", id: gone.map(TaskId::uuid).unwrap_or_default() })
    }

    /// Fails unless the point is there for the caller.
    pub(crate) async fn point_row(&self, scope: Scope, id: RecoveryPointId) -> Result<RecoveryPoint, ProtectError> {
        match self.storage.find::<RecoveryPoint>(scope, id).await? {
            Some(point) => Ok(point.value),
            None => Err(ProtectError::not_found(Kind::Point, id.uuid())),
        }
    }
}

/// The ids, each once, in the order of their first mention.
fn once(ids: &[VmId]) -> Vec<VmId> {
    let mut seen = BTreeSet::new();
    ids.iter().copied().filter(|id| seen.insert(*id)).collect()
}

/// `web01 - 2026-11-21 01:00:04`: clients show what follows the last ` - ` as the time.
fn point_name(vm: &VirtualMachine, now: Timestamp) -> String {
    let at = now.to_rfc3339();
    let (day, time) = (at.get(..10).unwrap_or_default(), at.get(11..19).unwrap_or_default());
    format!("{} - {day} {time}", vm.observed.name)
}
