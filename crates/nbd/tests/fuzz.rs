//! Conversations that go wrong in every way: neither side panics, hangs, or takes wrong bytes for right ones. Time
//! stands still but for time-outs. `PORTOLAN_SOAK` multiplies the number of random cases.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use async_trait::async_trait;
use bytes::Bytes;
use common::script::{End, Recording, Turn, play, record, stream};
use common::soak;
use portolan_block::{BlockError, BlockExtent, BlockSource};
use portolan_nbd::{
    ClientOptions, Connection, Export, ExportDevice, MemoryDevice, NbdError, NbdSource, Server, ServerOptions,
    ZeroOptions,
};
use proptest::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SIZE: usize = 24 << 10;
/// Data is this byte, which occurs nowhere else in a conversation: so it can be told apart from the protocol.
const FILL: u8 = 0xee;
const CONTEXT: &str = "qemu:dirty-bitmap:b";

/// Data, zeros, data.
fn disk() -> Vec<u8> {
    let mut disk = vec![FILL; SIZE];
    disk[8 << 10..16 << 10].fill(0);
    disk
}

/// What a device was asked for at once, in bytes.
#[derive(Default)]
struct Watched {
    now: AtomicU64,
    most: AtomicU64,
}

struct WatchedDevice {
    inner: MemoryDevice,
    seen: Arc<Watched>,
}

#[async_trait]
impl ExportDevice for WatchedDevice {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        self.inner.extents(range).await
    }

    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        let len: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let now = self.seen.now.fetch_add(len, Ordering::Relaxed) + len;
        self.seen.most.fetch_max(now, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let read = self.inner.read(ranges).await;
        self.seen.now.fetch_sub(len, Ordering::Relaxed);
        read
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        self.inner.write(offset, data).await
    }

    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
        self.inner.zero(range).await
    }

    async fn trim(&self, range: Range<u64>) -> Result<(), BlockError> {
        self.inner.trim(range).await
    }
}

fn server() -> (Arc<Server>, Arc<Watched>) {
    let server = Arc::new(Server::new(ServerOptions::default()));
    let seen = Arc::new(Watched::default());
    let device = WatchedDevice { inner: MemoryDevice::new(disk()), seen: seen.clone() };
    server.add(Export::new("disk", Arc::new(device)).with_bitmap(CONTEXT, [0..4096, 9000..9001])).unwrap();
    (server, seen)
}

/// Does a bit of everything. With `exact`, whatever a read says is right must be right.
async fn exercise(near: tokio::io::DuplexStream, exact: bool) -> Result<(), NbdError> {
    let contexts = vec!["base:allocation".into(), CONTEXT.into()];
    let options = ClientOptions { contexts, ..ClientOptions::default() };
    let source = NbdSource::over(Connection::over(near, "disk", &options).await?);
    let connection = source.connection();
    let disk = disk();
    let reads = [(0, SIZE), (100, 5000), (8 << 10, 4096), (SIZE - 1, 1)];
    let (a, b, c, d) = tokio::join!(
        connection.read(reads[0].0 as u64, reads[0].1),
        connection.read(reads[1].0 as u64, reads[1].1),
        connection.read(reads[2].0 as u64, reads[2].1),
        connection.read(reads[3].0 as u64, reads[3].1),
    );
    for (read, (at, len)) in [a, b, c, d].into_iter().zip(reads) {
        if let Ok(read) = read {
            assert_eq!(read.len(), len);
            assert!(!exact || read == disk[at..at + len], "wrong bytes at {at}+{len}");
        }
    }
    let whole = 0..source.size().min(1 << 40);
    if let Ok(extents) = source.extents(whole.clone()).await {
        common::check_cover(&extents, whole);
    }
    let _ = source.changed(CONTEXT).await;
    let (_, _, _) = tokio::join!(
        connection.write(0, vec![FILL; 600].into(), true),
        connection.write_zeroes(8 << 10..9 << 10, ZeroOptions { no_hole: true, ..ZeroOptions::default() }),
        connection.trim(10 << 10..12 << 10),
    );
    connection.flush().await?;
    connection.close().await
}

