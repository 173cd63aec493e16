//! Why tasks wait.

use super::{Kit, LEASE, done, minutes, secs};
use portolan_tasks::{NewTask, NodeBeat, TaskStore};
use std::sync::Arc;

fn node(worker: &str, serves: &[&str]) -> NodeBeat {
    NodeBeat { worker: worker.into(), serves: serves.iter().map(|t| (*t).to_owned()).collect(), ttl: secs(60) }
}

/// Other tasks, its time, a full limit, a tag: the first that holds is named; running and ended tasks wait for nothing.
pub async fn a_reason_is_given_for_every_wait(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let reason = async |id| kit.get(id).await.wait_reason;
    let first = kit.add(kit.limited("A", &[("vm:1", 1)])).await;
    assert_eq!(reason(first).await, None, "only a free worker is missing");
    let running = kit.claim_one().await;
    assert_eq!((running.wait_reason.clone(), reason(first).await), (None, None));
    let blocked = kit.add(NewTask { after: vec![first], run_at: kit.now() + secs(60), ..kit.task("A") }).await;
    assert!(reason(blocked).await.unwrap().contains(&first.to_string()));
    let scheduled = kit.add(NewTask { run_at: kit.now() + minutes(90), ..kit.limited("A", &[("vm:1", 1)]) }).await;
    assert!(reason(scheduled).await.unwrap().contains(&(kit.now() + minutes(90)).to_string()));
    let full = kit.add(NewTask { requires: vec!["nowhere".into()], ..kit.limited("A", &[("vm:1", 1)]) }).await;
    assert!(reason(full).await.unwrap().contains("vm:1"));
    kit.finish(&running, done()).await.unwrap();
    assert_eq!(reason(first).await, None);
    assert_eq!(reason(full).await.unwrap(), "no node serves the tag nowhere");
    assert!(reason(blocked).await.unwrap().contains(&(kit.now() + secs(60)).to_string()));
}

/// A node's tags count until its time to live is over; all tags must be served by one node.
pub async fn nodes_count_while_they_live(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let reason = async |id| kit.get(id).await.wait_reason;
    let id = kit.add(NewTask { requires: vec!["a".into(), "b".into()], ..kit.task("A") }).await;
    assert_eq!(reason(id).await.unwrap(), "no node serves the tag a");
    kit.store.node_beat(kit.now(), node("one", &["a"])).await.unwrap();
    assert_eq!(reason(id).await.unwrap(), "no node serves the tag b");
    kit.store.node_beat(kit.now(), node("two", &["b"])).await.unwrap();
    assert_eq!(reason(id).await.unwrap(), "no node serves all of the tags a, b");
    kit.store.node_beat(kit.now(), node("two", &["b", "a"])).await.unwrap();
    assert_eq!(reason(id).await, None);
    kit.pass(LEASE);
    kit.store.node_beat(kit.now(), node("one", &["a"])).await.unwrap();
    assert_eq!(reason(id).await, None);
    kit.pass(LEASE);
    kit.store.node_beat(kit.now(), node("one", &["a"])).await.unwrap();
    assert_eq!(reason(id).await.unwrap(), "no node serves the tag b", "the second has died");
    kit.pass(secs(60));
    kit.sweep().await;
    assert_eq!(reason(id).await.unwrap(), "no node serves the tag a", "and the first, though nobody noted it");
}
