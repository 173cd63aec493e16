//! Servers that lie: each lie has its typed error, and the connection is dead after it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use bytes::Bytes;
use common::script::{End, Turn, play, stream};
use portolan_nbd::{ClientOptions, Connection, NbdError, NbdSource};
use std::time::Duration;

const SIZE: u64 = 1 << 20;
/// What the client says before the transmission: flags, structured replies, one context, the export.
const SAID: usize = 4 + 16 + 47 + 28;
const READ_DONE: u16 = 1;

fn greeting() -> Vec<u8> {
    let mut out = b"NBDMAGICIHAVEOPT".to_vec();
    out.extend(3u16.to_be_bytes());
    out
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = 0x0003_e889_0455_65a9u64.to_be_bytes().to_vec();
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out
}

fn export_info(size: u64, flags: u16) -> Vec<u8> {
    [&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat()
}

fn block_info(minimum: u32, preferred: u32, maximum: u32) -> Vec<u8> {
    [&[0, 3][..], &minimum.to_be_bytes(), &preferred.to_be_bytes(), &maximum.to_be_bytes()].concat()
}

/// An honest negotiation: structured replies, `base:allocation` as 5, all features.
fn honest() -> Vec<u8> {
    let context = [&5u32.to_be_bytes()[..], b"base:allocation"].concat();
    [
        greeting(),
        option_reply(8, 1, &[]),
        option_reply(10, 4, &context),
        option_reply(10, 1, &[]),
        option_reply(7, 3, &export_info(SIZE, 0x7d)),
        option_reply(7, 3, &block_info(1, 4096, 1 << 25)),
        option_reply(7, 1, &[]),
    ]
    .concat()
}

fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = 0x668e_33efu32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&offset.to_be_bytes()[..], bytes].concat()
}

fn hole(offset: u64, len: u32) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &len.to_be_bytes()].concat()
}

fn status(id: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    for (len, flags) in extents {
        out.extend(len.to_be_bytes());
        out.extend(flags.to_be_bytes());
    }
    out
}

