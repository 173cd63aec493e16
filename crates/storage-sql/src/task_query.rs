//! Lists of tasks: those that have ended and those that have not.

use crate::error::Fail;
use crate::filter::{condition, order, part};
use crate::sql::{Cells, Sql, cut, fold, uuid};
use crate::store::SqlStorage;
use crate::task_rows as rows;
use crate::work::{AT_ONCE, uuids};
use portolan_model::query::{Direction, Filter, Page, Value};
use portolan_model::task_state::TaskState;
use portolan_model::{Scope, TaskId, Timestamp};
use portolan_storage::FieldType;
use portolan_tasks::rules::{self, WaitContext};
use portolan_tasks::{TASK_FIELDS, Task, TaskError, TaskPage, TaskQuery, filter};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;

impl SqlStorage {
    /// Notes the latest instant that an operation of this process was told: what waiting is measured against.
    pub(crate) fn see(&self, now: Timestamp) {
        self.seen.fetch_max(now.as_micros(), Ordering::SeqCst);
    }

    pub(crate) async fn query_tasks(&self, scope: Scope, query: &TaskQuery) -> Result<TaskPage, TaskError> {
        let known = |field: &str| field == "id" || TASK_FIELDS.contains(&field);
        if let Some(field) = filter::unknown_field(&query.filter, &query.sort, known) {
            return Err(TaskError::UnknownField(field.to_owned()));
        }
        let filter = simple(&query.filter);
        let read = async {
            let ids = self.page_of_ids(scope, query, &filter).await?;
            let mut tasks = self.tasks_of(&ids).await?;
            self.explain(&mut tasks).await?;
            let total = if query.count { Some(self.count_tasks(scope, &filter).await?) } else { None };
            Ok(TaskPage { tasks, total })
        };
        read.await.map_err(Fail::into_task)
    }

    /// The ids of the page. Each table gives as many as the page can reach to, by an index where it has one.
    async fn page_of_ids(&self, scope: Scope, query: &TaskQuery, filter: &Filter) -> Result<Vec<TaskId>, Fail> {
        let column = query.sort.field.as_deref().filter(|field| *field != "id");
        let down = query.sort.direction == Direction::Descending;
        let picked = column.map_or("id".to_owned(), |c| format!("id, {c}"));
        let reach = Page { offset: 0, limit: query.page.limit.map(|limit| limit.saturating_add(query.page.offset)) };
        let mut sql = self.sql("SELECT id FROM (");
        for (i, table) in ["task", "task_history"].into_iter().enumerate() {
            sql.push(if i > 0 { " UNION ALL " } else { "" });
            sql.push(&format!("SELECT * FROM (SELECT {picked} FROM {table} WHERE "));
            visible(&mut sql, scope);
            sql.push(" AND ");
            condition(&mut sql, filter);
            if reach != Page::ALL {
                order(&mut sql, "", column, down);
                part(&mut sql, reach);
            }
            sql.push(&format!(") {table}_page"));
        }
        sql.push(") page");
        order(&mut sql, "", column, down);
        part(&mut sql, query.page);
        let rows = sql.all(&self.read).await?;
        rows.iter().map(|row| Ok(TaskId::from_uuid(Cells::of(row).uuid()?))).collect()
    }

