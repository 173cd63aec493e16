//! What the command line sends to the management API, and what it makes of the answers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use clap::Parser;
use portolan_http::{Edge, Limits, ListenerConfig, bind};
use portolan_server::cli::Cli;
use portolan_server::config::Surroundings;
use portolan_server::error::Failure;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A management API that answers what it is told to.
#[derive(Clone, Default)]
struct Fake {
    answers: Arc<Mutex<VecDeque<(StatusCode, Value)>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

async fn answer(State(fake): State<Fake>, method: Method, uri: Uri, body: Bytes) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    fake.seen.lock().unwrap().push(format!("{method} {uri} {body}").trim_end().to_owned());
    let answer = fake.answers.lock().unwrap().pop_front();
    let (status, value) = answer.unwrap_or((StatusCode::NOT_FOUND, Value::Null));
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// What a command sends, and how it ends, where the server answers so.
async fn run(answers: &[(u16, Value)], args: &[&str]) -> (Vec<String>, Result<(), Failure>) {
    let fake = Fake::default();
    let answers = answers.iter().map(|(status, value)| (StatusCode::from_u16(*status).unwrap(), value.clone()));
    fake.answers.lock().unwrap().extend(answers);
    let addresses = vec!["127.0.0.1:0".parse().unwrap()];
    let config = ListenerConfig { name: "fake".into(), addresses, tls: None, limits: Limits::default() };
    let bound = bind(&config).await.unwrap();
    let url = bound.url();
    let router = Edge::new("fake", portolan_server::core::system().1)
        .wrap(Router::new().fallback(answer).with_state(fake.clone()));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(bound.serve(router, stop.clone(), Duration::ZERO));
    let there = ["--url", &url, "--token", "t0k3n"];
    let args = ["portolan"].iter().chain(args).chain(&there).copied();
    let command = Cli::try_parse_from(args).unwrap().command;
    let ended = portolan_server::client::run(command, &Surroundings::default()).await;
    stop.cancel();
    serving.await.unwrap();
    let seen = fake.seen.lock().unwrap().clone();
    (seen.into_iter().map(|line| line.replace("/manage/v1", "")).collect(), ended)
}

fn error(code: &str, message: &str) -> Value {
    json!({ "error": { "code": code, "message": message } })
}

#[tokio::test]
async fn draining_waits_until_nothing_runs() {
    let state = |draining: bool, running: u64| (200, json!({ "draining": draining, "running": running }));
    let (seen, ended) = run(&[state(true, 2), state(true, 1), state(true, 0)], &["task", "drain", "--wait"]).await;
    ended.unwrap();
    assert_eq!(seen, ["PUT /tasks/drain {\"draining\":true}", "GET /tasks/drain", "GET /tasks/drain"]);
    let (seen, ended) = run(&[state(false, 0)], &["task", "drain", "--undo"]).await;
    ended.unwrap();
    assert_eq!(seen, ["PUT /tasks/drain {\"draining\":false}"]);
    let (_, ended) = run(&[state(true, 2), state(false, 2)], &["task", "drain", "--wait"]).await;
    assert!(ended.unwrap_err().message.contains("undone"));
}

#[tokio::test]
async fn a_task_is_followed_to_its_end() {
    let task = |state: &str| {
        let progress = json!({ "done": 1024, "total": 4096, "percent": 25, "message": "disk 1 of 2" });
        (200, json!({ "id": "7", "kind": "export", "state": state, "progress": progress }))
    };
    let (seen, ended) = run(&[task("READY"), task("RUNNING"), task("SUCCEEDED")], &["task", "show", "7", "-f"]).await;
    ended.unwrap();
    assert_eq!(seen, ["GET /tasks/7", "GET /tasks/7", "GET /tasks/7"]);
    let (_, ended) = run(&[task("FAILED")], &["task", "show", "7", "--follow"]).await;
    let failure = ended.unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (1, "the task ended as failed"));
    let (_, ended) = run(&[task("STUCK")], &["task", "show", "7", "--follow"]).await;
    assert!(ended.unwrap_err().hint.unwrap().contains("abandon"));
    for (verb, path) in [("retry", "POST /tasks/7/retry {}"), ("abandon", "POST /tasks/7/abandon {}")] {
        let (seen, ended) = run(&[task("FAILED")], &["task", verb, "7"]).await;
        ended.unwrap();
        assert_eq!(seen, [path]);
    }
}

