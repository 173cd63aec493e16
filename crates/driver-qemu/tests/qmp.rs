//! The monitor's client against peers that follow a script, lie, talk nonsense and go away.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{LONG, Place, comes_to, own, wish};
use portolan_driver_qemu::{GuestState, Qmp, QmpError};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

const GREETING: &str =
    r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":"x"},"capabilities":["oob"]},"new":1}"#;
const LIMIT: Duration = Duration::from_secs(10);

struct Peer {
    lines: tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    writer: tokio::net::unix::OwnedWriteHalf,
}

impl Peer {
    async fn accept(listener: UnixListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, writer) = stream.into_split();
        Self { lines: BufReader::new(reader).lines(), writer }
    }

    async fn say(&mut self, line: &str) {
        self.writer.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.lines.next_line().await.unwrap().unwrap()).unwrap()
    }

    /// Greets, and takes the capabilities.
    async fn greeted(listener: UnixListener) -> Self {
        let mut peer = Self::accept(listener).await;
        peer.say(GREETING).await;
        let asked = peer.hear().await;
        assert_eq!(asked["execute"], "qmp_capabilities");
        peer.say(&json!({ "return": {}, "id": asked["id"] }).to_string()).await;
        peer
    }
}

fn socket() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (dir, path, listener)
}

#[tokio::test]
async fn replies_find_their_callers_and_events_their_listeners() {
    let (_dir, path, listener) = socket();
    let peer = tokio::spawn(async move {
        let mut peer = Peer::greeted(listener).await;
        let (first, second) = (peer.hear().await, peer.hear().await);
        peer.say(r#"{"event":"STOP","data":{"a":1},"timestamp":{"seconds":1,"microseconds":2}}"#).await;
        peer.say(r#"{"whatever":"nobody has heard of it"}"#).await;
        peer.say("").await;
        peer.say(&json!({ "return": {}, "id": 999_999 }).to_string()).await;
        // In the other order.
        for asked in [second, first] {
            let answer = json!({ "return": { "command": asked["execute"], "more": null }, "id": asked["id"] });
            peer.say(&answer.to_string()).await;
        }
        let asked = peer.hear().await;
        peer.say(&json!({ "error": { "class": "GenericError", "desc": "no" }, "id": asked["id"] }).to_string()).await;
        let asked = peer.hear().await;
        peer.say(&json!({ "return": null, "id": asked["id"] }).to_string()).await;
        let asked = peer.hear().await;
        peer.say(&json!({ "return": { "running": "maybe" }, "id": asked["id"] }).to_string()).await;
        peer
    });
    let qmp = Qmp::connect(&path, LIMIT).await.unwrap();
    assert_eq!(qmp.version().to_string(), "10.0.2");
    let mut events = qmp.events();
    let (one, two) = tokio::join!(qmp.execute("one", None), qmp.execute("two", Some(json!({ "x": 1 }))));
    assert_eq!((&one.unwrap()["command"], &two.unwrap()["command"]), (&json!("one"), &json!("two")));
    let event = events.recv().await.unwrap();
    assert_eq!((event.name.as_str(), &event.data), ("STOP", &json!({ "a": 1 })));
    match qmp.execute("three", None).await.unwrap_err() {
        QmpError::Refused { command, class, desc } => {
            assert_eq!((command.as_str(), class.as_str(), desc.as_str()), ("three", "GenericError", "no"));
        }
        other => panic!("{other}"),
    }
    assert_eq!(qmp.execute("four", None).await.unwrap(), Value::Null);
    assert!(matches!(qmp.query_status().await, Err(QmpError::Malformed { .. })));
    drop(peer.await.unwrap());
    timeout(LONG, qmp.ended()).await.expect("it ends with its peer");
    assert!(!qmp.is_alive());
    assert!(matches!(qmp.execute("five", None).await, Err(QmpError::Lost(_))));
}

#[tokio::test]
async fn a_lost_connection_ends_every_call() {
    for last_words in ["", "nonsense\r\n", "{\"return\":", "[1,2]\r\n", "\u{0}\u{ff}\r\n"] {
        let (_dir, path, listener) = socket();
        let peer = tokio::spawn(async move {
            let mut peer = Peer::greeted(listener).await;
            for _ in 0..10 {
                peer.hear().await;
            }
            peer.writer.write_all(last_words.as_bytes()).await.unwrap();
        });
        let qmp = Qmp::connect(&path, LIMIT).await.unwrap();
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let qmp = qmp.clone();
                tokio::spawn(async move { qmp.execute_within("wait", None, LONG).await })
            })
            .collect();
        for call in calls {
            let answer = call.await.unwrap();
            assert!(matches!(answer, Err(QmpError::Lost(_))), "{last_words:?}: {answer:?}");
        }
        peer.await.unwrap();
    }
}

