//! Handing tasks out.

use crate::error::Fail;
use crate::sql::{Cells, Dialect, Sql, fold, insert_all, int};
use crate::task_rows as rows;
use crate::tasks::{advance, odd};
use crate::work::{AT_ONCE, Work, uuids};
use portolan_model::Timestamp;
use portolan_tasks::{ClaimRequest, Claimed, Json, Task, rules};
use sea_orm::DatabaseTransaction;
use std::collections::{BTreeSet, HashMap};

/// The most tasks of one claim: what one draw of the fence is good for.
const MAX_CLAIM: i64 = 4096;
/// How often a claim looks on when limits filled up within it.
const CLAIM_ROUNDS: u32 = 16;

/// Selects `columns` of the tasks that can be claimed, in rank order.
pub(crate) fn candidates(dialect: Dialect, now: Timestamp, request: &ClaimRequest, columns: &str) -> Sql {
    let now = now.as_micros();
    let index = if dialect == Dialect::MariaDb {
        // In index order only the rows that are returned are locked; a sort would lock all that match.
        " FORCE INDEX (task_claim)"
    } else {
        ""
    };
    // Nothing that is due has a rank above the present, so that what is scheduled for later is not looked at. The sum
    // keeps planners from looking for `run_at` in an index: only the claims' own has the order.
    let mut sql =
        Sql::new(dialect, &format!("SELECT {columns} FROM task t{index} WHERE claimable = 1 AND rank_key <= "));
    sql.bind(now).push(" AND run_at + 0 <= ").bind(now);
    sql.push(" AND (start_by IS NULL OR start_by >= ").bind(now);
    sql.push(") AND (deadline IS NULL OR deadline >= ").bind(now).push(")");
    sql.push(" AND kind IN ").list(&request.kinds.iter().map(|k| crate::sql::cut(k)).collect::<Vec<_>>());
    sql.push(" AND (tagged = 0");
    if !request.serves.is_empty() {
        sql.push(" OR NOT EXISTS (SELECT 1 FROM task_tag g WHERE g.task = t.id AND g.tag NOT IN ");
        sql.list(&request.serves.iter().map(|tag| fold(tag)).collect::<Vec<_>>()).push(")");
    }
    sql.push(
        ") AND (limited = 0 OR NOT EXISTS (SELECT 1 FROM task_limit l LEFT JOIN lane n ON n.k = l.k \
         WHERE l.task = t.id AND COALESCE(n.used, 0) >= l.most)) ORDER BY rank_key, id",
    );
    sql
}

/// Hands out tasks.
pub(crate) async fn claim(
    tx: &DatabaseTransaction,
    dialect: Dialect,
    now: Timestamp,
    request: &ClaimRequest,
) -> Result<Vec<Claimed>, Fail> {
    let limit = i64::from(request.limit).min(MAX_CLAIM);
    let mut claimed: Vec<Claimed> = Vec::new();
    let mut fence = None;
    for _ in 0..CLAIM_ROUNDS {
        let left = limit - claimed.len() as i64;
        let mut sql = candidates(dialect, now, request, rows::READ);
        sql.push(" LIMIT ").bind(left);
        sql.push(match dialect {
            Dialect::Postgres => " FOR UPDATE OF t SKIP LOCKED",
            _ => dialect.skip_locked(),
        });
        let mut found = Vec::new();
        for row in sql.all(tx).await? {
            found.push(rows::read(&row)?);
        }
        let all = found.len();
        let picked = pick(tx, dialect, found).await?;
        let passed_over = all - picked.len();
        let mut work = Work::new(tx, dialect, now);
        for task in picked {
            let base = match fence {
                Some(base) => base,
                None => *fence.insert(draw_fence(tx, dialect).await?),
            };
            let fence = base * MAX_CLAIM + claimed.len() as i64;
            let begun = rules::begin(&task, now, &request.worker, fence, request.lease);
            work.know(task);
            work.replace(begun.clone());
            claimed.push(Claimed { task: begun, steps: Vec::new() });
        }
        work.flush().await?;
        // Where limits filled up within this round others may be next in line, beyond those it looked at.
        if passed_over == 0 || (all as i64) < left {
            break;
        }
    }
    read_steps(tx, dialect, &mut claimed).await?;
    Ok(claimed)
}

/// Leaves those whose limits have places, their lanes locked.
async fn pick(tx: &DatabaseTransaction, dialect: Dialect, found: Vec<Task>) -> Result<Vec<Task>, Fail> {
    let keys: BTreeSet<String> = found.iter().flat_map(|t| rules::limits(&t.new)).map(|(key, _)| fold(&key)).collect();
    let keys: Vec<String> = keys.into_iter().collect();
    let mut used: HashMap<String, i64> = HashMap::new();
    // A lane that is not there cannot be locked.
    let empty = keys.iter().map(|key| vec![key.clone().into(), int(0)]).collect();
    insert_all(tx, dialect, "lane", &["k", "used"], empty, &dialect.insert_ignore("k")).await?;
    for keys in keys.chunks(AT_ONCE) {
        let mut sql = Sql::new(dialect, "SELECT k, used FROM lane WHERE k IN ");
        sql.list(keys).push(" ORDER BY k").push(dialect.for_update());
        for row in sql.all(tx).await? {
            let mut cells = Cells::of(&row);
            used.insert(cells.text()?, cells.int()?);
        }
    }
    // One that was there, and was pruned before it was locked: the next round adds it again.
    if used.len() < keys.len() {
        return Err(Fail::Again);
    }
    let mut picked = Vec::with_capacity(found.len());
    for task in found {
        let limits = rules::limits(&task.new);
        let places = |(key, max): &(String, i32)| used.get(&fold(key)).is_some_and(|used| *used < i64::from(*max));
        if limits.iter().all(places) {
            for (key, _) in limits {
                *used.entry(fold(&key)).or_default() += 1;
            }
            picked.push(task);
        }
    }
    Ok(picked)
}

/// A number larger than any that was drawn before.
async fn draw_fence(tx: &DatabaseTransaction, dialect: Dialect) -> Result<i64, Fail> {
    let sql = match dialect {
        Dialect::Sqlite => return advance(tx, dialect, "fence", 1).await,
        Dialect::Postgres => Sql::new(dialect, "SELECT nextval('task_fence')"),
        Dialect::MariaDb => Sql::new(dialect, "SELECT NEXTVAL(task_fence)"),
    };
    let row = sql.one(tx).await?;
    row.map(|r| Cells::of(&r).int()).transpose()?.ok_or_else(|| odd("no fence"))
}

/// The outputs that earlier attempts recorded.
async fn read_steps(tx: &DatabaseTransaction, dialect: Dialect, claimed: &mut [Claimed]) -> Result<(), Fail> {
    // Begun tasks count this attempt too; one that was given back may have counted down again.
    let again = claimed.iter().map(|c| c.task.new.id).collect::<Vec<_>>();
    let mut steps: HashMap<uuid::Uuid, Vec<(String, Json)>> = HashMap::new();
    for ids in again.chunks(AT_ONCE) {
        let mut sql = Sql::new(dialect, "SELECT task, step, output FROM task_step WHERE task IN ");
        sql.list(&uuids(ids)).push(" ORDER BY task, n");
        for row in sql.all(tx).await? {
            let mut cells = Cells::of(&row);
            steps.entry(cells.uuid()?).or_default().push((cells.text()?, cells.json()?));
        }
    }
    for claimed in claimed {
        claimed.steps = steps.remove(&claimed.task.new.id.uuid()).unwrap_or_default();
    }
    Ok(())
}
