//! The store in memory keeps every rule of stores of tasks.

use portolan_model::Scope;
use portolan_model::query::{Filter, Page, Sort};
use portolan_tasks::{MemoryTaskStore, NewTask, TaskQuery, TaskStore};
use portolan_testkit::tasks::{Kit, agrees_with_model, done, minutes, secs};
use std::sync::Arc;

async fn make() -> Arc<dyn TaskStore> {
    Arc::new(MemoryTaskStore::new())
}

portolan_testkit::task_store_conformance!(make);

#[tokio::test]
async fn many_streams_of_random_work_agree_with_the_model() {
    for seed in 2..40 {
        agrees_with_model(make().await, seed, 300).await;
    }
}

/// A hundred thousand tasks, most of them behind full limits, and every operation is still quick: the bound is so
/// wide that only a scan of everything by every call breaks it.
#[tokio::test]
async fn many_tasks_do_not_slow_it_down() {
    let kit = Kit::new(make().await);
    for n in 0..100 {
        let batch = (0..1000).map(|i| NewTask {
            priority: 99,
            start_by: Some(kit.now() + minutes(600)),
            ..kit.limited("A", &[(&format!("vm:{}", (n * 1000 + i) % 50), 1)])
        });
        kit.store.enqueue(kit.now(), batch.collect()).await.unwrap();
    }
    assert_eq!(kit.claim(100).await.len(), 50);
    let began = std::time::Instant::now();
    for n in 0..2000 {
        let chain = kit.task("B");
        let query = TaskQuery { filter: Filter::eq("chain", chain.chain.uuid()), count: true, ..TaskQuery::default() };
        kit.add(chain).await;
        let task = kit.claim_one().await;
        kit.finish(&task, done()).await.unwrap();
        assert_eq!(kit.store.query(Scope::All, &query).await.unwrap().total, Some(1));
        if n % 10 == 0 {
            let query = TaskQuery { page: Page::first(20), sort: Sort::newest(), ..TaskQuery::default() };
            assert_eq!(kit.store.query(Scope::All, &query).await.unwrap().tasks.len(), 20);
            kit.sweep().await;
        }
    }
    assert!(began.elapsed() < secs(20), "{:?}", began.elapsed());
}
