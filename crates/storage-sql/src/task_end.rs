//! What becomes of tasks that have ended, and of what they leave behind.

use crate::error::Fail;
use crate::sql::{Cells, Dialect, Sql, uuid};
use crate::task_rows as rows;
use crate::work::AT_ONCE;
use portolan_model::{Scope, TaskId, TenantId, Timestamp};
use portolan_tasks::Task;
use sea_orm::DatabaseTransaction;

/// Whether the scope sees a task of this tenant.
pub(crate) fn sees(scope: Scope, tenant: Option<TenantId>) -> bool {
    match scope {
        Scope::All => true,
        Scope::Tenant(mine) => tenant == Some(mine),
    }
}

/// The task, if it has ended.
pub(crate) async fn ended(tx: &DatabaseTransaction, dialect: Dialect, id: TaskId) -> Result<Option<Task>, Fail> {
    let mut sql = Sql::new(dialect, &format!("SELECT {} FROM task_history WHERE id = ", rows::READ));
    sql.bind(rows::key(id));
    sql.one(tx).await?.as_ref().map(rows::read).transpose()
}

/// Removes the oldest ends, and the lanes that nobody is in; returns how many ends.
pub(crate) async fn prune(
    tx: &DatabaseTransaction,
    dialect: Dialect,
    before: Timestamp,
    limit: u32,
) -> Result<u64, Fail> {
    let mut sql = Sql::new(dialect, "SELECT id FROM task_history WHERE finished < ");
    sql.bind(before.as_micros()).push(" ORDER BY finished, id LIMIT ").bind(i64::from(limit));
    sql.push(dialect.skip_locked());
    let mut ids = Vec::new();
    for row in sql.all(tx).await? {
        ids.push(TaskId::from_uuid(Cells::of(&row).uuid()?));
    }
    erase(tx, dialect, &ids).await?;
    prune_lanes(tx, dialect, limit).await?;
    Ok(ids.len() as u64)
}

/// Removes ended tasks for good.
pub(crate) async fn erase(tx: &DatabaseTransaction, dialect: Dialect, ids: &[TaskId]) -> Result<(), Fail> {
    for ids in ids.chunks(AT_ONCE) {
        for (table, column) in [("task_history", "id"), ("task_step", "task")] {
            let mut sql = Sql::new(dialect, &format!("DELETE FROM {table} WHERE {column} IN "));
            sql.list(&ids.iter().map(|id| uuid(id.uuid())).collect::<Vec<_>>());
            sql.run(tx).await?;
        }
    }
    Ok(())
}

/// Removes lanes without anybody in them; the next claim that needs one adds it again.
///
/// A place is taken by a transaction that has locked the lane's row, and given back by one that takes it over or
/// adds to it. The rows are locked here too, passing over those that a claim has locked just now, and only then is
/// it certain that nobody is in them: what a claim commits later finds the lane gone ([`crate::task_claim`] then
/// begins anew), what it committed before is no longer empty. Last of all, so that nobody waits for them long.
async fn prune_lanes(tx: &DatabaseTransaction, dialect: Dialect, limit: u32) -> Result<(), Fail> {
    let mut sql = Sql::new(dialect, "SELECT k FROM lane WHERE used = 0 ORDER BY k LIMIT ");
    sql.bind(i64::from(limit)).push(dialect.skip_locked());
    let mut keys = Vec::new();
    for row in sql.all(tx).await? {
        keys.push(Cells::of(&row).text()?);
    }
    for keys in keys.chunks(AT_ONCE) {
        let mut sql = Sql::new(dialect, "DELETE FROM lane WHERE used = 0 AND k IN ");
        sql.list(keys);
        sql.run(tx).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::sql::Cells;
    use crate::{SqlConfig, SqlStorage};
    use portolan_model::Timestamp;
    use portolan_tasks::{Outcome, TaskStore};
    use portolan_testkit::tasks::{Kit, done};

    async fn lanes(storage: &SqlStorage) -> Vec<(String, i64)> {
        let rows = storage.sql("SELECT k, used FROM lane ORDER BY k").all(&storage.read).await.unwrap();
        let read = |row| {
            let mut cells = Cells::of(row);
            (cells.text().unwrap(), cells.int().unwrap())
        };
        rows.iter().map(read).collect()
    }

    #[tokio::test]
    async fn lanes_are_let_go_of_once_nobody_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let storage = SqlStorage::connect(SqlConfig::sqlite(&dir.path().join("db"))).await.unwrap();
        let kit = Kit::new(storage.clone());
        let limited = |key| kit.limited("A", &[(key, 1)]);
        kit.add(limited("a")).await;
        let (first, second) = (kit.claim_one().await, kit.add(limited("b")).await);
        let held = kit.claim_one().await;
        assert_eq!(held.new.id, second);
        kit.finish(&first, done()).await.unwrap();
        assert_eq!(lanes(&storage).await, [("a".into(), 0), ("b".into(), 1)]);
        assert_eq!(storage.prune(Timestamp::MIN, 100).await.unwrap(), 0);
        assert_eq!(lanes(&storage).await, [("b".into(), 1)]);
        // What was let go of is there again when it is needed.
        kit.add(limited("a")).await;
        kit.claim_one().await;
        kit.finish(&held, Outcome::Released).await.unwrap();
        assert_eq!(lanes(&storage).await, [("a".into(), 1), ("b".into(), 0)]);
        storage.prune(Timestamp::MIN, 100).await.unwrap();
        assert_eq!(lanes(&storage).await, [("a".into(), 1)]);
    }
}