fn simple(error: u32, cookie: u64) -> Vec<u8> {
    [&0x6744_6698u32.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat()
}

async fn connect(turns: Vec<Turn>, end: End) -> Result<Connection, NbdError> {
    let (near, far) = stream();
    tokio::spawn(play(far, turns, end));
    Connection::over(near, "disk", &ClientOptions::default()).await
}

/// A connection whose first request gets this reply.
async fn replying(reply: Vec<u8>) -> Connection {
    let turns = vec![Turn { after: 0, bytes: honest() }, Turn { after: SAID + 28, bytes: reply }];
    connect(turns, End::Stall).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn honest_replies_are_taken() {
    let pieces = [
        chunk(0, 1, 1, &data(104, b"efgh")),
        chunk(0, 2, 1, &hole(108, 2)),
        chunk(0, 1, 1, &data(100, b"abcd")),
        chunk(READ_DONE, 0, 1, &[]),
    ];
    let connection = replying(pieces.concat()).await;
    assert_eq!(connection.read(100, 10).await.unwrap(), Bytes::from_static(b"abcdefgh\0\0"));
    // The last extent may tell more than was asked.
    let connection = replying(chunk(1, 5, 1, &status(5, &[(4, 3), ((1 << 20) - 4, 0)]))).await;
    let told = connection.block_status(0..10, false).await.unwrap();
    let told: Vec<_> = told[0].extents.iter().map(|extent| (extent.len, extent.flags)).collect();
    assert_eq!(told, [(4, 3), (6, 0)]);
    // An error does not end the connection.
    let failed =
        [&chunk(0, 1, 1, &data(100, b"ab"))[..], &chunk(1, 0x8002, 1, b"\0\0\0\x1c\0\x02no\0\0\0\0\0\0\0\x66")];
    let connection = replying(failed.concat()).await;
    match connection.read(100, 10).await {
        Err(NbdError::Remote { action: "read", offset: 0x66, errno: 28, message }) => assert_eq!(message, "no"),
        other => panic!("{other:?}"),
    }
    assert!(!connection.is_dead());
}

#[tokio::test(start_paused = true)]
async fn lies_about_reads_are_found() {
    let ten = [7; 10];
    let lies = [
        ("wrong magic", vec![0x11; 64]),
        ("unknown cookie", chunk(1, 1, 2, &data(100, &ten))),
        ("before the request", chunk(1, 1, 1, &data(99, &ten))),
        ("past the request", chunk(1, 1, 1, &data(101, &ten))),
        ("too long", chunk(1, 1, 1, &data(100, &[7; 11]))),
        ("far too long", [&chunk(1, 1, 1, &[])[..16], &u32::MAX.to_be_bytes(), &100u64.to_be_bytes()].concat()),
        ("no place", chunk(1, 1, 1, &[7; 7])),
        ("no bytes", chunk(1, 1, 1, &data(100, &[]))),
        ("missing bytes", chunk(1, 1, 1, &data(100, &ten[..9]))),
        ("no data at all", chunk(1, 0, 1, &[])),
        ("twice", [chunk(0, 1, 1, &data(100, &ten)), chunk(1, 1, 1, &data(105, &ten[..1]))].concat()),
        ("hole over data", [chunk(0, 1, 1, &data(104, b"x")), chunk(1, 2, 1, &hole(100, 10))].concat()),
        ("endless hole", chunk(1, 2, 1, &hole(100, u32::MAX))),
        ("empty hole", chunk(1, 2, 1, &hole(100, 0))),
        ("malformed hole", chunk(1, 2, 1, &[0; 13])),
        ("nothing without end", chunk(0, 0, 1, &[])),
        ("nothing with data", chunk(1, 0, 1, &[1])),
        ("block status", chunk(1, 5, 1, &status(5, &[(10, 0)]))),
        ("unknown kind", chunk(1, 77, 1, &[])),
        ("simple", [simple(0, 1), ten.to_vec()].concat()),
        ("error of nothing", chunk(1, 0x8001, 1, &[0; 6])),
        ("malformed error", chunk(1, 0x8001, 1, b"\0\0\0\x05\0\x09no")),
        ("long error", chunk(1, 0x8001, 1, &[1; 5000])),
        ("after the end", [chunk(1, 1, 1, &data(100, &ten)), chunk(1, 0, 1, &[])].concat()),
    ];
    for (name, lie) in lies {
        let connection = replying(lie).await;
        let read = connection.read(100, 10).await;
        if name != "after the end" {
            assert!(matches!(read, Err(NbdError::Protocol(_))), "{name}: {read:?}");
        }
        let next = connection.read(100, 10).await;
        assert!(matches!(next, Err(NbdError::Protocol(_))), "{name}: {next:?}");
        assert!(connection.is_dead(), "{name}");
    }
    // A reply that nobody asked for.
    let turns = vec![Turn { after: 0, bytes: honest() }, Turn { after: SAID, bytes: simple(0, 1) }];
    let connection = connect(turns, End::Stall).await.unwrap();
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(matches!(connection.read(0, 1).await, Err(NbdError::Protocol(_))));
}

#[tokio::test(start_paused = true)]
async fn lies_about_status_are_found() {
    let lies = [
        ("no extents", status(5, &[])),
        ("empty", Vec::new()),
        ("half an extent", status(5, &[(10, 0)])[..8].to_vec()),
        ("unknown context", status(6, &[(10, 0)])),
        ("length 0", status(5, &[(5, 0), (0, 0), (5, 0)])),
        ("extent after the range", status(5, &[(10, 0), (1, 0)])),
        ("past the export", status(5, &[(5, 0), (1 << 20, 0)])),
        ("overflow", status(5, &[(u32::MAX, 0)])),
    ];
    for (name, lie) in lies {
        let connection = replying(chunk(1, 5, 1, &lie)).await;
        let told = connection.block_status(0..10, false).await;
        assert!(matches!(told, Err(NbdError::Protocol(_))), "{name}: {told:?}");
        assert!(matches!(connection.flush().await, Err(NbdError::Protocol(_))), "{name}");
    }
    for lie in [&[(4, 0), (6, 0)][..], &[(11, 0)]] {
        let connection = replying(chunk(1, 5, 1, &status(5, lie))).await;
        assert!(matches!(connection.block_status(0..10, true).await, Err(NbdError::Protocol(_))), "{lie:?}");
    }
    let twice = chunk(0, 5, 1, &status(5, &[(10, 0)])).repeat(2);
    for lie in [twice, chunk(1, 0, 1, &[]), simple(0, 1)] {
        let connection = replying(lie).await;
        assert!(matches!(connection.block_status(0..10, false).await, Err(NbdError::Protocol(_))));
    }
    let huge = [&chunk(1, 5, 1, &[])[..16], &(1u32 << 30).to_be_bytes()].concat();
    let source = NbdSource::over(replying(huge).await);
    let told = portolan_block::BlockSource::extents(&source, 0..10).await;
    assert!(matches!(told, Err(portolan_block::BlockError::Io { action: "map", .. })));
}

#[tokio::test(start_paused = true)]
async fn lies_in_the_negotiation_are_found() {
    let go = |replies: &[Vec<u8>]| {
        let before = [greeting(), option_reply(8, 1, &[]), option_reply(10, 1, &[])];
        [before.concat(), replies.concat(), option_reply(7, 1, &[])].concat()
    };
    let contexts = |replies: &[Vec<u8>]| {
        [greeting(), option_reply(8, 1, &[]), replies.concat(), option_reply(10, 1, &[])].concat()
    };
    let context = |id: u32, name: &str| option_reply(10, 4, &[&id.to_be_bytes()[..], name.as_bytes()].concat());
    let sound = option_reply(7, 3, &export_info(SIZE, 1));
    let blocks = |a, b, c| vec![sound.clone(), option_reply(7, 3, &block_info(a, b, c))];
    let lies = [
        ("no greeting", vec![b'x'; 40]),
        ("no style", b"NBDMAGICxxxxxxxxxxxxxxxx".to_vec()),
        ("wrong reply magic", [greeting(), vec![9; 40]].concat()),
        ("reply to another option", [greeting(), option_reply(7, 1, &[])].concat()),
        ("reply too long", [greeting(), option_reply(8, 1, &[])[..16].to_vec(), vec![0xff; 4]].concat()),
        ("unknown reply", [greeting(), option_reply(8, 9, &[])].concat()),
        ("size 0", go(&[option_reply(7, 3, &export_info(0, 1))])),
        ("absurd size", go(&[option_reply(7, 3, &export_info(1 << 63, 1))])),
        ("no size", go(&[])),
        ("half a size", go(&[option_reply(7, 3, &export_info(SIZE, 1)[..9])])),
        ("too much size", go(&[option_reply(7, 3, &[export_info(SIZE, 1), vec![0]].concat())])),
        ("blocks of 0", go(&blocks(0, 4096, 1 << 25))),
        ("blocks of 3", go(&blocks(3, 4096, 1 << 25))),
        ("huge blocks", go(&blocks(1 << 20, 1 << 20, 1 << 25))),
        ("maximum below minimum", go(&blocks(4096, 4096, 512))),
        ("endless information", go(&vec![option_reply(7, 3, &[0, 9]); 200_000])),
        ("context not asked for", contexts(&[context(1, "x:y")])),
        ("too many contexts", contexts(&vec![context(1, "base:allocation"); 2])),
        ("malformed context", contexts(&[option_reply(10, 4, &[1])])),
        ("context that is no text", contexts(&[option_reply(10, 4, &[0, 0, 0, 1, 0xff])])),
    ];
    for (name, lie) in lies {
        let done = connect(vec![Turn { after: 0, bytes: lie }], End::Stall).await;
        assert!(matches!(done, Err(NbdError::Protocol(_))), "{name}: {done:?}");
    }
    let old =
        connect(vec![Turn { after: 0, bytes: b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53".to_vec() }], End::Stall).await;
    assert!(matches!(old, Err(NbdError::Unsupported(_))));
}

#[tokio::test(start_paused = true)]
async fn old_servers_are_spoken_to() {
    let opened = [&SIZE.to_be_bytes()[..], &1u16.to_be_bytes()].concat();
    // Knows no option but the name.
    let unsupported = |option| option_reply(option, 0x8000_0001, b"what?");
    let fixed = [greeting(), unsupported(8), unsupported(7), opened.clone()].concat();
    // Not even that options can be refused, and sends zeroes.
    let old = [&b"NBDMAGICIHAVEOPT\0\0"[..], &opened, &[0; 124]].concat();
    for (name, script, said) in [("fixed", fixed, 4 + 16 + 28 + 20), ("old", old, 4 + 20)] {
        let reply = [simple(0, 1), b"data".to_vec(), simple(5, 2)].concat();
        let turns = vec![Turn { after: 0, bytes: script }, Turn { after: said + 28 * 2, bytes: reply }];
        let connection = connect(turns, End::Stall).await.unwrap();
        let info = connection.info();
        assert!(!info.structured && info.contexts.is_empty() && info.size == SIZE, "{name}");
        let (first, second) = tokio::join!(connection.read(9, 4), connection.read(9, 4));
        assert_eq!(first.unwrap(), Bytes::from_static(b"data"), "{name}");
        assert!(matches!(second, Err(NbdError::Remote { errno: 5, .. })), "{name}");
    }
    let gone = [greeting(), unsupported(8), unsupported(7)].concat();
    let turns = vec![Turn { after: 0, bytes: gone }, Turn { after: 4 + 16 + 28 + 20, bytes: Vec::new() }];
    let gone = connect(turns, End::Close);
    assert!(matches!(gone.await, Err(NbdError::UnknownExport(name)) if name == "disk"));
}

#[tokio::test(start_paused = true)]
async fn blocks_of_the_server_are_honoured() {
    let script = [
        greeting(),
        option_reply(8, 1, &[]),
        option_reply(10, 1, &[]),
        option_reply(7, 3, &export_info(SIZE, 0x7d)),
        option_reply(7, 3, &block_info(512, 4096, 1024)),
        option_reply(7, 1, &[]),
    ];
    let reply = |cookie, offset: u64, len: usize| chunk(1, 1, cookie, &data(offset, &vec![cookie as u8; len]));
    let replies = [reply(1, 512, 512), reply(2, 1024, 1024), reply(3, 2048, 512)];
    let turns = vec![Turn { after: 0, bytes: script.concat() }, Turn { after: SAID + 3 * 28, bytes: replies.concat() }];
    let connection = connect(turns, End::Stall).await.unwrap();
    let read = connection.read(1000, 1100).await.unwrap();
    let wanted = [vec![1; 24], vec![2; 1024], vec![3; 52]].concat();
    assert!(read == wanted, "widened to blocks, split at the maximum");
    let crooked = connection.write(5, Bytes::from_static(b"x"), false).await;
    assert!(matches!(crooked, Err(NbdError::Unaligned { block: 512, .. })));
}

#[tokio::test(start_paused = true)]
async fn peers_that_stall_time_out() {
    let started = tokio::time::Instant::now();
    let silent = connect(Vec::new(), End::Stall).await;
    assert!(matches!(silent, Err(NbdError::Timeout { action: "connect", .. })));
    assert_eq!(started.elapsed().as_secs(), 10);

    let half = chunk(1, 1, 1, &data(100, &[7; 10]));
    for cut in [0, 3, 12, 20, 27, 30, half.len() - 1] {
        let connection = replying(half[..cut].to_vec()).await;
        let started = tokio::time::Instant::now();
        let (first, second) = tokio::join!(connection.read(100, 10), connection.flush());
        assert!(matches!(first, Err(NbdError::Timeout { .. })), "{cut}: {first:?}");
        assert!(matches!(second, Err(NbdError::Timeout { .. })), "{cut}: {second:?}");
        assert_eq!(started.elapsed().as_secs(), 30);
        assert!(matches!(connection.read(100, 10).await, Err(NbdError::Timeout { .. })));
    }

    // Also when nobody waits for the request that stalls.
    let connection = replying(Vec::new()).await;
    let mut dropped = Box::pin(connection.read(0, 10));
    let _ = futures_util::poll!(&mut dropped);
    drop(dropped);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(connection.is_dead());
}
