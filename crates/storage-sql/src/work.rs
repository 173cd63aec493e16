//! What a transaction does to tasks: rows are locked and read as they are needed, decided upon in memory by the
//! shared rules, and written in bulk at the end.

use crate::error::Fail;
use crate::sql::{Cells, Dialect, Sql, fold, insert_all, int, update_all};
use crate::task_rows as rows;
use crate::work_out::Out;
use portolan_model::task_state::TaskState;
use portolan_model::{TaskId, TenantId, Timestamp};
use portolan_tasks::rules::{self, Settlement};
use portolan_tasks::{Enqueued, Finish, Held, NewTask, Task, TaskError};
use sea_orm::DatabaseTransaction;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use uuid::Uuid;

/// Ids that one statement asks for.
pub(crate) const AT_ONCE: usize = 512;

/// A task in this transaction; all empty for one that there is not.
#[derive(Debug, Default)]
struct Slot {
    /// The live task as it was found, its row locked.
    before: Option<Task>,
    /// The task as it will be.
    after: Option<Task>,
    /// Of a task that had ended before: how, and whose it was.
    ended: Option<(TaskState, Option<TenantId>)>,
}

/// See the module.
pub(crate) struct Work<'t> {
    tx: &'t DatabaseTransaction,
    dialect: Dialect,
    now: Timestamp,
    slots: BTreeMap<TaskId, Slot>,
    /// What blocked tasks still wait for.
    unmet: HashMap<TaskId, BTreeSet<TaskId>>,
    /// The blocked tasks of which that has been read; it must not be read again once it has changed here.
    unmet_read: HashSet<TaskId>,
    /// The same as it is stored.
    stored_unmet: HashMap<TaskId, BTreeSet<TaskId>>,
    /// Who waits for a task.
    dependents: HashMap<TaskId, BTreeSet<TaskId>>,
    /// The tasks of which all dependents are known.
    dependents_read: HashSet<TaskId>,
    /// Holders of unique keys, folded.
    unique: HashMap<String, Option<TaskId>>,
}

impl<'t> Work<'t> {
    pub(crate) fn new(tx: &'t DatabaseTransaction, dialect: Dialect, now: Timestamp) -> Self {
        Self {
            tx,
            dialect,
            now,
            slots: BTreeMap::new(),
            unmet: HashMap::new(),
            unmet_read: HashSet::new(),
            stored_unmet: HashMap::new(),
            dependents: HashMap::new(),
            dependents_read: HashSet::new(),
            unique: HashMap::new(),
        }
    }

    fn sql(&self, text: &str) -> Sql {
        Sql::new(self.dialect, text)
    }

    /// Locks and reads tasks, in the order of their ids.
    pub(crate) async fn load(&mut self, ids: Vec<TaskId>) -> Result<(), Fail> {
        let ids: BTreeSet<TaskId> = ids.into_iter().filter(|id| !self.slots.contains_key(id)).collect();
        let ids: Vec<TaskId> = ids.into_iter().collect();
        for ids in ids.chunks(AT_ONCE) {
            let mut sql = self.sql(&format!("SELECT {} FROM task WHERE id IN ", rows::READ));
            sql.list(&uuids(ids)).push(" ORDER BY id").push(self.dialect.for_update());
            for row in sql.all(self.tx).await? {
                self.know(rows::read(&row)?);
            }
            // After the lock: what ended meanwhile is in history now.
            let missing: Vec<TaskId> = ids.iter().copied().filter(|id| !self.slots.contains_key(id)).collect();
            if missing.is_empty() {
                continue;
            }
            let mut sql = self.sql("SELECT id, state, tenant FROM task_history WHERE id IN ");
            sql.list(&uuids(&missing));
            for row in sql.all(self.tx).await? {
                let mut cells = Cells::of(&row);
                let id = TaskId::from_uuid(cells.uuid()?);
                let state = rows::state(&cells.text()?)?;
                let tenant = cells.take::<Option<Uuid>>()?.map(TenantId::from_uuid);
                self.slots.insert(id, Slot { ended: Some((state, tenant)), ..Slot::default() });
            }
            for id in missing {
                self.slots.entry(id).or_default();
            }
        }
        Ok(())
    }

