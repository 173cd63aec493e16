//! The data directory belongs to one process, and to its owner.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use portolan_access::{SystemClock, SystemIds};
use portolan_server::data_dir::{DataDir, write_private};
use portolan_server::demo::ports;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_second_taker_hears_who_has_it() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("deep/er");
    assert!(DataDir::take_existing(&path).unwrap().is_none());
    assert!(!path.exists());
    let held = DataDir::take(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    let error = DataDir::take(&path).unwrap_err();
    assert!(error.message.contains(&format!("process {}", std::process::id())), "{}", error.message);
    assert!(error.hint.unwrap().contains("--data-dir"));
    drop(held);
    // The lock is the process's, not the file's: what a dead process left does not count.
    assert!(path.join("lock").exists());
    DataDir::take(&path).unwrap();
}

#[test]
fn a_file_is_no_data_directory() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("file");
    std::fs::write(&path, "x").unwrap();
    assert!(DataDir::take(&path).unwrap_err().message.contains("is a file"));
}

#[test]
fn the_node_keeps_its_id() {
    let parent = tempfile::tempdir().unwrap();
    let data = DataDir::take(&parent.path().join("d")).unwrap();
    let ids = SystemIds::new(Arc::new(SystemClock::new()));
    let first = data.node_id(&ids).unwrap();
    assert_eq!(data.node_id(&ids).unwrap(), first);
    // What a crash leaves beside the file is in nobody's way.
    std::fs::write(data.join("node.id.new"), "half").unwrap();
    std::fs::remove_file(data.join("node.id")).unwrap();
    assert_ne!(data.node_id(&ids).unwrap(), first);
    std::fs::write(data.join("node.id"), "nonsense").unwrap();
    assert!(data.node_id(&ids).unwrap_err().message.contains("node.id"));
}

#[test]
fn private_files_are_private_and_replaced_whole() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("secret");
    write_private(&file, b"one").unwrap();
    write_private(&file, b"two").unwrap();
    assert_eq!((std::fs::read(&file).unwrap().as_slice(), mode(&file)), (b"two".as_slice(), 0o600));
}

#[test]
fn a_port_that_is_taken_is_not_chosen() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let chosen = ports::free(port);
    assert!(chosen != port && chosen != 0);
    drop(taken);
    assert_eq!(ports::free(port), port);
}
