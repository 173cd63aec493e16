//! TRIAL_BOOT: a backup is proven by booting it, from the repository, in a machine that reaches nothing.

use crate::error::ProtectError;
use crate::handlers::{failure, payload, unless_stopped};
use crate::instant::{PointMachine, disks_of};
use crate::service::{Protect, origin_of};
use async_trait::async_trait;
use portolan_driver::{Readiness, Ready};
use portolan_model::backup::TrialBoot;
use portolan_model::*;
use portolan_storage::{StorageExt, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, Limit, NewTask, Outcome, Task, TaskContext, TaskFailure, TaskLinks};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How the warning begins that a backup carries after a boot that failed.
const NO_BOOT: &str = "the backup did not boot: ";
/// How many trials of one platform run at once.
const AT_ONCE: i32 = 2;
/// The shortest and the longest wait for a machine to be ready.
const WITHIN: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(3600);
/// The longest text that a console is waited for to say, in characters.
const LONGEST_SIGN: usize = 200;
/// How much of a console's end is kept with the task, in characters.
const CONSOLE: usize = 2000;

pub(crate) struct TrialHandler(pub(crate) Protect);

/// What a booted machine is waited for to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrialSign {
    /// Its guest agent answers.
    Agent,
    /// Its console says this, letter by letter.
    Console(String),
}

/// A recovery point to prove.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialRequest {
    /// The point.
    pub point: RecoveryPointId,
    /// The copy to read; nothing for any that is present and reachable.
    pub destination: Option<BackupDestinationId>,
    /// The platform to boot it on; nothing for the one that it came from.
    pub platform: Option<PlatformId>,
    /// What it is waited for to show.
    pub sign: TrialSign,
    /// For how long, 5 seconds to an hour.
    pub within: Duration,
}

#[derive(Serialize, Deserialize)]
struct TrialPayload {
    point: RecoveryPointId,
    destination: BackupDestinationId,
    platform: PlatformId,
    sign: TrialSign,
    within_ms: u64,
}

#[async_trait]
impl Handler for TrialHandler {
    fn kind(&self) -> &'static str {
        task_kind::TRIAL_BOOT
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_trial(ctx).await.map_err(|e| failure(ctx, e))
    }
}

impl Protect {
    /// Asks for a trial boot of a recovery point: the task ends well when the machine became ready, and the point says
    /// what came of it either way. A request that its sender named is carried out once.
    pub async fn try_boot(&self, caller: &Caller, request: TrialRequest) -> Result<Task, ProtectError> {
        caller.require(Privilege::BackupWrite)?;
        if !WITHIN.contains(&request.within) {
            return Err(ProtectError::Invalid("a machine is waited for from 5 seconds to one hour".into()));
        }
        if let TrialSign::Console(text) = &request.sign
            && (text.is_empty() || text.chars().count() > LONGEST_SIGN || text.chars().any(char::is_control))
        {
            let text = format!("a console is waited for to say 1 to {LONGEST_SIGN} printable characters");
            return Err(ProtectError::Invalid(text));
        }
        let begins = self.begins(caller);
        let id = begins.id("trial.task", request.point);
        if begins.may_repeat()
            && let Some(task) = self.tasks_there(caller.scope, &[id]).await?.pop()
        {
            return Ok(task);
        }
        let point = self.whole_point(caller.scope, request.point, "booted").await?;
        let copy = self.readable_copy(caller.scope, &point, request.destination).await?;
        let platform = request.platform.unwrap_or(point.platform);
        let platform = self.storage.fetch::<Platform>(caller.scope, platform).await?.value;
        self.require_capability(&platform, |can| can.instant, "runs no machines from backups")?;
        let links = TaskLinks {
            vm: Some(point.vm),
            vm_name: point.vm_name.clone(),
            point: Some(point.id),
            point_name: point.name.clone(),
            destination: Some(copy.destination),
            platform: Some(platform.id),
            ..TaskLinks::default()
        };
        let payload = TrialPayload {
            point: point.id,
            destination: copy.destination,
            platform: platform.id,
            sign: request.sign,
            within_ms: u64::try_from(request.within.as_millis()).unwrap_or(u64::MAX),
        };
        let chain = begins.id("trial.chain", point.id);
        let task = NewTask {
            id,
            payload: serde_json::to_value(payload).unwrap_or_default(),
            unique_key: Some(format!("trial:{}:{}:{}", point.id, copy.destination, platform.id)),
            // It keeps its machine from nothing.
            limits: vec![Limit { key: format!("trial:{}", platform.id), max: AT_ONCE }],
            on_failure: Some(Box::new(self.instant_cleanup(chain, point.tenant, None, platform.id))),
            origin: origin_of(caller),
            ..self.link(task_kind::TRIAL_BOOT, chain, point.tenant, links)
        };
        let answers = self.storage.enqueue(self.clock.now(), vec![task]).await?;
        let ids: Vec<TaskId> = answers.iter().map(|e| e.id).collect();
        let mut tasks = self.tasks_of(caller.scope, &ids).await?;
        tasks.pop().ok_or(ProtectError::NotFound { kind: "task", id: point.id.uuid() })
    }

