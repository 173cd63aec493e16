//! `Idempotency-Key` on the dialect (section 2.7), over the real store of answers: also when that fails, or when a
//! process dies between the work and its answer.

#![allow(clippy::unwrap_used)]

mod transcript;
mod world;

use axum::body::Body;
use axum::http::header;
use portolan::model::Role;
use portolan::storage::{MemoryStorage, Storage};
use portolan_testkit::storage::{Fault, FaultyStorage};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use transcript::{Answer, Conversation, account, ready};
use world::{World, content};

const SECOND: Duration = Duration::from_secs(1);

async fn keyed(talk: &mut Conversation, method: &str, path: &str, key: &str, body: &str) -> Answer {
    let request = talk.request(method, path).header("idempotency-key", key).body(Body::from(body.to_owned())).unwrap();
    talk.exchange(request).await
}

async fn export(talk: &mut Conversation, key: &str, body: &str) -> Answer {
    keyed(talk, "POST", "/api/tasks/export", key, body).await
}

fn was_replayed(answer: &Answer) -> bool {
    answer.headers.get("idempotency-replayed").is_some_and(|v| v == "true")
}

async fn points(talk: &mut Conversation) -> usize {
    talk.quiet_get("/api/backups").await.as_array().unwrap().len()
}

async fn body_for(world: &World) -> String {
    json!({ "protectedEntities": [world.vm("web01").await.id], "backupType": "FULL" }).to_string()
}

#[tokio::test(start_paused = true)]
async fn a_repeated_export_is_one_backup_and_one_answer() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    talk.login().await;
    let body = body_for(&world).await;
    let first = export(&mut talk, "nightly-1", &body).await;
    assert_eq!(first.status, 200);
    world.wait(first.value[0]["workflowExecution"]["guid"].as_str().unwrap().parse().unwrap()).await;
    let again = export(&mut talk, "nightly-1", &body).await;
    assert!(was_replayed(&again) && !was_replayed(&first));
    assert_eq!((again.status, &again.text), (first.status, &first.text), "byte for byte, though the task has ended");
    for name in ["content-type", "x-total-count", "content-length"] {
        assert_eq!(again.headers[name], first.headers[name]);
    }
    assert_eq!(points(&mut talk).await, 1);

    let other = export(&mut talk, "nightly-1", &body.replace("FULL", "INCREMENTAL")).await;
    assert_eq!((other.status, other.value["code"].as_str()), (422, Some("IDEMPOTENCY_KEY_REUSED")));
    let malformed = export(&mut talk, "night ly", &body).await;
    assert_eq!((malformed.status, malformed.value["code"].as_str()), (400, Some("IDEMPOTENCY_KEY_INVALID")));

    // A refusal that is the request's own fault is an answer like any other.
    for replay in [false, true] {
        let refused = export(&mut talk, "bad", "{}").await;
        assert_eq!((refused.status, was_replayed(&refused)), (400, replay));
    }
    // The same session or another of the same account is the same sender; another account is not.
    talk.login().await;
    assert!(was_replayed(&export(&mut talk, "nightly-1", &body).await));
    account(&world, "second", "battery staple", Role::Operator, None).await;
    talk.login_as("second", "battery staple").await;
    let theirs = export(&mut talk, "nightly-1", &body).await;
    assert!(theirs.status == 200 && !was_replayed(&theirs) && theirs.text != first.text);
    assert_eq!(points(&mut talk).await, 2);
}

