//! Restored images appear whole, and never in the place of another file unless that is wanted.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use bytes::Bytes;
use portolan_block::{BlockError, BlockSink};
use portolan_server::repo::FileSink;
use std::os::unix::fs::MetadataExt;

#[tokio::test]
async fn an_image_appears_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let sink = FileSink::create(&path, 8 << 20).unwrap();
    sink.write_at(4 << 20, Bytes::from_static(b"data")).await.unwrap();
    sink.zero(0..4 << 20).await.unwrap();
    assert!(matches!(
        sink.write_at((8 << 20) - 1, Bytes::from_static(b"xx")).await,
        Err(BlockError::OutOfRange { .. })
    ));
    assert!(!path.exists());
    sink.publish(false).unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert!(meta.len() == 8 << 20 && meta.blocks() * 512 < 1 << 20, "it is sparse");
    assert_eq!(&std::fs::read(&path).unwrap()[4 << 20..(4 << 20) + 4], b"data");
    drop(sink);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn nothing_is_overwritten_unless_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    std::fs::write(&path, "precious").unwrap();
    let sink = FileSink::create(&path, 16).unwrap();
    assert_eq!(sink.publish(false).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    sink.publish(true).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 16);
    // One that is given up leaves nothing.
    drop(FileSink::create(&dir.path().join("other"), 16).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
