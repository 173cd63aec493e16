//! VERIFY: a recovery point is read back, and every byte checked.

use crate::error::ProtectError;
use crate::handlers::{DiskProgress, failure, payload};
use crate::service::{Protect, origin_of};
use async_trait::async_trait;
use portolan_model::*;
use portolan_repository::{Damage, VerifyDepth, VerifyScope};
use portolan_storage::{StorageExt, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, NewTask, Outcome, Task, TaskContext, TaskFailure, TaskLinks};
use serde::{Deserialize, Serialize};

/// How many damaged places a task names; the rest is a number.
const NAMED: usize = 20;

/// How the warning of a damaged backup begins, and the error of the task that found it.
pub(crate) const DAMAGED: &str = "the backup is damaged: ";

pub(crate) struct VerifyHandler(pub(crate) Protect);

#[derive(Serialize, Deserialize)]
struct VerifyPayload {
    point: RecoveryPointId,
    destination: BackupDestinationId,
    depth: VerifyDepth,
}

#[async_trait]
impl Handler for VerifyHandler {
    fn kind(&self) -> &'static str {
        task_kind::VERIFY
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_verify(ctx).await.map_err(|e| failure(ctx, e))
    }
}

impl Protect {
    /// Asks for a check of one recovery point at the destination that was named, or at any that holds a copy. A
    /// request that its sender named is carried out once: a repetition answers the task that is there.
    pub async fn verify(
        &self,
        caller: &Caller,
        point: RecoveryPointId,
        destination: Option<BackupDestinationId>,
        depth: VerifyDepth,
    ) -> Result<Task, ProtectError> {
        caller.require(Privilege::BackupWrite)?;
        let begins = self.begins(caller);
        let id = begins.id("verify.task", point);
        if begins.may_repeat()
            && let Some(task) = self.tasks_there(caller.scope, &[id]).await?.pop()
        {
            return Ok(task);
        }
        let point = self.whole_point(caller.scope, point, "verified").await?;
        let copy = self.readable_copy(caller.scope, &point, destination).await?;
        let links = TaskLinks {
            vm: Some(point.vm),
            vm_name: point.vm_name.clone(),
            point: Some(point.id),
            point_name: point.name.clone(),
            destination: Some(copy.destination),
            ..TaskLinks::default()
        };
        let payload = VerifyPayload { point: point.id, destination: copy.destination, depth };
        let chain = begins.id("verify.chain", point.id);
        let link = self.link(task_kind::VERIFY, chain, point.tenant, links);
        let task = NewTask {
            id,
            payload: serde_json::to_value(payload).unwrap_or_default(),
            unique_key: Some(format!("verify:{}:{}:{depth:?}", point.id, copy.destination)),
            // Reading a backup does not keep its machine from the next one.
            limits: link.limits.iter().filter(|l| !l.key.starts_with("vm:")).cloned().collect(),
            origin: origin_of(caller),
            ..link
        };
        let answers = self.storage.enqueue(self.clock.now(), vec![task]).await?;
        let ids: Vec<TaskId> = answers.iter().map(|e| e.id).collect();
        let mut tasks = self.tasks_of(caller.scope, &ids).await?;
        tasks.pop().ok_or(ProtectError::NotFound { kind: "task", id: point.id.uuid() })
    }

    async fn run_verify(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let job: VerifyPayload = payload(ctx)?;
        let repository = self.repositories.get(job.destination)?;
        let observer = DiskProgress::new(ctx, 0, 0, "verifying".into());
        let mut report = repository.verify(VerifyScope::Points(vec![job.point]), job.depth, &observer).await?;
        let now = self.clock.now();
        if let Some(point) = self.storage.find::<RecoveryPoint>(Scope::All, job.point).await? {
            name_disks(&mut report.damage, &point);
        }
        let damage = describe_damage(&report.damage);
        let output = serde_json::to_value(&report).unwrap_or_default();
        let outcome = match &damage {
            None => Outcome::Succeeded { output },
            Some(text) => Outcome::Failed { error: text.clone() },
        };
        self.storage
            .change::<RecoveryPoint, _>(now, Scope::All, job.point, |p| {
                note_finding(p, job.depth, damage.as_deref(), now);
                Some(UnitOfWork::new().finish(Finish { held: ctx.held(), outcome: outcome.clone(), next: Vec::new() }))
            })
            .await?;
        Ok(Done::Settled)
    }
}

/// What a check says of the backup. Damage takes the claim back that it was verified; only a check of every byte
/// makes that claim, and only the deepest takes a warning of damage back.
fn note_finding(point: &mut RecoveryPoint, depth: VerifyDepth, damage: Option<&str>, now: Timestamp) {
    match damage {
        None => {
            if depth >= VerifyDepth::Pack {
                point.last_verified = Some(now);
            }
            if depth == VerifyDepth::Data {
                point.warnings.retain(|w| !w.starts_with(DAMAGED));
            }
        }
        Some(text) => {
            point.last_verified = None;
            if !point.warnings.iter().any(|w| w == text) {
                point.warnings.retain(|w| !w.starts_with(DAMAGED));
                point.warnings.push(text.to_owned());
                point.warnings_acknowledged = false;
            }
        }
    }
}

/// A repository that cannot read a point's manifest may not know which disks it held. The catalogue does.
fn name_disks(damage: &mut Vec<Damage>, point: &RecoveryPoint) {
    let manifest = format!("points/{}", point.id);
    let lost = |d: &Damage| d.object == manifest && d.disk.is_none();
    let Some(found) = damage.iter().find(|d| lost(d)).cloned() else { return };
    let held = point.disks.iter().filter(|disk| !disk.excluded);
    let disks: Vec<Damage> = held
        .map(|disk| Damage { disk: Some(disk.name.clone()), range: Some(0..disk.size_bytes), ..found.clone() })
        .collect();
    if !disks.is_empty() {
        damage.retain(|d| !lost(d));
        damage.extend(disks);
    }
}

/// What is damaged, for people; nothing when all is well.
fn describe_damage(damage: &[Damage]) -> Option<String> {
    if damage.is_empty() {
        return None;
    }
    let mut lines: Vec<String> = damage
        .iter()
        .take(NAMED)
        .map(|d| {
            let place = match (&d.disk, &d.range) {
                (Some(disk), Some(range)) => format!("disk '{disk}' bytes {}..{}: ", range.start, range.end),
                (Some(disk), None) => format!("disk '{disk}': "),
                _ => String::new(),
            };
            format!("{place}{} ({})", d.what, d.object)
        })
        .collect();
    if damage.len() > NAMED {
        lines.push(format!("and {} more", damage.len() - NAMED));
    }
    Some(format!("{DAMAGED}{}", lines.join("; ")))
}
