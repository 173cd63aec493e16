//! The client and the server of this crate with each other.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use bytes::Bytes;
use common::{Fixture, KIB, MIB, Random, check_cover, patchy, read_by_extents};
use portolan_block::{BlockError, BlockExtent, BlockSink, BlockSource, ExtentKind, MemorySource};
use portolan_nbd::{
    Address, ClientOptions, Connection, CowDevice, Export, ExportDevice, FileDevice, MemoryDevice, NbdError, NbdSink,
    NbdSource, Server, ServerOptions, SourceDevice, ZeroOptions, export_info, list_contexts, list_exports,
};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECOND: Duration = Duration::from_secs(1);

fn source(data: Vec<u8>) -> Arc<SourceDevice> {
    Arc::new(SourceDevice::new(Arc::new(MemorySource::new(data))))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_read_as_it_is() {
    let disk = patchy(1, 9 * MIB + 77);
    let fixture = Fixture::new(source(disk.clone())).await;
    for connections in [1, 2] {
        let source = NbdSource::connect(&fixture.address(), &ClientOptions::default(), connections).await.unwrap();
        assert_eq!(source.size(), disk.len() as u64);
        assert_eq!(source.read_at(0, disk.len()).await.unwrap(), disk);
        assert!(read_by_extents(&source).await == disk);
        let ranges = [5..5, 100..(3 * MIB as u64 + 1), 4096..8192, (9 * MIB as u64)..disk.len() as u64, 0..1];
        let read = source.read_many(&ranges).await.unwrap();
        for (range, data) in ranges.iter().zip(read) {
            assert!(data == disk[range.start as usize..range.end as usize], "{range:?}");
        }
        let past = source.read_at(disk.len() as u64, 1).await;
        assert!(matches!(past, Err(BlockError::OutOfRange { .. })));
        check_cover(&source.extents(77..5 * MIB as u64 + 3).await.unwrap(), 77..5 * MIB as u64 + 3);
        assert_eq!(fixture.server.users("disk"), Some(connections));
        source.close().await.unwrap();
        fixture.server.idle("disk").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extents_of_all_kinds_and_bitmaps_come_through() {
    struct Kinds;

    #[async_trait::async_trait]
    impl BlockSource for Kinds {
        fn size(&self) -> u64 {
            3 << 30
        }

        async fn extents(&self, range: std::ops::Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
            use ExtentKind::{Data, Hole, Zero};
            let all = [(0..4096, Data), (4096..1 << 20, Zero), (1 << 20..5 << 28, Hole), (5 << 28..3 << 30, Data)];
            Ok(portolan_block::clip(&all.map(|(range, kind)| BlockExtent::new(range, kind)), &range))
        }

        async fn read_at(&self, _offset: u64, len: usize) -> Result<Bytes, BlockError> {
            Ok(vec![1; len].into())
        }
    }

    let context = "qemu:dirty-bitmap:since";
    let device = Arc::new(SourceDevice::new(Arc::new(Kinds)));
    let dirty = [1 << 31..(1 << 31) + 5, 7..9, 9..10, 0..1];
    let fixture = Fixture::with(Export::new("disk", device).with_bitmap(context, dirty)).await;
    let contexts = vec![context.into(), "no:such".into(), "base:allocation".into()];
    let options = ClientOptions { contexts, ..ClientOptions::default() };
    let source = NbdSource::connect(&fixture.address(), &options, 2).await.unwrap();
    assert_eq!(source.connection().info().contexts, [context, "base:allocation"]);
    assert_eq!(source.extents(0..3 << 30).await.unwrap(), Kinds.extents(0..3 << 30).await.unwrap());
    assert_eq!(source.changed(context).await.unwrap(), [0..1, 7..10, 1 << 31..(1 << 31) + 5]);
    assert!(matches!(source.changed("no:such").await, Err(NbdError::Unsupported(_))));
    let one = source.connection().block_status(0..1 << 20, true).await.unwrap();
    assert!(one.iter().all(|status| status.extents.len() == 1));

    // The server leaves out what it takes for zeros; a client that does not believe it reads all.
    assert_eq!(source.read_at(1 << 20, 8192).await.unwrap(), vec![0; 8192]);
    let doubting = ClientOptions { believe_zeros: false, ..options };
    let source = NbdSource::connect(&fixture.address(), &doubting, 1).await.unwrap();
    assert_eq!(source.read_at(1 << 20, 8192).await.unwrap(), vec![1; 8192]);
    assert_eq!(source.extents(0..3 << 30).await.unwrap(), [BlockExtent::new(0..3 << 30, ExtentKind::Data)]);
    assert_eq!(source.changed(context).await.unwrap().len(), 3);

    let none = ClientOptions { contexts: Vec::new(), ..ClientOptions::default() };
    let source = NbdSource::connect(&fixture.address(), &none, 1).await.unwrap();
    assert_eq!(source.extents(5..9).await.unwrap(), [BlockExtent::new(5..9, ExtentKind::Data)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_and_contexts_are_listed() {
    let fixture = Fixture::new(source(vec![0; 512])).await;
    let two = Export::new("two", source(vec![0; 1024])).described("the second").with_bitmap("qemu:dirty-bitmap:a", []);
    fixture.server.add(two.clone()).unwrap();
    assert!(matches!(fixture.server.add(two), Err(NbdError::Invalid(_))));
    let options = ClientOptions::default();
    let listed = list_exports(&fixture.address(), &options).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|e| (e.name.as_str(), e.description.as_str())).collect();
    assert_eq!(listed, [("disk", ""), ("two", "the second")]);
    let two = Address::unix(&fixture.socket, "two");
    let all = ["base:allocation", "qemu:dirty-bitmap:a"];
    assert_eq!(list_contexts(&two, &options, &[]).await.unwrap(), all);
    assert_eq!(list_contexts(&two, &options, &["qemu:".into()]).await.unwrap(), all[1..]);
    let info = export_info(&two, &options).await.unwrap();
    assert!(info.size == 1024 && info.structured && info.features.read_only && info.features.multi_conn);
    assert_eq!((info.blocks.minimum, info.blocks.maximum), (1, 32 << 20));
    for name in ["three", ""] {
        let missing = Address::unix(&fixture.socket, name);
        assert!(matches!(export_info(&missing, &options).await, Err(NbdError::UnknownExport(_))));
        assert!(matches!(Connection::connect(&missing, &options).await, Err(NbdError::UnknownExport(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    std::fs::write(&path, vec![7; 3 * MIB]).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let base = Arc::new(MemorySource::new(vec![7; 3 * MIB]));
    let devices: [Arc<dyn ExportDevice>; 3] = [
        Arc::new(MemoryDevice::new(vec![7; 3 * MIB])),
        Arc::new(FileDevice::new(file).unwrap()),
        Arc::new(CowDevice::new(base, directory.path()).unwrap()),
    ];
    for device in devices {
        let fixture = Fixture::new(device).await;
        let sink = NbdSink::new(fixture.connect().await).unwrap();
        let data = Bytes::from(Random(4).bytes(MIB + 5));
        sink.write_at(100, data.clone()).await.unwrap();
        sink.zero(MIB as u64..2 * MIB as u64 + 1).await.unwrap();
        sink.flush().await.unwrap();
        let connection = sink.connection();
        connection.write(0, Bytes::from_static(b"now"), true).await.unwrap();
        connection.write(5, Bytes::new(), false).await.unwrap();
        let options = ZeroOptions { no_hole: true, fua: true, ..ZeroOptions::default() };
        connection.write_zeroes(3..5, options).await.unwrap();
        let fast = ZeroOptions { fast: true, ..ZeroOptions::default() };
        assert!(matches!(connection.write_zeroes(3..5, fast).await, Err(NbdError::Unsupported(_))));
        connection.trim(3 * MIB as u64 - 1..3 * MIB as u64).await.unwrap();
        let mut wanted = vec![7; 3 * MIB];
        wanted[100..100 + data.len()].copy_from_slice(&data);
        wanted[MIB..2 * MIB + 1].fill(0);
        wanted[..5].copy_from_slice(b"now\0\0");
        let read = connection.read(0, 3 * MIB - 1).await.unwrap();
        let differs = read.iter().zip(&wanted).position(|(a, b)| a != b);
        assert_eq!(differs, None);
        let past = connection.write(3 * MIB as u64 - 1, Bytes::from_static(b"xx"), false).await;
        assert!(matches!(past, Err(NbdError::OutOfRange { .. })));
        assert!(matches!(connection.cache(0..5).await, Err(NbdError::Unsupported(_))));
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["disk.raw"], "overlays have no names");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_device_reach_the_client() {
    struct Broken;

    #[async_trait::async_trait]
    impl ExportDevice for Broken {
        fn size(&self) -> u64 {
            1 << 20
        }

        fn is_read_only(&self) -> bool {
            false
        }

        async fn extents(&self, range: std::ops::Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
            // With a gap in one place.
            let start = if range.start == 4096 { 5000 } else { range.start };
            Ok(vec![BlockExtent::new(start..range.end, ExtentKind::Data)])
        }

        async fn read(&self, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
            match ranges[0].start {
                0 => Err(BlockError::Changed("secret".into())),
                // Too short.
                8192 => Ok(vec![Bytes::from_static(b"x")]),
                _ => panic!("a device that panics"),
            }
        }

        async fn write(&self, _offset: u64, _data: Bytes) -> Result<(), BlockError> {
            Err(BlockError::NoSpace)
        }
    }

    let fixture = Fixture::new(Arc::new(Broken)).await;
    let connection = fixture.connect().await;
    for offset in [0, 4096, 8192] {
        match connection.read(offset, 512).await {
            Err(NbdError::Remote { action: "read", errno: 5, message, .. }) => assert!(!message.contains("secret")),
            other => panic!("{other:?}"),
        }
    }
    let full = connection.write(0, Bytes::from_static(b"x"), false).await.unwrap_err();
    assert!(matches!(full, NbdError::Remote { errno: 28, .. }));
    assert!(matches!(BlockError::from(full), BlockError::NoSpace));
    assert!(matches!(connection.trim(0..5).await, Err(NbdError::Remote { errno: 95, .. })));
    connection.flush().await.unwrap();
    assert!(!connection.is_dead());
    assert!(matches!(connection.read(100, 5).await, Err(NbdError::Closed)));
    assert!(connection.is_dead());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_export_stays_as_it_is() {
    let fixture = Fixture::new(source(vec![3; 4096])).await;
    let connection = fixture.connect().await;
    assert!(matches!(connection.write(0, Bytes::from_static(b"x"), false).await, Err(NbdError::ReadOnly)));
    assert!(matches!(connection.trim(0..1).await, Err(NbdError::ReadOnly)));
    assert!(matches!(NbdSink::new(connection), Err(NbdError::ReadOnly)));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_requests_do_no_harm() {
    let disk = patchy(2, 8 * MIB);
    let fixture = Fixture::new(source(disk.clone())).await;
    let connection = fixture.connect().await;
    let mut random = Random(9);
    for _ in 0..200 {
        let at = random.below(7 * MIB);
        let mut dropped = Box::pin(connection.read(at as u64, MIB));
        // Sent, perhaps answered in part, and forgotten.
        let _ = futures_util::poll!(&mut dropped);
        tokio::task::yield_now().await;
        drop(dropped);
        let at = random.below(7 * MIB);
        assert!(connection.read(at as u64, 5000).await.unwrap() == disk[at..at + 5000]);
    }
    connection.close().await.unwrap();
    assert!(matches!(connection.read(0, 1).await, Err(NbdError::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_private_and_stale_ones_replaced() {
    let fixture = Fixture::new(source(vec![0; 512])).await;
    let mode = std::fs::metadata(&fixture.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let other = Server::new(ServerOptions::default());
    assert!(matches!(other.listen_unix(&fixture.socket).await, Err(NbdError::Io { .. })), "somebody listens");
    let file = fixture.directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(other.listen_unix(&file).await.is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let stale = fixture.directory.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    other.listen_unix(&stale).await.unwrap();
    other.stop(SECOND).await;
    assert!(!stale.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_and_removing_hang_up() {
    let fixture = Fixture::new(source(vec![1; 4096])).await;
    fixture.server.add(Export::new("two", source(vec![2; 4096]))).unwrap();
    let (one, two) = (fixture.connect().await, Address::unix(&fixture.socket, "two"));
    let two = Connection::connect(&two, &ClientOptions::default()).await.unwrap();
    assert_eq!(one.read(0, 1).await.unwrap()[0], 1);
    assert!(fixture.server.remove("disk", 20 * SECOND).await);
    assert!(!fixture.server.remove("disk", SECOND).await);
    assert!(one.read(0, 1).await.is_err());
    assert_eq!(two.read(0, 1).await.unwrap()[0], 2);
    fixture.server.stop(20 * SECOND).await;
    assert!(two.read(0, 1).await.is_err());
    assert!(!fixture.socket.exists());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_end_is_dropped_at_the_deadline() {
    struct Endless;

    #[async_trait::async_trait]
    impl ExportDevice for Endless {
        fn size(&self) -> u64 {
            4096
        }

        async fn extents(&self, _range: std::ops::Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
            std::future::pending().await
        }

        async fn read(&self, _ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
            std::future::pending().await
        }
    }

    let server = Arc::new(Server::new(ServerOptions::default()));
    server.add(Export::new("disk", Arc::new(Endless))).unwrap();
    let connect = async || {
        let (near, far) = tokio::io::duplex(4096);
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(far).await });
        Connection::over(near, "disk", &ClientOptions::default()).await.unwrap()
    };
    let started = tokio::time::Instant::now();
    let slow = connect().await;
    let late = slow.read(0, 1).await;
    assert!(matches!(late, Err(NbdError::Timeout { action: "read", .. })), "{late:?}");
    assert_eq!(started.elapsed().as_secs(), 30);
    assert!(matches!(slow.read(0, 1).await, Err(NbdError::Timeout { .. })), "dead for the same reason");

    let waiting = connect().await;
    let mut read = Box::pin(waiting.read(0, 1));
    assert!(futures_util::poll!(&mut read).is_pending());
    let started = tokio::time::Instant::now();
    assert!(server.remove("disk", 5 * SECOND).await);
    assert_eq!(started.elapsed().as_secs(), 5);
    assert!(matches!(read.await, Err(NbdError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn clients_that_stall_are_dropped() {
    let server = Arc::new(Server::new(ServerOptions::default()));
    server.add(Export::new("disk", source(vec![1; 4 * MIB]))).unwrap();
    let serve = |far| {
        let server = server.clone();
        tokio::spawn(async move { server.serve(far).await })
    };

    // Says nothing.
    let started = tokio::time::Instant::now();
    let (_near, far) = tokio::io::duplex(4096);
    serve(far).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 10);

    // Asks, and does not read.
    let (mut near, far) = tokio::io::duplex(4096);
    let served = serve(far);
    open_by_hand(&mut near).await;
    let started = tokio::time::Instant::now();
    for cookie in 0..64u64 {
        near.write_all(&request(0, 0, cookie, 0, 1 << 20)).await.unwrap();
        if served.is_finished() {
            break;
        }
    }
    served.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 30);

    // Begins a write, and does not go on.
    let (mut near, far) = tokio::io::duplex(4096);
    let served = serve(far);
    open_by_hand(&mut near).await;
    let started = tokio::time::Instant::now();
    near.write_all(&request(0, 1, 1, 0, 32 << 20)).await.unwrap();
    served.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 30);
}

/// Opens the export as the oldest of clients.
async fn open_by_hand(stream: &mut tokio::io::DuplexStream) {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await.unwrap();
    stream.write_all(&[0, 0, 0, 3]).await.unwrap();
    stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk").await.unwrap();
    let mut opened = [0; 10];
    stream.read_exact(&mut opened).await.unwrap();
}

fn request(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut out = vec![0x25, 0x60, 0x95, 0x13];
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_clients_are_hung_up_on() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let server = Server::new(ServerOptions { max_connections: 1, ..ServerOptions::default() });
    server.add(Export::new("disk", source(vec![1; KIB]))).unwrap();
    server.listen_unix(&socket).await.unwrap();
    let (address, options) = (Address::unix(&socket, ""), ClientOptions::default());
    let first = Connection::connect(&address, &options).await.unwrap();
    assert!(Connection::connect(&address, &options).await.is_err());
    assert_eq!(first.read(0, 1).await.unwrap()[0], 1);
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_are_bounded() {
    #[derive(Default)]
    struct Counting {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    #[async_trait::async_trait]
    impl BlockSource for Counting {
        fn size(&self) -> u64 {
            1 << 40
        }

        async fn extents(&self, range: std::ops::Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
            Ok(vec![BlockExtent::new(range, ExtentKind::Data)])
        }

        async fn read_at(&self, _offset: u64, len: usize) -> Result<Bytes, BlockError> {
            let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.now.fetch_sub(1, Ordering::Relaxed);
            Ok(vec![0; len].into())
        }
    }

    // By what the client has under way, by what the server takes on, and by the bytes of it.
    for (in_flight, len, most) in [(4, 512, 4), (64, 512, 16), (64, 30 << 20, 2)] {
        let source = Arc::new(Counting::default());
        let server = Arc::new(Server::new(ServerOptions::default()));
        server.add(Export::new("disk", Arc::new(SourceDevice::new(source.clone())))).unwrap();
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move { server.serve(far).await });
        let options = ClientOptions { in_flight, ..ClientOptions::default() };
        let connection = Connection::over(near, "disk", &options).await.unwrap();
        let count = if len == 512 { 100 } else { 4 };
        let reads = (0..count).map(|n| connection.read(n << 30, len));
        for read in futures_util::future::join_all(reads).await {
            assert_eq!(read.unwrap().len(), len);
        }
        assert_eq!(source.most.load(Ordering::Relaxed), most, "{in_flight} of {len}");
    }
}

#[test]
fn all_can_be_used_from_any_task() {
    fn check<T: Send>(_: T) {}
    let (address, options) = (Address::unix("s", ""), ClientOptions::default());
    check(Connection::connect(&address, &options));
    check(NbdSource::connect(&address, &options, 2));
    check(export_info(&address, &options));
    check(list_exports(&address, &options));
    check(list_contexts(&address, &options, &[]));
    let server = Server::new(ServerOptions::default());
    check(server.listen_unix("s".as_ref()));
    check(server.stop(SECOND));
    check(server.remove("", SECOND));
}
