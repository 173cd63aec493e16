//! Layers around drivers: faults on cue, time limits, repetition, one login for many.

use async_trait::async_trait;
use portolan_driver::*;
use portolan_model::{Clock, IdSource, Secret};
use portolan_testkit::clock::{FakeClock, SeededIds};
use portolan_testkit::cloud::wish;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

fn ids() -> Arc<dyn IdSource> {
    Arc::new(SeededIds::default())
}

fn faulty() -> Arc<Faults> {
    Faults::new(Arc::new(DummyCloud::new(Arc::new(MemoryDriverState::default()), ids())))
}

fn error(kind: CloudErrorKind) -> CloudError {
    CloudError::new(kind, "scripted")
}

#[tokio::test]
async fn faults_come_at_their_call() {
    let faults = faulty();
    let cloud: Arc<dyn CloudDriver> = faults.clone();
    let wish = wish(&cloud, "x", "t").await;
    faults.fail_before(CloudCall::ListNodes, 2, error(CloudErrorKind::Denied));
    faults.fail_before(None, 4, error(CloudErrorKind::Quota));
    faults.fail_after(CloudCall::CreateNode, 1, error(CloudErrorKind::Unreachable));
    let mut kinds = Vec::new();
    for _ in 0..2 {
        kinds.push(cloud.list_nodes(None).await.err().map(|e| e.kind));
    }
    kinds.push(cloud.create_node(&wish).await.err().map(|e| e.kind));
    kinds.push(cloud.list_images(None, None).await.err().map(|e| e.kind));
    kinds.push(cloud.list_images(None, None).await.err().map(|e| e.kind));
    use CloudErrorKind::{Denied, Quota, Unreachable};
    assert_eq!(kinds, [None, Some(Denied), Some(Unreachable), Some(Quota), None]);
    assert_eq!(cloud.nodes().await.unwrap().len(), 3, "the answer was lost, not the node");
    faults.malformed(CloudCall::DestroyNode, 1);
    let node = cloud.nodes().await.unwrap()[0].reference();
    assert_eq!(cloud.destroy_node(&node).await.unwrap_err().kind, CloudErrorKind::Malformed);
    assert_eq!(cloud.nodes().await.unwrap().len(), 2);
    assert_eq!((faults.calls(CloudCall::ListNodes), faults.calls(CloudCall::DestroyNode)), (5, 1));
    assert_eq!(faults.log().last(), Some(&CloudCall::ListNodes));
}