    /// Takes in a live task whose row this transaction has locked.
    pub(crate) fn know(&mut self, task: Task) {
        let slot = Slot { before: Some(task.clone()), after: Some(task.clone()), ended: None };
        self.slots.insert(task.new.id, slot);
    }

    /// Reads all that adding these tasks asks for.
    pub(crate) async fn prepare(&mut self, tasks: Vec<&NewTask>) -> Result<(), Fail> {
        let ids: Vec<TaskId> = tasks.iter().flat_map(|t| t.after.iter().copied().chain([t.id])).collect();
        self.load(ids).await?;
        let keys: BTreeSet<String> = tasks.iter().filter_map(|t| t.unique_key.as_deref().map(fold)).collect();
        let keys: Vec<String> = keys.into_iter().filter(|key| !self.unique.contains_key(key)).collect();
        for keys in keys.chunks(AT_ONCE) {
            let mut sql = self.sql("SELECT unique_key, id FROM task WHERE unique_key IN ");
            sql.list(keys);
            for row in sql.all(self.tx).await? {
                let mut cells = Cells::of(&row);
                let key = cells.text()?;
                let id = TaskId::from_uuid(cells.uuid()?);
                self.unique.entry(key).or_insert(Some(id));
            }
            for key in keys {
                self.unique.entry(key.clone()).or_default();
            }
        }
        Ok(())
    }

    /// Reads who waits for these tasks, locks those, and reads what else they wait for.
    async fn load_dependents(&mut self, ids: Vec<TaskId>) -> Result<(), Fail> {
        let ids: BTreeSet<TaskId> = ids.into_iter().filter(|id| !self.dependents_read.contains(id)).collect();
        let ids: Vec<TaskId> = ids.into_iter().collect();
        let mut waiting = BTreeSet::new();
        for ids in ids.chunks(AT_ONCE) {
            let mut sql = self.sql("SELECT needs, task FROM task_dep WHERE needs IN ");
            sql.list(&uuids(ids));
            for row in sql.all(self.tx).await? {
                let mut cells = Cells::of(&row);
                let (needs, task) = (TaskId::from_uuid(cells.uuid()?), TaskId::from_uuid(cells.uuid()?));
                self.dependents.entry(needs).or_default().insert(task);
                waiting.insert(task);
            }
            self.dependents_read.extend(ids);
        }
        self.load(waiting.iter().copied().collect()).await?;
        // After the lock, so that it is what the last to change it left.
        let waiting: Vec<TaskId> = waiting.into_iter().filter(|id| self.unmet_read.insert(*id)).collect();
        for ids in waiting.chunks(AT_ONCE) {
            let mut sql = self.sql("SELECT task, needs FROM task_dep WHERE task IN ");
            sql.list(&uuids(ids));
            for row in sql.all(self.tx).await? {
                let mut cells = Cells::of(&row);
                let (task, needs) = (TaskId::from_uuid(cells.uuid()?), TaskId::from_uuid(cells.uuid()?));
                self.unmet.entry(task).or_default().insert(needs);
                self.stored_unmet.entry(task).or_default().insert(needs);
            }
        }
        Ok(())
    }

    /// The task, if it is live.
    pub(crate) fn live(&self, id: TaskId) -> Option<&Task> {
        self.slots.get(&id)?.after.as_ref().filter(|task| !task.state.is_terminal())
    }

    /// The task, if it is held under this fence.
    pub(crate) fn held(&self, held: Held) -> Option<&Task> {
        self.live(held.id).filter(|task| task.fence == held.fence && rules::is_held(task))
    }