/// A conversation as it should be.
async fn recording() -> Recording {
    let (server, _) = server();
    let ((near, client), (far, served)) = (stream(), stream());
    let serving = tokio::spawn(async move { server.serve(served).await });
    let recording = tokio::spawn(record(client, far));
    exercise(near, true).await.unwrap();
    let recording = recording.await.unwrap();
    serving.await.unwrap();
    recording
}

/// The client with a peer that plays a script. It is done within its time-outs.
async fn client_against(turns: Vec<Turn>, end: End, exact: bool) {
    let (near, far) = stream();
    let started = tokio::time::Instant::now();
    let peer = tokio::spawn(play(far, turns, end));
    let _ = exercise(near, exact).await;
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    // The connection is dropped, so that the peer sees the end.
    peer.await.unwrap();
}

/// The server with a peer that plays a script. It is done within its time-outs once the peer has gone, or the server
/// is stopped.
async fn server_against(turns: Vec<Turn>, end: End) {
    let (server, seen) = server();
    let (near, far) = stream();
    let serving = {
        let server = server.clone();
        tokio::spawn(async move { server.serve(far).await })
    };
    let peer = tokio::spawn(play(near, turns, end));
    if end == End::Stall {
        // Longer than any time-out: who is connected still may be, as between two requests.
        tokio::time::sleep(Duration::from_secs(100)).await;
        server.stop(Duration::from_secs(60)).await;
    }
    let done = tokio::time::timeout(Duration::from_secs(100), serving).await;
    done.expect("the server lets go").unwrap();
    peer.await.unwrap();
    assert_eq!(server.users("disk"), Some(0));
    assert!(seen.most.load(Ordering::Relaxed) <= 64 << 20);
}

/// All bytes but those of data: where they are.
fn structure(turns: &[Turn]) -> Vec<(usize, usize)> {
    let places = turns.iter().enumerate().flat_map(|(turn, said)| (0..said.bytes.len()).map(move |at| (turn, at)));
    places.filter(|(turn, at)| turns[*turn].bytes[*at] != FILL).collect()
}

fn changed(turns: &[Turn], place: (usize, usize), change: u8) -> Vec<Turn> {
    let mut turns = turns.to_vec();
    turns[place.0].bytes[place.1] ^= change;
    turns
}

/// The first `len` bytes of what is said.
fn cut(turns: &[Turn], mut len: usize) -> Vec<Turn> {
    let mut out = Vec::new();
    for turn in turns {
        let take = turn.bytes.len().min(len);
        out.push(Turn { after: turn.after, bytes: turn.bytes[..take].to_vec() });
        len -= take;
    }
    out
}

fn total(turns: &[Turn]) -> usize {
    turns.iter().map(|turn| turn.bytes.len()).sum()
}

/// Where to cut: everywhere, but not in the midst of data.
fn cuts(turns: &[Turn]) -> Vec<usize> {
    let all: Vec<u8> = turns.iter().flat_map(|turn| turn.bytes.iter().copied()).collect();
    (0..=all.len()).filter(|at| all.get(*at) != Some(&FILL) || at % 1021 == 0).collect()
}

