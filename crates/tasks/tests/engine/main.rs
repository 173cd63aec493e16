//! The engine, over the store in memory and over stores that fail. Time is tokio's, paused: nothing really waits.

#![allow(clippy::unwrap_used)]

mod drain;
mod faults;
mod life;
mod stops;
mod waiting;

use portolan_model::{Clock, Scope, TaskId, TaskState};
use portolan_tasks::{
    Done, Engine, EngineBuilder, MemoryTaskStore, NewTask, Ran, RunThrough, Task, TaskStore, TaskStoreExt,
};
use portolan_testkit::clock::TokioClock;
use portolan_testkit::tasks::{Faulty, Kit};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A store that can fail, a clock, and what tests do with them.
struct World {
    clock: Arc<TokioClock>,
    store: Arc<Faulty<MemoryTaskStore>>,
    /// The store inside, which never fails.
    truth: Arc<MemoryTaskStore>,
    kit: Kit,
}

impl World {
    fn new() -> Self {
        let truth = Arc::new(MemoryTaskStore::new());
        let store = Arc::new(Faulty::new(truth.clone()));
        let kit = Kit::new(truth.clone());
        Self { clock: Arc::new(TokioClock::default()), store, truth, kit }
    }

    /// An engine called `name` with a lease of 30 seconds, on the store that can fail.
    fn engine(&self, name: &str) -> EngineBuilder {
        Engine::builder(self.store.clone(), self.clock.clone()).worker(name)
    }

    fn task(&self, kind: &str) -> NewTask {
        NewTask { run_at: self.clock.now(), ..self.kit.task(kind) }
    }

    async fn add(&self, task: NewTask) -> TaskId {
        let id = task.id;
        self.truth.enqueue(self.clock.now(), vec![task]).await.unwrap();
        id
    }

    async fn get(&self, id: TaskId) -> Task {
        self.truth.task(Scope::All, id).await.unwrap()
    }

    async fn list(&self) -> Vec<Task> {
        self.truth.query(Scope::All, &Default::default()).await.unwrap().tasks
    }

    /// Waits for the end of a task.
    async fn ended(&self, id: TaskId) -> Task {
        match RunThrough::new(self.truth.clone(), self.clock.clone()).wait(id, HOUR).await.unwrap() {
            Ran::Ended(task) => *task,
            Ran::Going(_) => panic!("{:?} has not ended", self.get(id).await),
        }
    }

    async fn ended_as(&self, id: TaskId, state: TaskState) -> Task {
        let task = self.ended(id).await;
        assert_eq!(task.state, state, "{task:?}");
        task
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// An engine that runs in the background.
struct Running {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Running {
    /// A graceful stop.
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }

    /// What `kill -9` does.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

fn start(engine: &Arc<Engine>) -> Running {
    let shutdown = CancellationToken::new();
    let (engine, token) = (engine.clone(), shutdown.clone());
    Running { task: tokio::spawn(async move { engine.run(token).await }), shutdown }
}

fn run(builder: EngineBuilder) -> Running {
    start(&Arc::new(builder.build()))
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ok() -> Done {
    Done::Output(serde_json::json!({ "ok": true }))
}
