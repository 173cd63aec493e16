//! Comfort over the ports: typed reads, and read → decide → apply.

use crate::error::{Conflict, StoreError};
use crate::record::Record;
use crate::store::{Applied, RawQuery, Row, Storage};
use crate::unit::UnitOfWork;
use async_trait::async_trait;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::{Scope, Timestamp, TypedId};

/// An object with the version that it was read at.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<R> {
    /// Its version.
    pub version: i64,
    /// The object.
    pub value: R,
}

impl<R> std::ops::Deref for Stored<R> {
    type Target = R;
    fn deref(&self) -> &R {
        &self.value
    }
}

impl<R> std::ops::DerefMut for Stored<R> {
    fn deref_mut(&mut self) -> &mut R {
        &mut self.value
    }
}

impl<R: Record> Stored<R> {
    /// Reads a row as a record.
    pub fn from_row(row: Row) -> Result<Self, StoreError> {
        let (kind, id) = (row.kind, row.id);
        match serde_json::from_value(row.doc) {
            Ok(value) => Ok(Self { version: row.version, value }),
            Err(source) => Err(StoreError::Corrupt { kind, id, source }),
        }
    }
}

/// Which objects of one type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query {
    /// A condition.
    pub filter: Filter,
    /// The order.
    pub sort: Sort,
    /// Which part.
    pub page: Page,
    /// Whether to count all that match.
    pub count: bool,
}

impl Query {
    /// All that match, by id.
    pub fn matching(filter: Filter) -> Self {
        Self { filter, ..Self::default() }
    }

    /// The newest that match, by id.
    pub fn newest(filter: Filter, limit: u64) -> Self {
        Self { filter, sort: Sort::newest(), page: Page::first(limit), count: false }
    }
}

/// A page of objects of one type.
#[derive(Debug, Clone, PartialEq)]
pub struct ListOf<R> {
    /// The objects.
    pub items: Vec<Stored<R>>,
    /// How many match in all, where asked for.
    pub total: Option<u64>,
}

/// How often read → decide → apply is tried before the conflict is handed on.
const ROUNDS: u32 = 32;

/// Typed reads and writes over any storage.
#[async_trait]
pub trait StorageExt: Storage {
    /// The object, or `NotFound`.
    async fn fetch<R: Record>(&self, scope: Scope, id: R::Id) -> Result<Stored<R>, StoreError> {
        self.find::<R>(scope, id).await?.ok_or(StoreError::NotFound { kind: R::KIND, id: id.uuid() })
    }

    /// The object, if it is there.
    async fn find<R: Record>(&self, scope: Scope, id: R::Id) -> Result<Option<Stored<R>>, StoreError> {
        self.rows(scope, R::KIND, &[id.uuid()]).await?.pop().map(Stored::from_row).transpose()
    }

    /// The objects of these ids that are there, in no order.
    async fn find_all<R: Record>(&self, scope: Scope, ids: &[R::Id]) -> Result<Vec<Stored<R>>, StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
        self.rows(scope, R::KIND, &ids).await?.into_iter().map(Stored::from_row).collect()
    }

    /// The object that holds a unique key.
    async fn find_by_key<R: Record>(&self, scope: Scope, key: &str) -> Result<Option<Stored<R>>, StoreError> {
        self.holder(scope, R::KIND, key).await?.map(Stored::from_row).transpose()
    }

    /// A page of a list.
    async fn list_of<R: Record>(&self, scope: Scope, query: Query) -> Result<ListOf<R>, StoreError> {
        let raw =
            RawQuery { kind: R::KIND, filter: query.filter, sort: query.sort, page: query.page, count: query.count };
        let page = self.list(scope, &raw).await?;
        Ok(ListOf { items: page.rows.into_iter().map(Stored::from_row).collect::<Result<_, _>>()?, total: page.total })
    }

    /// Reads the object, lets `decide` change it and add to the unit, and applies; again on fresh data when
    /// somebody else was faster. `decide` returns `None` to leave everything as it is.
    async fn change<R, F>(&self, now: Timestamp, scope: Scope, id: R::Id, decide: F) -> Result<Stored<R>, StoreError>
    where
        R: Record,
        F: Fn(&mut R) -> Option<UnitOfWork> + Send + Sync,
    {
        let mut round = 0;
        loop {
            let mut stored = self.fetch::<R>(scope, id).await?;
            let Some(unit) = decide(&mut stored.value) else { return Ok(stored) };
            match self.apply(now, scope, unit.update(&stored)).await {
                Ok(_) => {
                    stored.version += 1;
                    return Ok(stored);
                }
                Err(StoreError::Conflict(Conflict::Version { .. })) if round < ROUNDS => round += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// Applies a unit for Portolan itself.
    async fn apply_all(&self, now: Timestamp, unit: UnitOfWork) -> Result<Applied, StoreError> {
        self.apply(now, Scope::All, unit).await
    }
}
impl<T: Storage + ?Sized> StorageExt for T {}
