//! Machines, their snapshots and their backups on the wire.

use super::{id, time};
use portolan::driver::MachineSnapshot;
use portolan::protect::PointView;
use portolan_model::VirtualMachine;
use portolan_model::describe::Describe;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A machine as its platform last described it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Machine {
    id: Uuid,
    name: String,
    platform: Uuid,
    platform_name: String,
    /// The platform's own id.
    native_id: String,
    host_name: String,
    tenant: Option<Uuid>,
    /// `ON`, `OFF`, …
    power: &'static str,
    /// It was there when its platform was last listed.
    present: bool,
    cpus: u32,
    memory_bytes: u64,
    disks: Vec<MachineDisk>,
    tags: Vec<String>,
    last_seen: String,
}

/// A disk of a machine.
#[derive(Serialize, ToSchema)]
pub(crate) struct MachineDisk {
    name: String,
    size_bytes: u64,
    format: String,
    /// It can be backed up.
    supported: bool,
}

/// A snapshot of a machine.
#[derive(Serialize, ToSchema)]
pub(crate) struct Snapshot {
    /// The platform's own id, unique within the machine.
    id: String,
    name: String,
    /// It has the machine's memory.
    memory: bool,
    created: String,
}

/// A backup with its copies.
#[derive(Serialize, ToSchema)]
pub(crate) struct Backup {
    id: Uuid,
    name: String,
    machine: Uuid,
    machine_name: String,
    platform: Uuid,
    tenant: Option<Uuid>,
    /// `QUEUED`, `IN_PROGRESS`, `SUCCESS`, …
    status: &'static str,
    /// Why it failed, or why a full was taken where an increment was asked for.
    status_info: String,
    /// `FULL` or `INCREMENTAL`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The moment that the data is of.
    moment: Option<String>,
    created: String,
    /// How the machine was brought to rest at that moment.
    consistency: &'static str,
    /// How long its file systems stood still for it.
    frozen_ms: Option<u64>,
    /// Bytes that differ from the parent; of a full backup all that hold data.
    size_bytes: u64,
    virtual_bytes: u64,
    /// Bytes that it added to the repository.
    stored_bytes: u64,
    warnings: Vec<String>,
    locked: bool,
    /// When every byte was last read, and found whole.
    last_verified: Option<String>,
    /// The last trial boot; `null` where there was none.
    trial: Option<Trial>,
    copies: Vec<Copy>,
}

/// What a trial boot came to.
#[derive(Serialize, ToSchema)]
pub(crate) struct Trial {
    at: String,
    booted: bool,
    /// From the machine's start until it was ready.
    ready_ms: Option<u64>,
    /// Why it did not become ready.
    reason: String,
}

/// A copy of a backup.
#[derive(Serialize, ToSchema)]
pub(crate) struct Copy {
    destination: Uuid,
    status: &'static str,
}

pub(crate) fn machine(vm: VirtualMachine) -> Machine {
    let o = vm.observed;
    let disk = |d: portolan_model::Disk| MachineDisk {
        name: d.name,
        size_bytes: d.size_bytes,
        format: d.format,
        supported: d.supported,
    };
    Machine {
        id: vm.id.uuid(),
        name: o.name.to_string(),
        platform: o.platform.uuid(),
        platform_name: o.platform_name,
        native_id: vm.external.native_id,
        host_name: o.host_name,
        tenant: id(vm.settings.tenant),
        power: o.power.name(),
        present: o.present,
        cpus: o.cpus,
        memory_bytes: o.memory_bytes,
        disks: o.disks.into_iter().map(disk).collect(),
        tags: o.tags,
        last_seen: time(o.last_seen),
    }
}

pub(crate) fn snapshot(s: MachineSnapshot) -> Snapshot {
    Snapshot { id: s.native_id, name: s.name, memory: s.memory, created: time(s.created_at) }
}

pub(crate) fn backup(view: PointView) -> Backup {
    let p = view.point;
    let trial = p.trial.map(|t| Trial { at: time(t.at), booted: t.booted, ready_ms: t.ready_ms, reason: t.reason });
    let copies = view.copies.iter().map(|c| Copy { destination: c.destination.uuid(), status: c.status.name() });
    Backup {
        id: p.id.uuid(),
        name: p.name,
        machine: p.vm.uuid(),
        machine_name: p.vm_name,
        platform: p.platform.uuid(),
        tenant: id(p.tenant),
        status: p.status.name(),
        status_info: p.status_info,
        kind: p.backup_type.name(),
        moment: p.snapshot_time.map(time),
        created: time(p.created),
        consistency: p.consistency.name(),
        frozen_ms: p.frozen_ms,
        size_bytes: p.size_bytes,
        virtual_bytes: p.virtual_bytes,
        stored_bytes: p.stored_bytes,
        warnings: p.warnings,
        locked: p.locked,
        last_verified: p.last_verified.map(time),
        trial,
        copies: copies.collect(),
    }
}
