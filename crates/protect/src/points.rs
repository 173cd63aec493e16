//! Backups as lists show them: the point with its copies.

use crate::error::ProtectError;
use crate::service::Protect;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::*;
use portolan_storage::{Query, StorageExt, UnitOfWork};
use std::collections::BTreeMap;

/// Which backups.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PointQuery {
    /// A condition over points.
    pub filter: Filter,
    /// The order.
    pub sort: Sort,
    /// Which part.
    pub page: Page,
    /// Whether to count all that match.
    pub count: bool,
}

/// A backup with its copies and the names of their destinations.
#[derive(Debug, Clone, PartialEq)]
pub struct PointView {
    /// The recovery point.
    pub point: RecoveryPoint,
    /// Its copies, oldest first.
    pub copies: Vec<BackupCopy>,
}

impl Protect {
    /// Backups that the caller may see, and how many match in all where asked for.
    pub async fn points(
        &self,
        caller: &Caller,
        query: PointQuery,
    ) -> Result<(Vec<PointView>, Option<u64>), ProtectError> {
        caller.require(Privilege::BackupRead)?;
        let query = Query { filter: query.filter, sort: query.sort, page: query.page, count: query.count };
        let page = self.storage.list_of::<RecoveryPoint>(caller.scope, query).await?;
        let points: Vec<RecoveryPoint> = page.items.into_iter().map(|s| s.value).collect();
        Ok((self.with_copies(caller, points).await?, page.total))
    }

    /// One backup.
    pub async fn point(&self, caller: &Caller, id: RecoveryPointId) -> Result<PointView, ProtectError> {
        caller.require(Privilege::BackupRead)?;
        let point = self.point_row(caller.scope, id).await?;
        let mut views = self.with_copies(caller, vec![point]).await?;
        views.pop().ok_or(ProtectError::NotFound { kind: "point", id: id.uuid() })
    }

    /// Copies that the caller may see.
    pub async fn copies(
        &self,
        caller: &Caller,
        query: Query,
    ) -> Result<portolan_storage::ListOf<BackupCopy>, ProtectError> {
        caller.require(Privilege::BackupRead)?;
        Ok(self.storage.list_of::<BackupCopy>(caller.scope, query).await?)
    }

    /// Writes the user's text on a backup.
    pub async fn describe_point(&self, caller: &Caller, id: RecoveryPointId, text: &str) -> Result<(), ProtectError> {
        caller.require(Privilege::BackupWrite)?;
        if text.chars().count() > 4096 {
            return Err(ProtectError::Invalid("a description must not be longer than 4096 characters".into()));
        }
        if text.contains('\0') {
            return Err(ProtectError::Invalid("a description must not contain the character NUL".into()));
        }
        self.storage
            .change::<RecoveryPoint, _>(self.clock.now(), caller.scope, id, |p| {
                p.description = text.to_owned();
                Some(UnitOfWork::new())
            })
            .await?;
        Ok(())
    }

    /// Notes that the user has seen a backup's warnings, or has not.
    pub async fn acknowledge(&self, caller: &Caller, id: RecoveryPointId, seen: bool) -> Result<(), ProtectError> {
        caller.require(Privilege::BackupWrite)?;
        self.storage
            .change::<RecoveryPoint, _>(self.clock.now(), caller.scope, id, |p| {
                p.warnings_acknowledged = seen;
                Some(UnitOfWork::new())
            })
            .await?;
        Ok(())
    }

    async fn with_copies(&self, caller: &Caller, points: Vec<RecoveryPoint>) -> Result<Vec<PointView>, ProtectError> {
        let mut by_point: BTreeMap<RecoveryPointId, Vec<BackupCopy>> = BTreeMap::new();
        for some in points.chunks(500) {
            let filter = Filter::any("point", some.iter().map(|p| p.id.uuid()));
            for copy in self.storage.list_of::<BackupCopy>(caller.scope, Query::matching(filter)).await?.items {
                by_point.entry(copy.point).or_default().push(copy.value);
            }
        }
        Ok(points
            .into_iter()
            .map(|point| PointView { copies: by_point.remove(&point.id).unwrap_or_default(), point })
            .collect())
    }
}