#[tokio::test(start_paused = true)]
async fn the_client_stands_every_changed_byte() {
    let server = recording().await.server;
    client_against(server.clone(), End::Stall, true).await;
    for place in structure(&server) {
        for change in [0x01, 0x80, 0xff] {
            client_against(changed(&server, place, change), End::Stall, true).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_stands_every_end() {
    let server = recording().await.server;
    for len in cuts(&server) {
        client_against(cut(&server, len), End::Close, true).await;
        client_against(cut(&server, len), End::Stall, true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_server_stands_every_changed_byte() {
    let client = recording().await.client;
    server_against(client.clone(), End::Close).await;
    for place in structure(&client) {
        for change in [0x01, 0x80, 0xff] {
            server_against(changed(&client, place, change), End::Close).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_server_stands_every_end() {
    let client = recording().await.client;
    for len in cuts(&client) {
        server_against(cut(&client, len), End::Close).await;
        server_against(cut(&client, len), End::Stall).await;
    }
}

/// How to spoil a conversation.
#[derive(Debug, Clone)]
enum Spoil {
    Replace(Vec<u8>),
    Insert(Vec<u8>),
    Delete(usize),
    Repeat(usize),
    Swap,
}

fn spoil() -> impl Strategy<Value = (prop::sample::Index, Spoil)> {
    let bytes = || prop::collection::vec(prop_oneof![Just(0), Just(1), Just(0xff), any::<u8>()], 1..40);
    let how = prop_oneof![
        bytes().prop_map(Spoil::Replace),
        bytes().prop_map(Spoil::Insert),
        (1usize..64).prop_map(Spoil::Delete),
        (1usize..64).prop_map(Spoil::Repeat),
        Just(Spoil::Swap),
    ];
    (any::<prop::sample::Index>(), how)
}

/// Spoils parts of the structure. Data stays, but where it goes may change.
fn spoiled(turns: &[Turn], how: &[(prop::sample::Index, Spoil)]) -> Vec<Turn> {
    let mut turns = turns.to_vec();
    for (index, how) in how {
        let places = structure(&turns);
        if places.is_empty() {
            break;
        }
        let (turn, at) = *index.get(&places);
        if let Spoil::Swap = how {
            let next = (turn + 1) % turns.len();
            let bytes = std::mem::take(&mut turns[turn].bytes);
            turns[turn].bytes = std::mem::replace(&mut turns[next].bytes, bytes);
            continue;
        }
        let bytes = &mut turns[turn].bytes;
        match how {
            Spoil::Replace(with) => {
                let end = (at + with.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&with[..end - at]);
            }
            Spoil::Insert(with) => drop(bytes.splice(at..at, with.iter().copied())),
            Spoil::Delete(count) => drop(bytes.drain(at..(at + count).min(bytes.len()))),
            Spoil::Repeat(count) => {
                let part = bytes[at..(at + count).min(bytes.len())].to_vec();
                drop(bytes.splice(at..at, part));
            }
            Spoil::Swap => {}
        }
    }
    turns
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Close), Just(End::Stall)]
}

/// The same cases each time.
fn cases(count: u32) -> ProptestConfig {
    let cases = count * u32::try_from(soak()).unwrap();
    ProptestConfig {
        cases,
        rng_seed: proptest::test_runner::RngSeed::Fixed(7),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

#[test]
fn both_sides_stand_spoiled_conversations() {
    let runtime = runtime();
    let recording = runtime.block_on(recording());
    let mut runner = proptest::test_runner::TestRunner::new(cases(300));
    let input = (prop::collection::vec(spoil(), 1..4), end());
    runner
        .run(&input, |(how, end)| {
            runtime.block_on(async {
                // Several lies at once may agree with each other, so that data goes to a wrong place.
                client_against(spoiled(&recording.server, &how), end, false).await;
                server_against(spoiled(&recording.client, &how), end).await;
            });
            Ok(())
        })
        .unwrap();
}

#[test]
fn both_sides_stand_noise() {
    let runtime = runtime();
    let recording = runtime.block_on(recording());
    let mut runner = proptest::test_runner::TestRunner::new(cases(200));
    let noise = prop::collection::vec(any::<u8>(), 0..2000);
    let input = (any::<prop::sample::Index>(), noise, end());
    runner
        .run(&input, |(index, noise, end)| {
            runtime.block_on(async {
                for (turns, client) in [(&recording.server, true), (&recording.client, false)] {
                    // Right up to some point, and nonsense from there.
                    let mut said = cut(turns, index.index(total(turns)));
                    said.push(Turn { after: 0, bytes: noise.clone() });
                    if client {
                        // Noise in the midst of data is as good as data.
                        client_against(said, end, false).await;
                    } else {
                        server_against(said, end).await;
                    }
                }
            });
            Ok(())
        })
        .unwrap();
}