    /// The tasks of these ids in their order. One that was forgotten meanwhile is left out.
    async fn tasks_of(&self, ids: &[TaskId]) -> Result<Vec<Task>, Fail> {
        let mut found = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(AT_ONCE) {
            // One statement, so that a task on its way to history is seen.
            let mut sql = self.sql(&format!("SELECT {} FROM task WHERE id IN ", rows::READ));
            sql.list(&uuids(ids));
            sql.push(&format!(" UNION ALL SELECT {} FROM task_history WHERE id IN ", rows::READ)).list(&uuids(ids));
            for row in sql.all(&self.read).await? {
                let task = rows::read(&row)?;
                found.insert(task.new.id, task);
            }
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    async fn count_tasks(&self, scope: Scope, filter: &Filter) -> Result<u64, Fail> {
        let mut sql = self.sql("SELECT ");
        for (i, table) in ["task", "task_history"].into_iter().enumerate() {
            sql.push(if i > 0 { " + " } else { "" }).push(&format!("(SELECT COUNT(*) FROM {table} WHERE "));
            visible(&mut sql, scope);
            sql.push(" AND ");
            condition(&mut sql, filter);
            sql.push(")");
        }
        let row = sql.one(&self.read).await?;
        Ok(u64::try_from(row.map(|r| Cells::of(&r).int()).transpose()?.unwrap_or(0)).unwrap_or(0))
    }

    /// Says of tasks that wait why they do.
    async fn explain(&self, tasks: &mut [Task]) -> Result<(), Fail> {
        let waiting = |t: &&Task| rules::is_queued(t) || t.state == TaskState::Blocked;
        let waiting: Vec<&Task> = tasks.iter().filter(waiting).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let mut unmet: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
        let blocked: Vec<TaskId> = waiting.iter().filter(|t| t.state == TaskState::Blocked).map(|t| t.new.id).collect();
        for ids in blocked.chunks(AT_ONCE) {
            let mut sql = self.sql("SELECT task, needs FROM task_dep WHERE task IN ");
            sql.list(&uuids(ids)).push(" ORDER BY task, needs");
            for row in sql.all(&self.read).await? {
                let mut cells = Cells::of(&row);
                let task = TaskId::from_uuid(cells.uuid()?);
                unmet.entry(task).or_default().push(TaskId::from_uuid(cells.uuid()?));
            }
        }
        let keys: BTreeSet<String> =
            waiting.iter().flat_map(|t| rules::limits(&t.new)).map(|(key, _)| fold(&key)).collect();
        let keys: Vec<String> = keys.into_iter().collect();
        let mut used: HashMap<String, i32> = HashMap::new();
        for keys in keys.chunks(AT_ONCE) {
            let mut sql = self.sql("SELECT k, used FROM lane WHERE k IN ");
            sql.list(keys);
            for row in sql.all(&self.read).await? {
                let mut cells = Cells::of(&row);
                used.insert(cells.text()?, i32::try_from(cells.int()?).unwrap_or(i32::MAX));
            }
        }
        let now = Timestamp::from_micros(self.seen.load(Ordering::SeqCst));
        let mut nodes: Vec<Vec<String>> = Vec::new();
        if waiting.iter().any(|t| !t.new.requires.is_empty()) {
            let mut sql = self.sql("SELECT serves FROM task_node WHERE until > ");
            sql.bind(now.as_micros());
            for row in sql.all(&self.read).await? {
                nodes.push(serde_json::from_value(Cells::of(&row).json()?).map_err(Fail::Json)?);
            }
        }
        let nodes: Vec<&[String]> = nodes.iter().map(Vec::as_slice).collect();
        for task in tasks {
            let context = WaitContext {
                now,
                unmet: unmet.remove(&task.new.id).unwrap_or_default(),
                used: &|key| used.get(&fold(key)).copied().unwrap_or(0),
                nodes: &nodes,
            };
            task.wait_reason = rules::wait_reason(task, &context);
        }
        Ok(())
    }
}

/// Adds the condition that the scope sees the task.
fn visible(sql: &mut Sql, scope: Scope) {
    match scope {
        Scope::All => sql.push("1 = 1"),
        Scope::Tenant(tenant) => sql.push("tenant = ").bind(uuid(tenant.uuid())),
    };
}

/// The type of a field that is known.
fn ty(field: &str) -> FieldType {
    match field {
        "state" | "kind" | "worker" | "unique_key" | "vm_name" => FieldType::Text,
        "priority" | "created" | "started" | "finished" => FieldType::Int,
        _ => FieldType::Id,
    }
}

/// The same condition with values as the columns hold them; comparisons across types find nothing.
fn simple(given: &Filter) -> Filter {
    let nothing = || Filter::Or(Vec::new());
    let fits = |field: &str, value: &Value| {
        matches!(
            (ty(field), value),
            (FieldType::Text, Value::Text(_)) | (FieldType::Int, Value::Int(_)) | (FieldType::Id, Value::Id(_))
        )
    };
    let stored = |field: &str, value: &Value| match value {
        Value::Text(text) if field == "unique_key" => Value::Text(fold(text)),
        Value::Text(text) => Value::Text(cut(text)),
        other => other.clone(),
    };
    match given {
        Filter::All => Filter::All,
        Filter::Eq(field, value) if *value == Value::Null || fits(field, value) => {
            Filter::Eq(field.clone(), stored(field, value))
        }
        Filter::In(field, values) => {
            let fitting = values.iter().filter(|v| **v == Value::Null || fits(field, v));
            Filter::In(field.clone(), fitting.map(|v| stored(field, v)).collect())
        }
        Filter::AtLeast(field, value) if fits(field, value) => Filter::AtLeast(field.clone(), stored(field, value)),
        Filter::Below(field, value) if fits(field, value) => Filter::Below(field.clone(), stored(field, value)),
        Filter::Eq(..) | Filter::AtLeast(..) | Filter::Below(..) => nothing(),
        Filter::Contains(wanted) if wanted.is_empty() => Filter::All,
        Filter::Contains(wanted) => Filter::Contains(wanted.to_lowercase()),
        Filter::And(parts) => Filter::And(parts.iter().map(simple).collect()),
        Filter::Or(parts) => Filter::Or(parts.iter().map(simple).collect()),
        Filter::Not(part) => Filter::Not(Box::new(simple(part))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_the_type_that_tasks_give_it() {
        let task = portolan_tasks::TASK_FIELDS;
        for field in task {
            let declared = crate::schema::migrations(crate::sql::Dialect::MariaDb);
            let table = declared.iter().flat_map(|m| &m.statements).find(|s| s.contains("EXISTS task ("));
            let word = match ty(field) {
                FieldType::Text => "VARCHAR",
                FieldType::Id => "BINARY(16)",
                FieldType::Int | FieldType::Bool => "BIGINT",
            };
            assert!(table.is_some_and(|t| t.contains(&format!(" {field} {word}"))), "{field}");
        }
    }
}
