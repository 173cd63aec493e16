//! What the use cases stand on.

use crate::error::ProtectError;
use crate::repositories::Repositories;
use portolan_driver::Hypervisors;
use portolan_model::backup::{Origin, OriginKind};
use portolan_model::describe::Describe;
use portolan_model::*;
use portolan_storage::{Storage, StorageExt};
use portolan_tasks::{Limit, NewTask, TaskLinks};
use std::sync::Arc;
use std::time::Duration;

/// How many machines of one platform, or backups of one destination, are worked on at once.
const AT_ONCE: i32 = 4;
/// How long a task may wait to be started when its request does not say: five hours for exports and stores.
pub(crate) const EXPORT_WINDOW: Duration = Duration::from_secs(5 * 3600);
/// How often a task is tried within itself, lost workers included.
const ATTEMPTS: i32 = 10;

/// Backup, restore and verify.
#[derive(Clone)]
pub struct Protect {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) hypervisors: Arc<Hypervisors>,
    pub(crate) repositories: Arc<Repositories>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
}

impl Protect {
    /// The use cases over these ports.
    pub fn new(
        storage: Arc<dyn Storage>,
        hypervisors: Arc<Hypervisors>,
        repositories: Arc<Repositories>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
    ) -> Self {
        Self { storage, hypervisors, repositories, clock, ids }
    }

    /// A machine that the caller may see.
    pub(crate) async fn vm(&self, scope: Scope, id: VmId) -> Result<VirtualMachine, ProtectError> {
        Ok(self.storage.fetch::<VirtualMachine>(scope, id).await?.value)
    }

    /// A link of a chain with the habits that all of them share.
    pub(crate) fn link(&self, kind: &str, chain: ChainId, tenant: Option<TenantId>, links: TaskLinks) -> NewTask {
        let mut limits = Vec::new();
        let mut requires = Vec::new();
        if let Some(vm) = links.vm {
            limits.push(Limit { key: format!("vm:{vm}"), max: 1 });
        }
        if let Some(platform) = links.platform {
            limits.push(Limit { key: format!("platform:{platform}"), max: AT_ONCE });
            requires.push(format!("platform:{platform}"));
        }
        if let Some(destination) = links.destination {
            limits.push(Limit { key: format!("destination:{destination}"), max: AT_ONCE });
            requires.push(format!("destination:{destination}"));
        }
        NewTask {
            id: TaskId::from_uuid(self.ids.uuid()),
            kind: kind.to_owned(),
            tenant,
            chain,
            priority: 50,
            run_at: self.clock.now(),
            start_by: None,
            deadline: None,
            max_attempts: ATTEMPTS,
            retries: 0,
            payload: serde_json::Value::Null,
            links,
            after: Vec::new(),
            unique_key: None,
            limits,
            requires,
            on_failure: None,
            origin: Origin { kind: OriginKind::SystemSchedule, id: None, name: "system".into() },
        }
    }
}

/// The caller as what asked for a task.
pub fn origin_of(caller: &Caller) -> Origin {
    let kind = if caller.account.is_some() { OriginKind::User } else { OriginKind::SystemSchedule };
    Origin { kind, id: caller.account.map(AccountId::uuid), name: caller.login.clone() }
}

/// What a task's note holds for lists: the backup type.
pub(crate) fn type_note(backup_type: portolan_model::backup::BackupType) -> serde_json::Value {
    serde_json::json!({ "backup_type": backup_type.name() })
}

/// Milliseconds between two moments, zero when they are the wrong way round.
pub(crate) fn millis(from: Timestamp, to: Timestamp) -> i64 {
    i64::try_from(to.since(from).as_millis()).unwrap_or(i64::MAX)
}