    /// How a task ended that had ended before this transaction, and whose it was.
    pub(crate) fn ended(&self, id: TaskId) -> Option<(TaskState, Option<TenantId>)> {
        self.slots.get(&id)?.ended
    }

    fn state(&self, id: TaskId) -> Option<TaskState> {
        let slot = self.slots.get(&id)?;
        slot.after.as_ref().map(|task| task.state).or(slot.ended.map(|ended| ended.0))
    }

    fn holder(&self, key: &str) -> Option<TaskId> {
        let holder = self.unique.get(&fold(key)).copied().flatten()?;
        (!self.slots.contains_key(&holder) || self.live(holder).is_some()).then_some(holder)
    }

    /// Whether the tasks can be added: every one before them must be here, or earlier in the list. They have been
    /// prepared.
    pub(crate) fn check_new(&self, tasks: &[NewTask], known: &mut HashSet<TaskId>) -> Result<(), TaskError> {
        for task in tasks {
            // One that is there already stays as it is, whatever it says it waits for.
            if self.state(task.id).is_none() {
                let missing = task.after.iter().find(|id| self.state(**id).is_none() && !known.contains(id));
                if let Some(id) = missing {
                    return Err(TaskError::NotFound(*id));
                }
            }
            known.insert(task.id);
        }
        Ok(())
    }

    /// Whether an attempt can end so.
    pub(crate) fn check_finish(&self, finish: &Finish, known: &mut HashSet<TaskId>) -> Result<(), TaskError> {
        let task = self.held(finish.held).ok_or(TaskError::Lost(finish.held.id))?;
        rules::settle(task, self.now, &finish.outcome)?;
        self.check_new(&finish.next, known)
    }

    /// Reads all that ending these attempts asks for.
    pub(crate) async fn prepare_finishes(&mut self, finishes: &[Finish]) -> Result<(), Fail> {
        self.load(finishes.iter().map(|f| f.held.id).collect()).await?;
        let (mut ending, mut follow) = (Vec::new(), Vec::new());
        for finish in finishes {
            let Some(task) = self.held(finish.held) else { continue };
            if let Ok(settlement) = rules::settle(task, self.now, &finish.outcome) {
                if settlement.ended() {
                    ending.push(finish.held.id);
                }
                follow.extend(settlement.enqueue);
            }
        }
        self.prepare(finishes.iter().flat_map(|f| f.next.iter()).chain(&follow).collect()).await?;
        self.load_dependents(ending).await
    }