#[tokio::test]
async fn held_calls_wait_until_they_are_let_go() {
    let faults = faulty();
    for after in [false, true] {
        let held = match after {
            false => faults.hold_before(CloudCall::ListNodes, 1),
            true => faults.hold_after(CloudCall::ListNodes, 1),
        };
        let caller = tokio::spawn({
            let cloud = faults.clone();
            async move { cloud.list_nodes(None).await.map(|page| page.items.len()) }
        });
        held.arrived(1).await;
        assert!(!caller.is_finished());
        assert_eq!(faults.list_nodes(None).await.unwrap().items.len(), 2, "others go on");
        held.release();
        assert_eq!(caller.await.unwrap().unwrap(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_cut_off() {
    let faults = faulty();
    let _held = faults.hold_before(CloudCall::ListNodes, 1);
    let timed = Timed::new(faults.clone(), Duration::from_secs(10));
    let began = Instant::now();
    let cut = timed.list_nodes(None).await.unwrap_err();
    assert_eq!((cut.kind, began.elapsed()), (CloudErrorKind::Unreachable, Duration::from_secs(10)));
    assert!(cut.message.contains("list_nodes"), "{cut}");
    timed.list_nodes(None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pauses_double_with_jitter_and_keep_the_deadline() {
    let faults = faulty();
    let policy = RetryPolicy {
        attempts: 6,
        first_pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(4),
        total: Duration::from_secs(60),
    };
    let retrying = Retrying::new(faults.clone(), policy, ids());
    faults.fail_always(CloudCall::ListNodes, error(CloudErrorKind::Unreachable));
    let mut spent = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        retrying.list_nodes(None).await.unwrap_err();
        // 1, 2, 4, 4, 4 seconds, each between half and all of it.
        assert!((Duration::from_millis(7500)..=Duration::from_secs(16)).contains(&began.elapsed()));
        spent.push(began.elapsed());
    }
    assert_eq!(faults.calls(CloudCall::ListNodes), 30);
    spent.dedup();
    assert_eq!(spent.len(), 5, "no two alike");

    let short = Retrying::new(faults.clone(), RetryPolicy { total: Duration::from_secs(4), ..policy }, ids());
    let began = Instant::now();
    short.list_nodes(None).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(4), "no pause is begun that ends too late");
    faults.clear();
    let _held = faults.hold_before(CloudCall::ListNodes, 1);
    let began = Instant::now();
    assert_eq!(short.list_nodes(None).await.unwrap_err().kind, CloudErrorKind::Unreachable);
    assert_eq!(began.elapsed(), Duration::from_secs(4), "a read that hangs ends at the deadline");

    faults.fail_before(CloudCall::ListNodes, 1, error(CloudErrorKind::RateLimited).after(Duration::from_secs(20)));
    let began = Instant::now();
    retrying.list_nodes(None).await.unwrap();
    assert!((20..=21).contains(&began.elapsed().as_secs()), "what the provider asked for, and the jitter");
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_for_the_rate_is_repeated_unless_it_creates() {
    let faults = faulty();
    let retrying = Retrying::new(faults.clone(), RetryPolicy::default(), ids());
    retrying.import_key_pair("mine", "ssh-rsa AAAA").await.unwrap();
    faults.fail_before(CloudCall::DeleteKeyPair, 1, error(CloudErrorKind::RateLimited));
    retrying.delete_key_pair("mine").await.unwrap();
    faults.fail_before(CloudCall::DeleteKeyPair, 1, error(CloudErrorKind::Unreachable));
    assert_eq!(retrying.delete_key_pair("other").await.unwrap_err().kind, CloudErrorKind::Unreachable);
    assert_eq!(faults.calls(CloudCall::DeleteKeyPair), 3, "a name may be another one's by the second try");
    for kind in [CloudErrorKind::RateLimited, CloudErrorKind::Unreachable] {
        faults.fail_before(CloudCall::ImportKeyPair, 1, error(kind));
        assert_eq!(retrying.import_key_pair("new", "ssh-rsa AAAA").await.unwrap_err().kind, kind);
    }
    assert_eq!(faults.calls(CloudCall::ImportKeyPair), 3);
}

/// Gives numbered tokens, and fails as told.
struct Door {
    logins: AtomicU32,
    failing: AtomicU32,
    life: Option<Duration>,
}

#[async_trait]
impl Login for Door {
    type Token = Secret;

    async fn login(&self) -> Result<Granted<Secret>, CloudError> {
        let number = self.logins.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
        if self.failing.load(Ordering::SeqCst) > 0 {
            return Err(error(CloudErrorKind::Auth));
        }
        Ok(Granted { token: Secret::new(number.to_string()), valid_for: self.life })
    }
}

fn door(life: Option<Duration>, clock: &Arc<FakeClock>) -> Arc<Relogin<Door>> {
    let door = Door { logins: AtomicU32::new(0), failing: AtomicU32::new(0), life };
    let clock: Arc<dyn Clock> = clock.clone();
    Arc::new(Relogin::new(door, clock))
}

/// Fifty callers at once, whose tokens are refused up to that number.
async fn fifty(relogin: &Arc<Relogin<Door>>, refused: u32) -> Vec<Result<u32, CloudErrorKind>> {
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let relogin = relogin.clone();
            tokio::spawn(async move {
                let call = |token: Arc<Secret>| async move {
                    tokio::task::yield_now().await;
                    let number: u32 = token.reveal().parse().expect("a number");
                    if number <= refused { Err(error(CloudErrorKind::Auth)) } else { Ok(number) }
                };
                relogin.call(call).await.map_err(|e| e.kind)
            })
        })
        .collect();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.expect("no panic"));
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn many_callers_log_in_once() {
    let clock = Arc::new(FakeClock::default());
    let relogin = door(None, &clock);
    let logins = || relogin.login().logins.load(Ordering::SeqCst);
    assert_eq!(fifty(&relogin, 0).await, vec![Ok(1); 50]);
    assert_eq!(logins(), 1);
    clock.advance(Duration::from_secs(1_000_000));
    assert_eq!(fifty(&relogin, 0).await, vec![Ok(1); 50], "a token of unknown life is used until it is refused");
    assert_eq!(fifty(&relogin, 1).await, vec![Ok(2); 50]);
    assert_eq!(logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_fails_is_everybodys_answer() {
    let relogin = door(None, &Arc::default());
    relogin.login().failing.store(1, Ordering::SeqCst);
    assert_eq!(fifty(&relogin, 0).await, vec![Err(CloudErrorKind::Auth); 50]);
    assert_eq!(relogin.login().logins.load(Ordering::SeqCst), 1, "fifty tries would lock the account");
    relogin.login().failing.store(0, Ordering::SeqCst);
    assert_eq!(fifty(&relogin, 0).await, vec![Ok(2); 50], "and the next one tries again");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_while_logging_in_stops_nobody() {
    let relogin = door(None, &Arc::default());
    let first = tokio::spawn({
        let relogin = relogin.clone();
        async move { relogin.call(|_| async { Ok(()) }).await }
    });
    while relogin.login().logins.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert_eq!(fifty(&relogin, 0).await, vec![Ok(2); 50]);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_renewed_before_their_end() {
    let clock = Arc::new(FakeClock::default());
    for (life, good, over) in [(3600, 3539, 3540), (60, 29, 30), (1, 0, 1)] {
        let relogin = door(Some(Duration::from_secs(life)), &clock);
        let mut number = fifty(&relogin, 0).await[0].unwrap();
        assert_eq!(number, 1);
        clock.advance(Duration::from_secs(good));
        number = fifty(&relogin, 0).await[0].unwrap();
        assert_eq!(number, 1, "of {life} s");
        clock.advance(Duration::from_secs(over - good));
        number = fifty(&relogin, 0).await[0].unwrap();
        assert_eq!(number, 2, "of {life} s");
    }
    let none = door(Some(Duration::ZERO), &clock);
    assert_eq!(fifty(&none, 0).await, vec![Ok(1); 50], "no life is an unknown one");
}
