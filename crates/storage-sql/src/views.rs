//! Reads.

use crate::error::{Fail, Unfit};
use crate::events;
use crate::filter::{condition, order, part};
use crate::sql::{Cells, Sql, fold, int, opt_id, text, uuid};
use crate::store::SqlStorage;
use crate::whole::Calls;
use async_trait::async_trait;
use portolan_model::query::{Direction, Filter};
use portolan_model::{Scope, TenantId};
use portolan_storage::{Changes, Event, EventQuery, EventSeq, Kind, RawQuery, Row, RowPage, StoreError, Views, index};
use sea_orm::QueryResult;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Ids that one statement asks for.
const IDS: usize = 512;

/// The columns of a [`Row`].
const ROW: [&str; 4] = ["id", "version", "tenant", "doc"];

#[async_trait]
impl Views for Calls {
    async fn rows(&self, scope: Scope, kind: Kind, ids: &[Uuid]) -> Result<Vec<Row>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let mut rows = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS) {
            let mut sql = self.sql(&format!("SELECT {} FROM {} WHERE id IN ", ROW.join(", "), kind.table()));
            sql.list(ids);
            visible(sql.push(" AND "), scope, kind, "");
            let found = sql.all(&self.read).await.map_err(Fail::into_store)?;
            for row in &found {
                rows.push(read(kind, row)?);
            }
        }
        Ok(rows)
    }

    async fn holder(&self, scope: Scope, kind: Kind, key: &str) -> Result<Option<Row>, StoreError> {
        let columns = ROW.map(|c| format!("o.{c}")).join(", ");
        let mut sql = self
            .sql(&format!("SELECT {columns} FROM unique_key u JOIN {} o ON o.id = u.id WHERE u.k = ", kind.table()));
        sql.bind(fold(key)).push(" AND u.kind = ").bind(text(kind.table()));
        visible(sql.push(" AND "), scope, kind, "o.");
        let row = sql.one(&self.read).await.map_err(Fail::into_store)?;
        row.map(|row| read(kind, &row)).transpose()
    }

    async fn list(&self, scope: Scope, query: &RawQuery) -> Result<RowPage, StoreError> {
        let kind = query.kind;
        let filter = index::filter(kind, &query.filter)?;
        let column = index::sort(kind, &query.sort)?.map(|f| f.name);
        let down = query.sort.direction == Direction::Descending;
        // The page's ids first, out of an index where there is one: sorting never carries documents along.
        let picked = column.map_or("id".to_owned(), |c| format!("id, {c}"));
        let columns = ROW.map(|c| format!("o.{c}")).join(", ");
        let mut sql = self.sql(&format!("SELECT {columns} FROM (SELECT {picked} FROM {} WHERE ", kind.table()));
        visible(&mut sql, scope, kind, "");
        sql.push(" AND ");
        condition(&mut sql, &filter);
        order(&mut sql, "", column, down);
        part(&mut sql, query.page);
        sql.push(&format!(") p JOIN {} o ON o.id = p.id", kind.table()));
        order(&mut sql, "p.", column, down);
        let found = sql.all(&self.read).await.map_err(Fail::into_store)?;
        let rows = found.iter().map(|row| read(kind, row)).collect::<Result<_, _>>()?;
        let total = if query.count { Some(self.count_simple(scope, kind, &filter).await?) } else { None };
        Ok(RowPage { rows, total })
    }

    async fn count(&self, scope: Scope, kind: Kind, filter: &Filter) -> Result<u64, StoreError> {
        self.count_simple(scope, kind, &index::filter(kind, filter)?).await
    }

    async fn events(&self, scope: Scope, after: EventSeq, limit: u32) -> Result<Vec<Event>, StoreError> {
        events::after(&self.read, self.dialect, scope, after, limit).await.map_err(Fail::into_store)
    }

    async fn find_events(&self, scope: Scope, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        events::find(&self.read, self.dialect, scope, query).await.map_err(Fail::into_store)
    }

    fn changes(&self, kind: Kind, since: Option<u64>) -> Changes {
        self.feed.changes(kind, since)
    }
}

impl SqlStorage {
    /// How many match a filter in its simplest form.
    async fn count_simple(&self, scope: Scope, kind: Kind, filter: &Filter) -> Result<u64, StoreError> {
        let mut sql;
        if *filter == Filter::All {
            sql = self.sql("SELECT n FROM counter WHERE kind = ");
            sql.bind(text(kind.table()));
            if let Scope::Tenant(tenant) = scope {
                sql.push(" AND tenant IN ");
                let none = if kind.tenanted() { tenant.uuid() } else { Uuid::nil() };
                sql.list(&[tenant.uuid(), none]);
            }
        } else {
            sql = self.sql(&format!("SELECT COUNT(*) FROM {} WHERE ", kind.table()));
            visible(&mut sql, scope, kind, "");
            sql.push(" AND ");
            condition(&mut sql, filter);
        }
        let read = async {
            let mut sum = 0_i64;
            for row in sql.all(&self.read).await? {
                sum = sum.saturating_add(Cells::of(&row).int()?);
            }
            u64::try_from(sum).map_err(|_| StoreError::internal(Unfit::Value(format!("{kind}: {sum} objects"))).into())
        };
        read.await.map_err(Fail::into_store)
    }
}

/// Adds the condition that the scope sees the object.
fn visible(sql: &mut Sql, scope: Scope, kind: Kind, prefix: &str) {
    match scope {
        Scope::All => sql.push("1 = 1"),
        Scope::Tenant(tenant) if kind.tenanted() => sql.push(&format!("{prefix}tenant = ")).bind(opt_id(Some(tenant))),
        Scope::Tenant(tenant) => {
            sql.push(&format!("({prefix}tenant IS NULL OR {prefix}tenant = ")).bind(opt_id(Some(tenant))).push(")")
        }
    };
}

/// Reads the columns of [`ROW`].
fn read(kind: Kind, row: &QueryResult) -> Result<Row, StoreError> {
    let mut cells = Cells::of(row);
    let mut head = || -> Result<_, Fail> {
        Ok((cells.uuid()?, cells.int()?, cells.take::<Option<Uuid>>()?.map(TenantId::from_uuid), cells.text()?))
    };
    let (id, version, tenant, doc) = head().map_err(Fail::into_store)?;
    let doc = serde_json::from_str(&doc).map_err(|source| StoreError::Corrupt { kind, id, source })?;
    Ok(Row { kind, id, version, tenant, doc })
}

/// A row of the counters: what is missing counts as nothing.
pub(crate) fn counter_row(kind: Kind, tenant: Option<TenantId>, change: i64) -> Vec<sea_orm::Value> {
    vec![text(kind.table()), uuid(tenant.map_or(Uuid::nil(), |t| t.uuid())), int(change)]
}