/// A world in which nothing happens but what is asked for.
async fn still(storage: Arc<dyn Storage>) -> (World, Conversation) {
    let world = World::on(storage).await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    account(&world, "portal", "correct horse", Role::Administrator, None).await;
    world.sync_by_hand().await;
    let mut talk = Conversation::with(&world);
    talk.login().await;
    (world, talk)
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_for_a_day() {
    let (world, mut talk) = still(Arc::new(MemoryStorage::new())).await;
    let body = body_for(&world).await;
    let first = export(&mut talk, "k", &body).await;
    tokio::time::sleep(Duration::from_secs(86_399)).await;
    talk.login().await;
    assert!(was_replayed(&export(&mut talk, "k", &body).await));
    tokio::time::sleep(2 * SECOND).await;
    let anew = export(&mut talk, "k", &body).await;
    assert!(anew.status == 200 && !was_replayed(&anew));
    assert_ne!(anew.value[0]["guid"], first.value[0]["guid"], "a key that is used anew is a new request");
    assert_eq!(points(&mut talk).await, 2);
}

#[tokio::test(start_paused = true)]
async fn who_is_nobody_yet_has_no_keys() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    let login = json!({ "login": "portal", "password": "correct horse" }).to_string();
    let mut cookies = Vec::new();
    for _ in 0..2 {
        // The second one comes with the cookie of the first.
        let answer = keyed(&mut talk, "POST", "/api/session/login", "k", &login).await;
        assert!(answer.status == 200 && !was_replayed(&answer));
        cookies.push(answer.headers[header::SET_COOKIE].clone());
    }
    assert_ne!(cookies[0], cookies[1], "every login is a session of its own");
    let body = body_for(&world).await;
    let gone = keyed(&mut talk, "POST", "/api/session/logout", "k", "{}").await;
    assert_eq!(gone.status, 204);
    assert_eq!(export(&mut talk, "e", &body).await.status, 401);
    talk.login().await;
    let fresh = export(&mut talk, "e", &body).await;
    assert!(fresh.status == 200 && !was_replayed(&fresh), "the refusal was not kept");

    // A foreign page neither hears an answer nor spoils a key.
    talk.origin = Some("https://evil.example".into());
    assert_eq!(export(&mut talk, "e", &body).await.status, 403);
    assert_eq!(export(&mut talk, "f", &body).await.status, 403);
    talk.origin = Some("https://engine.example".into());
    let theirs = export(&mut talk, "f", &body).await;
    assert!(theirs.status == 200 && !was_replayed(&theirs));
    let exposed = theirs.headers[header::ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
    assert!(exposed.contains("Idempotency-Replayed"));
}

#[tokio::test(start_paused = true)]
async fn of_two_at_once_one_works() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    talk.login().await;
    let body = body_for(&world).await;
    let request = || {
        let request = talk.request("POST", "/api/tasks/export").header("idempotency-key", "k");
        talk.plain(request.body(Body::from(body.clone())).unwrap())
    };
    let mut statuses: Vec<u16> = futures_util::future::join_all((0..5).map(|_| request())).await;
    statuses.sort_unstable();
    assert!(statuses.iter().all(|s| matches!(s, 200 | 409)) && statuses[0] == 200, "{statuses:?}");
    assert_eq!(points(&mut talk).await, 1);
}

/// Every write of the request fails once, before or after its effect: whatever the client is told, it repeats until
/// it hears of success, and there is one backup.
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_anywhere_makes_no_second_backup() {
    for (k, fault, twice) in [1, 2, 3].into_iter().flat_map(|k| {
        [(k, Fault::Before, false), (k, Fault::Before, true), (k, Fault::After, false), (k, Fault::After, true)]
    }) {
        let case = format!("{k} {fault:?} {twice}");
        let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
        let (world, mut talk) = still(storage.clone()).await;
        let body = body_for(&world).await;
        let before = storage.applies();
        storage.fail_at(k, fault);
        if twice {
            storage.fail_at(k + 1, fault);
        }
        let mut heard = Vec::new();
        let answer = loop {
            let answer = export(&mut talk, "k", &body).await;
            heard.push(answer.status);
            if answer.status == 200 {
                break answer;
            }
            assert!(matches!(answer.status, 409 | 503) && heard.len() < 100, "{case}: {heard:?}");
            tokio::time::sleep(SECOND).await;
        };
        assert!(storage.applies() >= before + k, "{case}: the write that fails is one of the request");
        assert!(was_replayed(&export(&mut talk, "k", &body).await), "{case}: {heard:?}");
        assert_eq!(points(&mut talk).await, 1, "{case}: {heard:?}");
        world.start();
        world.wait(answer.value[0]["workflowExecution"]["guid"].as_str().unwrap().parse().unwrap()).await;
        assert_eq!(talk.quiet_get("/api/backups").await[0]["status"]["name"], "SUCCESS", "{case}");
    }
}

/// A process dies after the backup was asked for and before its answer was kept: whoever takes the request over
/// finds the tasks that are there.
#[tokio::test(start_paused = true)]
async fn a_process_that_dies_before_the_answer_is_kept_leaves_one_backup() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    let mut dying = Conversation::dying_before_the_answer(&world);
    dying.login().await;
    talk.login().await;
    let body = body_for(&world).await;
    let lost = export(&mut dying, "k", &body).await;
    assert_eq!(lost.status, 200);
    let early = export(&mut talk, "k", &body).await;
    assert_eq!((early.status, early.value["code"].as_str()), (409, Some("REQUEST_IN_PROGRESS")));
    assert_eq!(early.headers[header::RETRY_AFTER], "2");
    tokio::time::sleep(31 * SECOND).await;
    let found = export(&mut talk, "k", &body).await;
    assert!(found.status == 200 && !was_replayed(&found));
    assert_eq!(found.value[0]["guid"], lost.value[0]["guid"]);
    assert_eq!(found.value[0]["backup"]["guid"], lost.value[0]["backup"]["guid"]);
    assert_eq!(points(&mut talk).await, 1);
    assert!(was_replayed(&export(&mut talk, "k", &body).await));
}
