//! The storage that fails on cue, which tests of use cases rely on.

use portolan_model::{Scope, query::Filter};
use portolan_storage::{Kind, MemoryStorage, StateStore, StoreError, Views};
use portolan_testkit::storage::given::{NOW, vm, writes};
use portolan_testkit::storage::{Fault, FaultyStorage, agrees_with_model};
use std::sync::Arc;

#[tokio::test]
async fn chosen_applies_fail_before_or_after_their_effect() {
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    storage.fail_at(2, Fault::Before);
    storage.fail_at(3, Fault::After);
    for (n, fails, count) in [(1, false, 1), (2, true, 1), (3, true, 2), (4, false, 3)] {
        let got = storage.apply(NOW, Scope::All, writes([vm(n)])).await;
        assert_eq!(matches!(got, Err(StoreError::Unavailable(_))), fails, "apply {n}");
        assert_eq!(storage.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), count, "apply {n}");
    }
    storage.fail_always(Some(Fault::Before));
    assert!(storage.apply(NOW, Scope::All, writes([vm(5)])).await.is_err());
    storage.fail_always(None);
    assert!(storage.apply(NOW, Scope::All, writes([vm(5)])).await.is_ok());
    assert_eq!(storage.applies(), 6);
}

#[tokio::test]
#[should_panic(expected = "seed 3, step")]
async fn the_model_sees_a_write_that_was_lost() {
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    storage.fail_at(50, Fault::Before);
    agrees_with_model(Arc::new(storage), 3, 200).await;
}

#[tokio::test]
async fn the_model_agrees_with_itself_over_many_seeds() {
    for seed in 10..40 {
        agrees_with_model(Arc::new(MemoryStorage::new()), seed, 60).await;
    }
}
