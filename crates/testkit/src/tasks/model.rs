//! Random work, on a store and on the model at once. The model is [`MemoryTasks`], a plain struct.

use super::Kit;
use crate::clock::mix;
use portolan_model::query::{Direction, Filter, Page, Sort, Value};
use portolan_model::{ChainId, IdSource, Scope, TaskId, TaskState, TenantId};
use portolan_tasks::{
    Beat, BeatRequest, ClaimRequest, Finish, Held, Limit, MemoryTasks, NewTask, NodeBeat, Outcome, Progress, Task,
    TaskError, TaskQuery, TaskStore,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// One stream of random work, for the list of rules; adapters run more seeds by [`agrees_with_model`].
pub async fn random_work_agrees_with_the_model(store: Arc<dyn TaskStore>) {
    agrees_with_model(store, 1, 250).await;
}

/// Does `steps` random operations of the stream `seed` on a fresh store and on the model, and panics where they
/// differ: in an answer, in any task, in a list, a count or a recorded step. Fences are compared by what they mean.
pub async fn agrees_with_model(store: Arc<dyn TaskStore>, seed: u64, steps: u32) {
    let mut run = Run {
        kit: Kit::new(store),
        model: MemoryTasks::new(),
        random: seed,
        fences: HashMap::new(),
        highest: 0,
        ids: Vec::new(),
        held: Vec::new(),
        trace: Vec::new(),
    };
    for n in 0..steps {
        run.act().await;
        if n % 8 == 7 {
            run.compare().await;
        }
    }
    run.compare().await;
}

struct Run {
    kit: Kit,
    model: MemoryTasks,
    random: u64,
    /// The store's fence for each of the model's.
    fences: HashMap<i64, i64>,
    highest: i64,
    ids: Vec<TaskId>,
    /// Holds, old ones too, as the model knows them.
    held: Vec<Held>,
    trace: Vec<String>,
}

const KINDS: [&str; 4] = ["A", "B", "C", "D"];

impl Run {
    fn below(&mut self, n: usize) -> usize {
        self.random = mix(self.random);
        usize::try_from(self.random >> 16).unwrap_or(0) % n.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn some_id(&mut self) -> TaskId {
        let n = self.below(self.ids.len());
        self.ids.get(n).copied().unwrap_or(TaskId::from_uuid(uuid::Uuid::max()))
    }

    fn recent_id(&mut self) -> TaskId {
        let n = self.ids.len().saturating_sub(1 + self.below(6));
        self.ids.get(n).copied().unwrap_or(TaskId::from_uuid(uuid::Uuid::max()))
    }

    fn tenant(&mut self) -> Option<TenantId> {
        let n = self.below(3) as u128;
        (n > 0).then(|| TenantId::from_uuid(uuid::Uuid::from_u128(n)))
    }

    fn soon(&mut self) -> portolan_model::Timestamp {
        self.kit.now() + Duration::from_secs(self.below(200) as u64)
    }

    fn task(&mut self, depth: usize) -> NewTask {
        let kind = KINDS[self.below(4)];
        let mut new = self.kit.task(kind);
        new.tenant = self.tenant();
        if let Some(known) = self.one_in(2).then(|| self.recent_id()).and_then(|id| self.model.get(id)) {
            new.chain = known.new.chain;
        }
        new.priority = [0, 20, 50, 50, 100][self.below(5)];
        new.max_attempts = [1, 1, 2, 4][self.below(4)];
        new.retries = [0, 0, 0, 1, 2][self.below(5)];
        new.links.vm_name = ["", "web", "db-1", "Ünï"][self.below(4)].into();
        if self.one_in(4) {
            new.run_at = self.soon();
        }
        if self.one_in(6) {
            new.start_by = Some(self.soon());
        }
        if self.one_in(6) {
            new.deadline = Some(self.soon());
        }
        for _ in 0..[0, 0, 1, 2][self.below(4)] {
            new.after.push(self.recent_id());
        }
        new.after.retain(|id| *id != TaskId::from_uuid(uuid::Uuid::max()));
        if self.one_in(4) {
            new.unique_key = Some(format!("key-{}", self.below(4)));
        }
        for _ in 0..[0, 0, 1, 2][self.below(4)] {
            let key = format!("limit-{}", self.below(3));
            let max = [1, 1, 2, 3][self.below(4)];
            new.limits.push(Limit { key, max });
        }
        for _ in 0..[0, 0, 0, 1, 2][self.below(5)] {
            new.requires.push(["x", "y"][self.below(2)].into());
        }
        if depth > 0 && self.one_in(3) {
            let mut clean = self.task(depth - 1);
            clean.after.clear();
            self.ids.push(clean.id);
            new.on_failure = Some(Box::new(clean));
        }
        new
    }

    fn batch(&mut self, most: usize) -> Vec<NewTask> {
        let mut tasks = Vec::new();
        for _ in 0..self.below(most + 1) {
            let mut new = self.task(2);
            if self.one_in(12) {
                new.id = self.some_id();
                new.after.clear();
            }
            if self.one_in(40) {
                new.after.push(TaskId::from_uuid(uuid::Uuid::from_u128(77)));
            }
            self.ids.push(new.id);
            tasks.push(new);
        }
        tasks
    }

    fn outcome(&mut self) -> Outcome {
        let error = format!("error {}", self.below(100));
        match self.below(12) {
            0..3 => Outcome::Succeeded { output: serde_json::json!({ "n": self.below(9) }) },
            3..5 => Outcome::Failed { error },
            5 | 6 => Outcome::Retry { error, at: self.soon() },
            7 => Outcome::Cancelled { error },
            8 => Outcome::Released,
            9 => Outcome::Undo { error },
            10 => Outcome::Undone,
            _ => Outcome::Stuck { error },
        }
    }

    /// A hold, mostly a recent one; and the same as the store knows it.
    fn some_held(&mut self) -> Option<(Held, Held)> {
        let among = if self.one_in(4) { self.held.len() } else { self.held.len().min(5) };
        let n = self.held.len().checked_sub(1 + self.below(among))?;
        let held = *self.held.get(n)?;
        Some((held, Held { fence: *self.fences.get(&held.fence)?, ..held }))
    }

    fn same<T: std::fmt::Debug + PartialEq>(&self, what: &str, store: T, model: T) {
        let trace = || self.trace.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n");
        assert!(store == model, "{what}\nstore: {store:#?}\nmodel: {model:#?}\nafter:\n{}", trace());
    }

    async fn act(&mut self) {
        let now = self.kit.now();
        let store = self.kit.store.clone();
        match self.below(22) {
            0..5 => {
                let tasks = self.batch(4);
                self.trace.push(format!("enqueue {:?}", tasks.iter().map(|t| t.id).collect::<Vec<_>>()));
                let theirs = store.enqueue(now, tasks.clone()).await.map_err(told);
                let ours = self.model.enqueue(now, tasks).map_err(told);
                self.same("enqueue", theirs, ours);
            }
            5..9 => self.claim().await,
            9..13 => {
                let mut pairs = Vec::new();
                for _ in 0..1 + self.below(3) {
                    let Some(held) = self.some_held() else { continue };
                    let (outcome, next) = (self.outcome(), if self.one_in(3) { self.batch(2) } else { Vec::new() });
                    pairs.push((held, outcome, next));
                }
                self.trace.push(format!("finish {:?}", pairs.iter().map(|p| (p.0.0, &p.1)).collect::<Vec<_>>()));
                let finish = |held: Held, p: &((Held, Held), Outcome, Vec<NewTask>)| Finish {
                    held,
                    outcome: p.1.clone(),
                    next: p.2.clone(),
                };
                let theirs = store.finish(now, pairs.iter().map(|p| finish(p.0.1, p)).collect()).await.unwrap();
                let ours = self.model.finish(now, pairs.iter().map(|p| finish(p.0.0, p)).collect());
                let told =
                    |all: Vec<Result<(), TaskError>>| all.into_iter().map(|r| r.map_err(told)).collect::<Vec<_>>();
                self.same("finish", told(theirs), told(ours));
            }
            13 | 14 => {
                let limit = [1, 3, 1000][self.below(3)];
                self.trace.push(format!("sweep {limit}"));
                let theirs = store.sweep(now, limit).await.unwrap();
                let ours = self.model.sweep(now, limit);
                self.same("sweep", theirs, ours);
            }
            15 => self.beat().await,
            16 => {
                let (id, scope) = (self.recent_id(), self.scope());
                self.trace.push(format!("cancel {id} {scope:?}"));
                let theirs = store.cancel(now, scope, id, "no more").await.map_err(told);
                let ours = self.model.cancel(now, scope, id, "no more").map_err(told);
                self.same("cancel", theirs, ours);
            }
            17 => self.clean_up().await,
            18 => {
                let serves = ["x", "y"].iter().take(self.below(3)).map(|t| (*t).to_owned()).collect();
                let worker = format!("node-{}", self.below(2));
                let beat = NodeBeat { worker, serves, ttl: Duration::from_secs(60) };
                store.node_beat(now, beat.clone()).await.unwrap();
                self.model.node_beat(now, beat);
            }
            19 | 20 => self.operate().await,
            _ => {
                let by = Duration::from_millis(1 + self.below(40_000) as u64);
                self.trace.push(format!("pass {by:?}"));
                self.kit.pass(by);
            }
        }
    }

    fn scope(&mut self) -> Scope {
        match self.tenant() {
            Some(tenant) if self.one_in(2) => Scope::Tenant(tenant),
            _ => Scope::All,
        }
    }

    async fn claim(&mut self) {
        let now = self.kit.now();
        let from = self.below(3);
        let limit = 1 + u32::try_from(self.below(5)).unwrap_or(0);
        let request = ClaimRequest {
            kinds: KINDS[from..].iter().map(|k| (*k).to_owned()).collect(),
            serves: ["x", "y"].iter().take(self.below(3)).map(|t| (*t).to_owned()).collect(),
            ..self.kit.request(limit)
        };
        let theirs = self.kit.store.claim(now, request.clone()).await.unwrap();
        let ours = self.model.claim(now, &request);
        self.trace.push(format!("claim {:?}", ours.iter().map(|c| c.task.held()).collect::<Vec<_>>()));
        let ids = |claimed: &[portolan_tasks::Claimed]| claimed.iter().map(|c| c.task.new.id).collect::<Vec<_>>();
        self.same("claim", ids(&theirs), ids(&ours));
        let before = self.highest;
        for (their, our) in theirs.into_iter().zip(ours) {
            assert!(their.task.fence > before, "fences rise");
            self.highest = self.highest.max(their.task.fence);
            assert!(self.fences.values().all(|fence| *fence != their.task.fence), "fences are unique");
            self.fences.insert(our.task.fence, their.task.fence);
            self.held.push(our.task.held());
            self.same("claimed steps", their.steps, our.steps);
            self.same_tasks("claimed", &[their.task], &[our.task]);
        }
    }

    /// What an operator does, mostly to tasks that may need one.
    async fn operate(&mut self) {
        let (now, scope) = (self.kit.now(), self.scope());
        let states = [TaskState::Stuck, TaskState::Failed, TaskState::Expired, TaskState::Scheduled];
        let state = states[self.below(states.len())];
        let query = TaskQuery { filter: Filter::eq("state", state), ..TaskQuery::default() };
        let found = self.model.query(Scope::All, &query).unwrap().tasks;
        let id = match self.below(found.len() + 1) {
            0 => self.recent_id(),
            n => found[n - 1].new.id,
        };
        if self.one_in(4) {
            self.trace.push(format!("abandon {id} {scope:?}"));
            let theirs = self.kit.store.abandon(now, scope, id, "given up").await.map_err(told);
            let ours = self.model.abandon(now, scope, id, "given up").map_err(told);
            return self.same("abandon", theirs, ours);
        }
        let new_id = if self.one_in(12) { self.some_id() } else { TaskId::from_uuid(self.kit.ids.uuid()) };
        self.trace.push(format!("retry {id} as {new_id} {scope:?}"));
        let theirs = self.kit.store.retry(now, scope, id, new_id).await.map_err(told);
        let ours = self.model.retry(now, scope, id, new_id).map_err(told);
        self.same("retry", theirs, ours);
        self.ids.push(new_id);
    }

    async fn beat(&mut self) {
        let now = self.kit.now();
        let lease = Duration::from_secs(30);
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..self.below(4) {
            let Some((our, their)) = self.some_held() else { continue };
            let done = i64::try_from(self.below(100)).unwrap_or(0);
            let progress = self.one_in(2).then(|| Progress { done, total: 100, message: "busy".into() });
            ours.push(Beat { held: our, progress: progress.clone() });
            theirs.push(Beat { held: their, progress });
        }
        self.trace.push(format!("beat {:?}", ours.iter().map(|b| b.held).collect::<Vec<_>>()));
        let theirs = self.kit.store.beat(now, BeatRequest { lease, tasks: theirs }).await.unwrap();
        let ours = self.model.beat(now, &BeatRequest { lease, tasks: ours });
        self.same("beat", theirs, ours);
        if let Some((our, their)) = self.some_held() {
            let name = ["one", "two", "three"][self.below(3)];
            let output = serde_json::json!(self.below(50));
            let theirs = self.kit.store.step(now, their, name, output.clone()).await.map_err(told);
            let ours = self.model.step(now, our, name, output).map_err(told);
            self.same("step", theirs, ours);
        }
    }

    async fn clean_up(&mut self) {
        let (id, scope) = (self.some_id(), self.scope());
        if self.one_in(3) {
            self.trace.push(format!("forget {id} {scope:?}"));
            let theirs = self.kit.store.forget(scope, id).await.map_err(told);
            let ours = self.model.forget(scope, id).map_err(told);
            self.same("forget", theirs, ours);
        } else if self.one_in(3) {
            let before = self.kit.now() - Duration::from_secs(300);
            let limit = [1, 100][self.below(2)];
            self.trace.push(format!("prune {limit}"));
            let theirs = self.kit.store.prune(before, limit).await.unwrap();
            let ours = self.model.prune(before, limit);
            self.same("prune", theirs, ours);
        } else {
            let theirs = self.kit.store.steps(id).await.map_err(told);
            let ours = self.model.steps(id).map_err(told);
            self.same("steps", theirs, ours);
        }
    }

    fn same_tasks(&self, what: &str, theirs: &[Task], ours: &[Task]) {
        let ids = |tasks: &[Task]| tasks.iter().map(|t| t.new.id).collect::<Vec<_>>();
        self.same(what, ids(theirs), ids(ours));
        for (their, our) in theirs.iter().zip(ours) {
            let fence = if our.fence == 0 { 0 } else { self.fences[&our.fence] };
            let our = Task { fence, ..our.clone() };
            self.same(what, their, &our);
        }
    }

    async fn compare(&mut self) {
        let whole = TaskQuery { count: true, ..TaskQuery::default() };
        let query = self.query();
        let scope = self.scope();
        for (scope, query) in [(Scope::All, whole), (scope, query)] {
            let theirs = self.kit.store.query(scope, &query).await.unwrap();
            let ours = self.model.query(scope, &query).unwrap();
            let what = format!("{query:?}");
            self.same(&what, theirs.total, ours.total);
            self.same_tasks(&what, &theirs.tasks, &ours.tasks);
        }
        let now = self.kit.now();
        let theirs = self.kit.store.stats(now).await.unwrap();
        let ours = self.model.stats(now);
        self.same("stats", theirs, ours);
    }

    fn query(&mut self) -> TaskQuery {
        let filter = match self.below(8) {
            0 => Filter::eq("state", [TaskState::Ready, TaskState::Failed, TaskState::Cancelled][self.below(3)]),
            1 => Filter::any("kind", [KINDS[self.below(4)], KINDS[self.below(4)]]),
            2 => Filter::Contains(["WEB", "ünï", "a", "-"][self.below(4)].into()),
            3 => Filter::Not(Box::new(Filter::AtLeast("started".into(), self.kit.now().into()))),
            4 => Filter::Or(vec![
                Filter::eq("unique_key", Value::Null),
                Filter::Below("priority".into(), Value::Int(50)),
            ]),
            5 => {
                let id = self.some_id();
                let chain = self.model.get(id).map_or(ChainId::from_uuid(id.uuid()), |task| task.new.chain);
                Filter::eq("chain", chain.uuid()).and(Filter::Not(Box::new(Filter::eq("state", TaskState::Ready))))
            }
            _ => Filter::All,
        };
        let fields =
            [None, Some("state"), Some("kind"), Some("priority"), Some("created"), Some("finished"), Some("parent")];
        let field = fields[self.below(fields.len())].map(str::to_owned);
        let direction = [Direction::Ascending, Direction::Descending][self.below(2)];
        let page = [Page::ALL, Page::first(5), Page::number(1, 3)][self.below(3)];
        TaskQuery { filter, sort: Sort { field, direction }, page, count: self.one_in(2) }
    }
}

fn told(error: TaskError) -> String {
    error.to_string()
}