#[tokio::test]
async fn the_audit_log_is_asked_with_what_was_given() {
    let entry =
        json!({ "seq": 1, "at": "2026-01-31T12:00:00Z", "name": "account.created", "actor": "eve", "data": {} });
    let list = (200, json!({ "items": [entry], "total": 1 }));
    let given = ["audit", "--name", "account.,token.", "--actor", "eve", "--from", "2026-01-31T13:00:00+01:00"];
    let (seen, ended) = run(std::slice::from_ref(&list), &given).await;
    ended.unwrap();
    assert_eq!(seen, ["GET /audit?names=account.%2Ctoken.&actor=eve&from=2026-01-31T12%3A00%3A00.000Z&limit=50"]);
    let (_, ended) = run(&[list], &["audit", "--from", "yesterday"]).await;
    assert_eq!(ended.unwrap_err().code, 2);
}

#[tokio::test]
async fn the_audit_log_comes_page_by_page() {
    let page = |n: usize, next: Value| (200, json!({ "items": vec![json!({ "name": "x" }); n], "next": next }));
    let pages = [page(1000, json!(501)), page(1000, json!(101)), page(100, Value::Null)];
    let (seen, ended) = run(&pages, &["audit", "--limit", "0"]).await;
    ended.unwrap();
    let asked = ["GET /audit?limit=1000", "GET /audit?before=501&limit=1000", "GET /audit?before=101&limit=1000"];
    assert_eq!(seen, asked);
    let (seen, ended) = run(&pages, &["audit", "--limit", "1200"]).await;
    ended.unwrap();
    assert_eq!(seen, ["GET /audit?limit=1000", "GET /audit?before=501&limit=200"]);
}

#[tokio::test]
async fn names_are_one_part_of_a_path_and_lists_come_page_by_page() {
    let (seen, ended) = run(&[(204, Value::Null)], &["platform", "remove", "../a b", "--force"]).await;
    ended.unwrap();
    assert_eq!(seen, ["DELETE /platforms/..%2Fa%20b?force=true"]);
    let page = |n: usize| (200, json!({ "items": vec![json!({ "login": "eve" }); n], "total": 1500 }));
    let (seen, ended) = run(&[page(1000), page(500)], &["account", "list"]).await;
    ended.unwrap();
    assert_eq!(seen, ["GET /accounts?limit=1000&offset=0", "GET /accounts?limit=1000&offset=1000"]);
}

#[tokio::test]
async fn refusals_have_their_exit_codes() {
    for (status, code, exit) in [
        (400, "VALIDATION_FAILED", 2),
        (401, "UNAUTHORIZED", 4),
        (403, "FORBIDDEN", 4),
        (404, "NOT_FOUND", 1),
        (409, "CONFLICT", 1),
        (503, "UNAVAILABLE", 1),
    ] {
        let (_, ended) = run(&[(status, error(code, "it is so"))], &["platform", "show", "lab"]).await;
        let failure = ended.unwrap_err();
        assert_eq!((failure.code, failure.message.as_str()), (exit, "it is so"), "{status}");
    }
    let (_, ended) = run(&[(404, Value::Null)], &["status"]).await;
    assert!(ended.unwrap_err().message.contains("has no management API"));
    let failed = json!({ "ok": false, "error": { "code": "UNREACHABLE", "message": "nobody there" }, "problems": [] });
    let (seen, ended) = run(&[(200, failed)], &["platform", "test", "lab"]).await;
    assert_eq!(seen, ["POST /platforms/lab/test {}"]);
    assert!(ended.unwrap_err().render().contains("nobody there"));
}

/// A positional argument whose id is that of an option which all commands of a family have would take that option's
/// place without a word: `token revoke NAME` would log in with NAME.
#[test]
fn no_argument_is_taken_for_an_option_of_its_family() {
    fn look(command: &clap::Command, above: &mut Vec<String>, seen: &mut usize) {
        let own: Vec<&clap::Arg> = command.get_arguments().collect();
        for positional in own.iter().filter(|a| a.is_positional()) {
            let id = positional.get_id().to_string();
            assert!(!above.contains(&id), "{}: {id}", command.get_name());
            *seen += 1;
        }
        let before = above.len();
        above.extend(own.iter().filter(|a| a.is_global_set()).map(|a| a.get_id().to_string()));
        for inner in command.get_subcommands() {
            look(inner, above, seen);
        }
        above.truncate(before);
    }
    let mut seen = 0;
    look(&<Cli as clap::CommandFactory>::command(), &mut Vec::new(), &mut seen);
    assert!(seen > 20, "{seen}");
}