#[tokio::test]
async fn silence_is_bounded_and_lines_too() {
    // No greeting: another client has the monitor.
    let (_dir, path, listener) = socket();
    let short = Duration::from_millis(50);
    assert!(matches!(Qmp::connect(&path, short).await, Err(QmpError::TimedOut(_))));
    drop(listener);
    assert!(matches!(Qmp::connect(&path, short).await, Err(QmpError::Connect(_))));

    // No answer to one command; the next one is answered, and the late answer harms nothing.
    let (_dir, path, listener) = socket();
    let peer = tokio::spawn(async move {
        let mut peer = Peer::greeted(listener).await;
        let (late, asked) = (peer.hear().await, peer.hear().await);
        for asked in [late, asked] {
            peer.say(&json!({ "return": asked["execute"], "id": asked["id"] }).to_string()).await;
        }
        // A line that never ends.
        let chunk = vec![b'x'; 1 << 16];
        while peer.writer.write_all(&chunk).await.is_ok() {}
    });
    let qmp = Qmp::connect(&path, LIMIT).await.unwrap();
    assert!(matches!(qmp.execute_within("late", None, short).await, Err(QmpError::TimedOut(_))));
    assert_eq!(qmp.execute("now", None).await.unwrap(), "now");
    let reason = timeout(LONG, qmp.ended()).await.unwrap();
    assert!(reason.contains("too long"), "{reason}");
    drop(qmp);
    peer.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_is_no_monitor_is_told() {
    for greeting in ["{}", "hello", r#"{"QMP":{"version":{"qemu":{"major":"x"}}}}"#] {
        let (_dir, path, listener) = socket();
        let peer = tokio::spawn(async move {
            let mut peer = Peer::accept(listener).await;
            peer.say(greeting).await;
            peer
        });
        assert!(matches!(Qmp::connect(&path, LIMIT).await, Err(QmpError::Malformed { .. })), "{greeting}");
        drop(peer.await.unwrap());
    }
    let (_dir, path, listener) = socket();
    let peer = tokio::spawn(async move { drop(Peer::accept(listener).await) });
    assert!(matches!(Qmp::connect(&path, LIMIT).await, Err(QmpError::Lost(_))));
    peer.await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_end_in_an_error_or_an_answer(
        before in prop::collection::vec(any::<u8>(), 0..200),
        after in prop::collection::vec(any::<u8>(), 0..200),
        greets in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_dir, path, listener) = socket();
            let peer = tokio::spawn(async move {
                let (mut stream, _): (UnixStream, _) = listener.accept().await.unwrap();
                let greeting = if greets { format!("{GREETING}\n{{\"return\":{{}},\"id\":1}}\n") } else { String::new() };
                let all = [greeting.as_bytes(), &before, b"\n", &after].concat();
                let _ = stream.write_all(&all).await;
                let _ = stream.shutdown().await;
            });
            if let Ok(qmp) = Qmp::connect(&path, LIMIT).await {
                let _ = qmp.execute("anything", None).await;
                timeout(LONG, qmp.ended()).await.expect("it ends");
            }
            peer.await.unwrap();
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_qemu_is_spoken_with() {
    let place = Place::with_blank();
    let host = place.open().await;
    let guest = own(host.create(wish("alpha", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    let qmp = guest.backup_monitor().await.unwrap();
    let mut events = qmp.events();
    qmp.stop().await.unwrap();
    assert_eq!(timeout(LONG, events.recv()).await.unwrap().unwrap().name, "STOP");
    assert_eq!(qmp.query_status().await.unwrap().status, "paused");
    qmp.cont().await.unwrap();
    assert!(qmp.query_status().await.unwrap().running);
    match qmp.execute("no-such-command", None).await.unwrap_err() {
        QmpError::Refused { class, .. } => assert_eq!(class, "CommandNotFound"),
        other => panic!("{other}"),
    }
    assert_eq!(qmp.query_blockstats().await.unwrap()[0].node, "d0");
    qmp.quit().await.unwrap();
    timeout(LONG, qmp.ended()).await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
}
