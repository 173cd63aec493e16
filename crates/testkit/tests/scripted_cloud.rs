//! The scripted cloud conforms, with everything that it can do and with less; its limits hold.

use portolan_driver::{Capability, CapabilitySet, CloudDriverExt, CloudErrorKind};
use portolan_testkit::clock::FakeClock;
use portolan_testkit::cloud::{self, CloudBackend, Failure, Repeated, wish};
use portolan_testkit::scripted_cloud::{EVERYTHING, ScriptedCloud};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn conforms() {
    cloud::all(ScriptedCloud::default).await;
}

#[tokio::test(start_paused = true)]
async fn conforms_behind_repetition() {
    cloud::all(|| Repeated(ScriptedCloud::default())).await;
}

#[tokio::test(start_paused = true)]
async fn conforms_without_idempotent_creations() {
    let less = EVERYTHING.without(Capability::IdempotentCreate);
    cloud::all(|| ScriptedCloud::default().with(less)).await;
    cloud::all(|| Repeated(ScriptedCloud::default().with(less))).await;
}

#[tokio::test(start_paused = true)]
async fn conforms_with_less_and_less() {
    use Capability::*;
    for less in [
        EVERYTHING.without(VolumeSnapshots).without(StopNode).without(CreateImage).without(CreateKeyPair),
        CapabilitySet::of(&[CreateNode, DestroyNode, Images, Sizes]),
        CapabilitySet::default(),
    ] {
        cloud::all(|| ScriptedCloud::default().with(less)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn conforms_when_states_pass_slowly() {
    cloud::all(|| {
        let cloud = ScriptedCloud::default();
        cloud.set_settle_after(3);
        cloud
    })
    .await;
}

#[tokio::test]
async fn limits_hold() {
    let clock = Arc::new(FakeClock::default());
    let cloud = ScriptedCloud::new(clock.clone());
    let driver = cloud.account("a");
    let wish = wish(&driver, "x", "x").await;
    cloud.set_quota(0);
    assert_eq!(driver.create_node(&wish).await.unwrap_err().kind, CloudErrorKind::Quota);
    assert_eq!(cloud.nodes_of("a"), 0);

    clock.advance(Duration::from_secs(10));
    cloud.set_call_limit(2, Duration::from_secs(1));
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(driver.nodes().await.err().map(|e| (e.kind, e.retry_after)));
    }
    assert_eq!(kinds, [None, None, Some((CloudErrorKind::RateLimited, Some(Duration::from_secs(1))))]);
    clock.advance(Duration::from_secs(1));
    driver.nodes().await.unwrap();

    cloud.fail_next(2, Failure::Status(503));
    let before = cloud.requests().await;
    for failed in [true, true, false] {
        clock.advance(Duration::from_secs(1));
        assert_eq!(driver.nodes().await.is_err(), failed);
    }
    assert_eq!(cloud.requests().await - before, 3);
}

#[tokio::test]
async fn a_break_in_the_answer_comes_after_the_work() {
    let cloud = ScriptedCloud::default();
    let driver = cloud.account("a");
    let wish = wish(&driver, "x", "x").await;
    for (failure, made) in [(Failure::Refused, 0), (Failure::Reset, 1), (Failure::Status(500), 1)] {
        cloud.fail_next(1, failure);
        assert!(driver.create_node(&wish).await.unwrap_err().outcome_unknown());
        assert_eq!(cloud.nodes_of("a"), made);
    }
}