    async fn run_trial(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let job: TrialPayload = payload(ctx)?;
        let point = self.point_row(Scope::All, job.point).await?;
        let machine = PointMachine {
            point: job.point,
            destination: job.destination,
            platform: job.platform,
            datastore: None,
            name: point.vm_name.clone(),
            disks: disks_of(&point, None),
        };
        ctx.progress(0, 0, "booting the backup");
        let trial = async {
            let session = self.begin_from_point(ctx, &machine, true).await?;
            let sign = match &job.sign {
                TrialSign::Agent => Ready::Agent,
                TrialSign::Console(text) => Ready::Console(text.clone()),
            };
            let readiness = session.ready(Duration::from_millis(job.within_ms), sign).await?;
            // What was seen is what counts; a machine that cannot be removed now is gone with its session.
            if let Err(error) = session.abort().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a trial's machine could not be removed");
            }
            Ok(readiness)
        };
        let readiness = unless_stopped(ctx, trial).await?;
        self.settle_trial(ctx, &job, readiness).await
    }

    async fn settle_trial(
        &self,
        ctx: &TaskContext,
        job: &TrialPayload,
        readiness: Readiness,
    ) -> Result<Done, ProtectError> {
        let now = self.clock.now();
        let (trial, outcome) = match readiness {
            Readiness::Reached(took) => {
                let ready_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                let output = serde_json::json!({ "ready_ms": ready_ms });
                let trial = TrialBoot { at: now, booted: true, ready_ms: Some(ready_ms), reason: String::new() };
                (trial, Outcome::Succeeded { output })
            }
            Readiness::Missed { reason, console } => {
                let skipped = console.chars().count().saturating_sub(CONSOLE);
                let end: String = console.chars().skip(skipped).collect();
                let said = if end.trim().is_empty() { String::new() } else { format!("; its console ends: {end}") };
                let error = format!("{NO_BOOT}{reason}{said}");
                (TrialBoot { at: now, booted: false, ready_ms: None, reason }, Outcome::Failed { error })
            }
        };
        self.storage
            .change::<RecoveryPoint, _>(now, Scope::All, job.point, |p| {
                note_trial(p, &trial);
                let what = if trial.booted { "backup.booted" } else { "backup.boot_failed" };
                let data = serde_json::json!({ "vm": p.vm, "ready_ms": trial.ready_ms, "reason": trial.reason });
                Some(
                    UnitOfWork::new()
                        .finish(Finish { held: ctx.held(), outcome: outcome.clone(), next: Vec::new() })
                        .event(what, p.tenant, p.id.uuid(), data),
                )
            })
            .await?;
        Ok(Done::Settled)
    }
}

/// What a trial says of the backup. The last one counts.
fn note_trial(point: &mut RecoveryPoint, trial: &TrialBoot) {
    point.trial = Some(trial.clone());
    let before = point.warnings.len();
    point.warnings.retain(|w| !w.starts_with(NO_BOOT));
    if !trial.booted {
        // A second failure is no news to who has seen the first.
        if point.warnings.len() == before {
            point.warnings_acknowledged = false;
        }
        point.warnings.push(format!("{NO_BOOT}{}", trial.reason));
    }
}
