//! Figures over everything that a caller may see.

use crate::facade::Portolan;
use portolan_model::backup::BackupStatus;
use portolan_model::query::{Filter, Page, Value};
use portolan_model::*;
use portolan_protect::ProtectError;
use portolan_storage::{Query, StorageExt, StoreError};
use std::time::Duration;

/// How many machines that are there are protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protection {
    /// With a policy and a successful backup.
    pub protected: u64,
    /// With a policy, but without a successful backup.
    pub unprotected: u64,
    /// Without a policy.
    pub unscheduled: u64,
}

/// What became of the backups of some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupFigures {
    /// Backups that succeeded, those removed since included.
    pub successful: u64,
    /// Backups that failed.
    pub failed: u64,
    /// Backups that are being taken.
    pub in_progress: u64,
    /// Backups that wait.
    pub queued: u64,
    /// Bytes that the successful ones read.
    pub bytes: u64,
}

impl Portolan {
    /// How many machines are protected.
    pub async fn protection(&self, caller: &Caller) -> Result<Protection, ProtectError> {
        caller.require(Privilege::InventoryRead)?;
        let without = |field: &str| Filter::Eq(field.into(), Value::Null);
        let all = self.how_many(caller, Filter::All).await?;
        let unscheduled = self.how_many(caller, without("policy")).await?;
        let none_yet = without("last_backup").and(Filter::Not(Box::new(without("policy"))));
        let unprotected = self.how_many(caller, none_yet).await?;
        // Three counts are no snapshot: what changes in between must not turn into a huge number.
        let protected = all.saturating_sub(unscheduled).saturating_sub(unprotected);
        Ok(Protection { protected, unprotected, unscheduled })
    }

    async fn how_many(&self, caller: &Caller, filter: Filter) -> Result<u64, StoreError> {
        let filter = Filter::eq("present", true).and(filter);
        let query = Query { filter, page: Page::first(1), count: true, ..Query::default() };
        Ok(self.storage.list_of::<VirtualMachine>(caller.scope, query).await?.total.unwrap_or(0))
    }

    /// What became of the backups that were asked for within the last `span`.
    pub async fn backup_figures(&self, caller: &Caller, span: Duration) -> Result<BackupFigures, ProtectError> {
        caller.require(Privilege::BackupRead)?;
        let since = Filter::AtLeast("created".into(), (self.now() - span).into());
        let mut figures = BackupFigures::default();
        for point in self.storage.list_of::<RecoveryPoint>(caller.scope, Query::matching(since)).await?.items {
            match point.status {
                BackupStatus::Queued => figures.queued += 1,
                BackupStatus::InProgress => figures.in_progress += 1,
                BackupStatus::Failed => figures.failed += 1,
                BackupStatus::Success | BackupStatus::PartialSuccess | BackupStatus::SuccessRemoved => {
                    figures.successful += 1;
                    figures.bytes = figures.bytes.saturating_add(point.size_bytes);
                }
            }
        }
        Ok(figures)
    }
}