    /// Adds tasks that have been checked.
    pub(crate) async fn add(
        &mut self,
        tasks: &[NewTask],
        aliases: &mut HashMap<TaskId, TaskId>,
    ) -> Result<Vec<Enqueued>, Fail> {
        let mut answers = Vec::with_capacity(tasks.len());
        for new in tasks {
            // The holder of a unique key is known by name only: it must not end before this one waits for it.
            self.load(new.after.iter().filter_map(|id| aliases.get(id).copied()).collect()).await?;
            let (answer, settlement) = self.insert(new.clone(), aliases);
            if let Some(settlement) = settlement {
                self.settle(settlement).await?;
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Ends an attempt that has been checked.
    pub(crate) async fn end(&mut self, finish: &Finish, aliases: &mut HashMap<TaskId, TaskId>) -> Result<(), Fail> {
        let task = self.held(finish.held).ok_or(TaskError::Lost(finish.held.id))?;
        let settlement = rules::settle(task, self.now, &finish.outcome)?;
        self.settle(settlement).await?;
        self.add(&finish.next, aliases).await?;
        Ok(())
    }

    /// Adds a task that has been prepared. `aliases` remembers which tasks of the same call were there already under
    /// another id. A dependency that nobody knows counts as met.
    fn insert(&mut self, mut new: NewTask, aliases: &mut HashMap<TaskId, TaskId>) -> (Enqueued, Option<Settlement>) {
        if self.state(new.id).is_some() {
            return (Enqueued { id: new.id, added: false }, None);
        }
        if let Some(holder) = new.unique_key.as_deref().and_then(|key| self.holder(key)) {
            aliases.insert(new.id, holder);
            return (Enqueued { id: holder, added: false }, None);
        }
        for dependency in &mut new.after {
            *dependency = *aliases.get(dependency).unwrap_or(dependency);
        }
        let id = new.id;
        let (mut unmet, mut failed) = (BTreeSet::new(), None);
        for dependency in &new.after {
            match self.state(*dependency) {
                Some(TaskState::Succeeded) | None => {}
                Some(state) if state.is_terminal() => failed = failed.or(Some((*dependency, state))),
                Some(_) => drop(unmet.insert(*dependency)),
            }
        }
        let settlement = rules::admit(self.now, new, !unmet.is_empty(), failed);
        // Nobody can have waited for it before it was there.
        self.dependents_read.insert(id);
        if failed.is_none() && !unmet.is_empty() {
            for dependency in &unmet {
                self.dependents.entry(*dependency).or_default().insert(id);
            }
            self.unmet.insert(id, unmet);
            self.unmet_read.insert(id);
        }
        (Enqueued { id, added: true }, Some(settlement))
    }

    /// Writes down what a decision says, and everything that follows from it.
    pub(crate) async fn settle(&mut self, first: Settlement) -> Result<(), Fail> {
        let mut todo = VecDeque::from([first]);
        while let Some(Settlement { task, enqueue, successor }) = todo.pop_front() {
            let (id, state) = (task.new.id, task.state);
            if state.is_terminal() {
                self.load_dependents(vec![id]).await?;
            }
            self.put(task);
            let mut heir = None;
            for new in enqueue {
                self.prepare(vec![&new]).await?;
                let is_heir = successor == Some(new.id);
                let (answer, settlement) = self.insert(new, &mut HashMap::new());
                heir = heir.or(is_heir.then_some(answer.id));
                if let Some(settlement) = settlement {
                    // Written down at once: what comes later in the list may ask for its unique key.
                    if settlement.ended() {
                        todo.push_back(settlement);
                    } else {
                        self.put(settlement.task);
                    }
                }
            }
            if state.is_terminal() {
                if let Some(id) = heir {
                    self.load(vec![id]).await?;
                    heir = heir.filter(|id| self.live(*id).is_some());
                }
                for dependent in self.dependents.remove(&id).unwrap_or_default() {
                    todo.extend(self.release_dependent(dependent, (id, state), heir));
                }
            }
        }
        Ok(())
    }

    fn release_dependent(
        &mut self,
        dependent: TaskId,
        ended: (TaskId, TaskState),
        heir: Option<TaskId>,
    ) -> Option<Settlement> {
        let unmet = self.unmet.get_mut(&dependent)?;
        unmet.remove(&ended.0);
        if let Some(heir) = heir {
            unmet.insert(heir);
            self.dependents.entry(heir).or_default().insert(dependent);
            let task = self.slots.get_mut(&dependent)?.after.as_mut()?;
            for dependency in task.new.after.iter_mut().filter(|d| **d == ended.0) {
                *dependency = heir;
            }
            return None;
        }
        let done = unmet.is_empty();
        let task = self.live(dependent)?;
        if ended.1 != TaskState::Succeeded {
            let settlement = rules::cut_off(task, self.now, ended.0, ended.1);
            // Once is enough: another of those before it may end in the same breath.
            self.unlink(dependent);
            return Some(settlement);
        }
        done.then(|| rules::unblock(task, self.now))
    }

    fn unlink(&mut self, id: TaskId) {
        for dependency in self.unmet.remove(&id).unwrap_or_default() {
            if let Some(waiting) = self.dependents.get_mut(&dependency) {
                waiting.remove(&id);
            }
        }
    }

    /// Puts the task in the place of what was there under its id.
    fn put(&mut self, task: Task) {
        let id = task.new.id;
        if task.state != TaskState::Blocked {
            self.unlink(id);
        }
        if let Some(key) = task.new.unique_key.as_deref().filter(|_| !task.state.is_terminal()) {
            self.unique.insert(fold(key), Some(id));
        }
        self.slots.entry(id).or_default().after = Some(task);
    }

    /// Replaces a live task by a later version of itself that needs nothing else.
    pub(crate) fn replace(&mut self, task: Task) {
        self.put(task);
    }

    /// Writes everything down in the database, and forgets it. Says whether a task became claimable.
    pub(crate) async fn flush(&mut self) -> Result<bool, Fail> {
        let slots = std::mem::take(&mut self.slots);
        let mut out = Out::default();
        for (id, slot) in &slots {
            let Some(after) = &slot.after else { continue };
            if slot.before.as_ref() != Some(after) {
                out.take(*id, slot.before.as_ref(), after, self.now);
            }
        }
        let mut deps = Vec::new();
        for (task, unmet) in self.unmet.drain() {
            let stored = self.stored_unmet.get(&task);
            let new = unmet.iter().filter(|needs| stored.is_none_or(|stored| !stored.contains(needs)));
            deps.extend(new.map(|needs| vec![rows::key(task), rows::key(*needs)]));
        }
        self.stored_unmet.clear();
        self.unmet_read.clear();
        self.dependents.clear();
        self.dependents_read.clear();
        self.unique.clear();
        let woken = out.woken;
        self.write(out, deps).await?;
        Ok(woken)
    }

    async fn write(&self, out: Out, deps: Vec<Vec<sea_orm::Value>>) -> Result<(), Fail> {
        let (tx, dialect) = (self.tx, self.dialect);
        insert_all(tx, dialect, "task_history", rows::ENDED, out.history, "").await?;
        for (table, column, ids) in [
            // Gone first: a new task may take over a unique key.
            ("task", "id", &out.gone),
            ("task_limit", "task", &out.gone_limited),
            ("task_tag", "task", &out.gone_tagged),
            ("task_dep", "task", &out.unblocked),
            ("task_dep", "needs", &out.gone),
        ] {
            for ids in ids.chunks(AT_ONCE) {
                let mut sql = self.sql(&format!("DELETE FROM {table} WHERE {column} IN "));
                sql.list(&uuids(ids));
                sql.run(tx).await?;
            }
        }
        update_all(tx, dialect, "task", "id", rows::CHANGED, out.changed).await?;
        update_all(tx, dialect, "task", "id", &["doc"], out.docs).await?;
        insert_all(tx, dialect, "task", rows::LIVE, out.new, "").await?;
        if dialect != Dialect::Sqlite {
            // The same task may have been added and ended by others since this transaction looked for it.
            for ids in out.new_ids.chunks(AT_ONCE) {
                let mut sql = self.sql("SELECT id FROM task_history WHERE id IN ");
                sql.list(&uuids(ids));
                if sql.one(tx).await?.is_some() {
                    return Err(Fail::Again);
                }
            }
        }
        insert_all(tx, dialect, "task_limit", &["task", "k", "most"], out.limits, "").await?;
        insert_all(tx, dialect, "task_tag", &["task", "tag"], out.tags, "").await?;
        insert_all(tx, dialect, "task_dep", &["task", "needs"], deps, "").await?;
        let places = out.places.into_iter().filter(|(_, change)| *change != 0);
        let places = places.map(|(key, change)| vec![key.into(), int(change)]).collect();
        let tail = match dialect {
            Dialect::MariaDb => " ON DUPLICATE KEY UPDATE used = used + VALUES(used)",
            _ => " ON CONFLICT (k) DO UPDATE SET used = lane.used + excluded.used",
        };
        insert_all(tx, dialect, "lane", &["k", "used"], places, tail).await
    }
}

/// Ids as a list of values.
pub(crate) fn uuids(ids: &[TaskId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.uuid()).collect()
}
