//! The agent's client against peers that follow a script, lie, talk nonsense and say nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use portolan_driver_qemu::{FreezeStatus, MOST_OUTPUT, Qga, QgaError, ShutdownMode};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(100);
const NONCE: u64 = 0xfeed_0123_4567_89ab;

struct Peer {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Peer {
    /// Takes a session, and answers its synchronisation after these bytes.
    async fn synchronised(listener: UnixListener, before: &[u8]) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, writer) = stream.into_split();
        let mut peer = Self { reader: BufReader::new(reader), writer };
        assert_eq!(peer.reader.read_u8().await.unwrap(), 0xff, "the agent is to forget what it holds");
        let asked = peer.hear().await;
        assert_eq!(asked["execute"], "guest-sync-delimited");
        peer.writer.write_all(before).await.unwrap();
        peer.writer.write_all(b"\xff").await.unwrap();
        peer.say(&json!({ "return": asked["arguments"]["id"] })).await;
        peer
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn say(&mut self, what: &Value) {
        self.writer.write_all(format!("{what}\n").as_bytes()).await.unwrap();
    }
}

fn socket() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qga.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (dir, path, listener)
}

#[tokio::test]
async fn what_is_left_in_the_channel_is_passed_over() {
    let (_dir, path, listener) = socket();
    let peer = tokio::spawn(async move {
        let old = b"{\"return\": 7}\n\xff{\"return\": 12345}\n{\"half\xff garbage\n\xff{\"error\":{}}\n";
        let mut peer = Peer::synchronised(listener, old).await;
        assert_eq!(peer.hear().await["execute"], "guest-ping");
        peer.say(&json!({ "return": {} })).await;
        let asked = peer.hear().await;
        assert_eq!(asked["execute"], "guest-fsfreeze-status");
        peer.say(&json!({ "return": "frozen" })).await;
        peer.hear().await;
        peer.say(&json!({ "return": 2 })).await;
        peer.hear().await;
        peer.say(&json!({ "error": { "class": "CommandNotFound", "desc": "disabled" } })).await;
        let asked = peer.hear().await;
        assert_eq!((&asked["execute"], &asked["arguments"]["mode"]), (&json!("guest-shutdown"), &json!("reboot")));
        peer.say(&json!({ "error": { "class": "GenericError", "desc": "no" } })).await;
    });
    let mut agent = Qga::connect(&path, NONCE, LIMIT).await.unwrap();
    agent.ping().await.unwrap();
    assert_eq!(agent.fsfreeze_status().await.unwrap(), FreezeStatus::Frozen);
    assert_eq!(agent.fsfreeze_thaw(LIMIT).await.unwrap(), 2);
    match agent.network_interfaces().await.unwrap_err() {
        QgaError::Refused { command, class, .. } => {
            assert_eq!((command.as_str(), class.as_str()), ("guest-network-get-interfaces", "CommandNotFound"));
        }
        other => panic!("{other}"),
    }
    agent.shutdown(ShutdownMode::Reboot).await.unwrap();
    agent.refused().await;
    assert!(tokio::time::timeout(SHORT, agent.refused()).await.is_err(), "a peer that goes does what it was asked");
    peer.await.unwrap();
}

#[tokio::test]
async fn commands_are_waited_for_and_their_output_is_bounded() {
    let (_dir, path, listener) = socket();
    let peer = tokio::spawn(async move {
        let mut peer = Peer::synchronised(listener, b"").await;
        let asked = peer.hear().await;
        assert_eq!(asked["arguments"], json!({ "path": "/bin/x", "arg": ["a b", "$c"], "capture-output": true }));
        peer.say(&json!({ "return": { "pid": 5 } })).await;
        for exited in [false, false, true] {
            assert_eq!(peer.hear().await["arguments"]["pid"], 5);
            let long = "QUFB".repeat(MOST_OUTPUT / 3 + 1);
            let done = json!({ "exited": true, "exitcode": 1, "out-data": long, "err-data": "ZXJy" });
            peer.say(&json!({ "return": if exited { done } else { json!({ "exited": false }) } })).await;
        }
        peer.hear().await;
        peer.say(&json!({ "return": { "pid": 6 } })).await;
        peer.hear().await;
        peer.say(&json!({ "return": { "exited": true, "signal": 9, "out-data": "no base64!" } })).await;
        peer.hear().await;
        peer.say(&json!({ "return": { "pid": 7 } })).await;
        loop {
            peer.hear().await;
            peer.say(&json!({ "return": { "exited": false } })).await;
        }
    });
    let mut agent = Qga::connect(&path, NONCE, LIMIT).await.unwrap();
    let done = agent.exec("/bin/x", &["a b", "$c"], LIMIT).await.unwrap();
    assert_eq!((done.exit_code, done.stdout.len(), &done.stderr[..]), (Some(1), MOST_OUTPUT, &b"err"[..]));
    assert!(done.truncated);
    assert!(matches!(agent.exec("/bin/x", &[], LIMIT).await, Err(QgaError::Malformed { .. })));
    assert!(matches!(agent.exec("/bin/x", &[], SHORT).await, Err(QgaError::ExecTimedOut)));
    peer.abort();
}

#[tokio::test]
async fn silence_is_told_from_a_channel_that_is_gone() {
    let (_dir, path, listener) = socket();
    // Takes everything, says nothing: as a guest without an agent.
    assert!(matches!(Qga::connect(&path, NONCE, SHORT).await, Err(QgaError::AgentSilent)));
    drop(listener);
    assert!(matches!(Qga::connect(&path, NONCE, SHORT).await, Err(QgaError::Connect(_))));

    // Answers, but somebody else's number, for ever.
    let (_dir, path, listener) = socket();
    let liar = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.write_all(b"\xff{\"return\":1}\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    assert!(matches!(Qga::connect(&path, NONCE, SHORT).await, Err(QgaError::AgentSilent)));
    liar.await.unwrap();

    // Falls silent, and goes, in the middle.
    let (_dir, path, listener) = socket();
    let peer = tokio::spawn(async move { Peer::synchronised(listener, b"").await });
    let mut agent = Qga::connect(&path, NONCE, LIMIT).await.unwrap();
    assert!(matches!(agent.fsfreeze_freeze(SHORT).await, Err(QgaError::AgentSilent)));
    drop(peer.await.unwrap());
    assert!(matches!(agent.ping().await, Err(QgaError::Lost(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_end_in_an_error_or_an_answer(
        before in prop::collection::vec(any::<u8>(), 0..200),
        after in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_dir, path, listener) = socket();
            let peer = tokio::spawn(async move {
                let mut peer = Peer::synchronised(listener, &before).await;
                let _ = peer.writer.write_all(&[&after[..], b"\n"].concat()).await;
            });
            if let Ok(mut agent) = Qga::connect(&path, NONCE, LIMIT).await {
                let _ = agent.exec("/x", &[], LIMIT).await;
                let _ = agent.fsfreeze_status().await;
            }
            peer.await.unwrap();
        });
    }
}
