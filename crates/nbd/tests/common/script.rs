//! Peers that say what they are told to, in memory.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Room enough that nobody who only writes is ever stuck.
const ROOM: usize = 4 << 20;

/// Something to say once the other side has said so many bytes in all.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) after: usize,
    pub(crate) bytes: Vec<u8>,
}

/// What comes after the last turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum End {
    Close,
    /// Listen, and say nothing more.
    Stall,
}

/// Two ends of a stream in memory.
pub(crate) fn stream() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(ROOM)
}

/// Plays a script. Who waits in vain for the other side goes on after a second.
pub(crate) async fn play(mut stream: DuplexStream, turns: Vec<Turn>, end: End) {
    let mut seen = 0;
    let mut buffer = vec![0; 64 << 10];
    for turn in turns {
        while seen < turn.after {
            match tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer)).await {
                Ok(Ok(read)) if read > 0 => seen += read,
                _ => break,
            }
        }
        if stream.write_all(&turn.bytes).await.is_err() {
            return;
        }
    }
    if end == End::Stall {
        while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
    }
}

/// Both sides of a conversation.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    pub(crate) client: Vec<Turn>,
    pub(crate) server: Vec<Turn>,
}

/// Passes on what two sides say to each other, and writes it down.
pub(crate) async fn record(mut client: DuplexStream, mut server: DuplexStream) -> Recording {
    let mut out = Recording::default();
    let (mut from_client, mut from_server) = (vec![0; ROOM], vec![0; ROOM]);
    let (mut client_said, mut server_said) = (0, 0);
    loop {
        tokio::select! {
            biased;
            read = client.read(&mut from_client) => {
                let read = read.unwrap_or(0);
                if read == 0 {
                    return out;
                }
                client_said += read;
                out.client.push(Turn { after: server_said, bytes: from_client[..read].to_vec() });
                let _ = server.write_all(&from_client[..read]).await;
            }
            read = server.read(&mut from_server) => {
                let read = read.unwrap_or(0);
                if read == 0 {
                    return out;
                }
                server_said += read;
                out.server.push(Turn { after: client_said, bytes: from_server[..read].to_vec() });
                let _ = client.write_all(&from_server[..read]).await;
            }
        }
    }
}
