//! The first start, and every start that must not succeed: each says in plain words why, and what to do.

use portolan_e2e::{Api, PASSWORD, Said, Site};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Fails unless the command's complaint is an error of these words, without a panic or a debug print.
fn assert_says(said: &Said, words: &[&str]) {
    for word in words {
        assert!(said.err.contains(word), "'{word}' is missing in: {}", said.err);
    }
    for ugly in ["panicked", "RUST_BACKTRACE", "Some(", "Err("] {
        assert!(!said.err.contains(ugly), "'{ugly}' in: {}", said.err);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_first_start_makes_everything_and_a_second_one_keeps_it() {
    let site = Site::empty();
    let server = site.start().await;
    assert_eq!(mode(&site.data()), 0o700);
    assert_eq!(mode(&site.data().join("keys/master.key")), 0o600);
    let key = std::fs::read(site.data().join("keys/master.key")).unwrap();
    assert_eq!(mode(&site.recovery_key()), 0o600);

    let api = server.api(&site).await;
    let user = api.get("/session/user").await;
    assert_eq!(user["login"], "admin");
    let destinations = api.get("/backup-destinations").await;
    assert_eq!(destinations.as_array().unwrap().len(), 1, "{destinations:#}");
    let log = server.log() + &server.printed();
    assert!(!log.contains(PASSWORD), "a password that was given must not be shown");
    server.stop().await;

    let server = site.start().await;
    let again = server.api(&site).await.get("/backup-destinations").await;
    assert_eq!(again[0]["guid"], destinations[0]["guid"]);
    assert_eq!(std::fs::read(site.data().join("keys/master.key")).unwrap(), key);
    server.stop().await;
}

#[tokio::test]
async fn a_generated_password_is_left_in_a_file_for_the_owner_alone() {
    let site = Site::empty();
    let args = site.serve_args();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = site.command(&args);
    command.env_remove("PORTOLAN_ADMIN_PASSWORD");
    let server = site.start_command(command).await;
    let found: Vec<_> = std::fs::read_dir(site.data())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().contains("password"))
        .collect();
    let [file] = found.as_slice() else { panic!("no file with the password: {found:?}") };
    assert_eq!(mode(file), 0o600);
    let words = server.log() + &server.printed();
    assert!(words.contains(&file.display().to_string()), "the file is not named: {words}");
    let text = std::fs::read_to_string(file).unwrap();
    let password = text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with('#')).unwrap();
    assert!(!words.contains(password), "not on a terminal, the password itself must not be shown");
    Api::login(server.stranger(&site), "admin", password).await;
    server.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let mut site = Site::empty();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    site.set("listeners.vplus.addresses", &address);
    assert_says(&site.refuses_to_serve(), &[&address, "in use"]);
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_process() {
    let site = Site::empty();
    let server = site.start().await;
    let pid = server.pid().to_string();
    let said = site.refuses_to_serve();
    assert_says(&said, &["in use", &pid, "--data-dir"]);
    server.api(&site).await.get("/session/user").await;
    server.stop().await;
}

#[tokio::test]
async fn an_unknown_key_is_an_error_with_a_hint() {
    let mut site = Site::empty();
    site.set("tasks.leese", "10s");
    let said = site.refuses_to_serve();
    assert_eq!(said.code, Some(2));
    assert_says(&said, &["tasks.leese", "tasks.lease", "portolan.toml"]);
    assert!(!site.data().exists(), "nothing is made before the configuration is understood");
}

#[tokio::test]
async fn a_value_that_makes_no_sense_is_an_error() {
    let mut site = Site::empty();
    site.set("tasks.lease", "soon");
    let said = site.refuses_to_serve();
    assert_eq!(said.code, Some(2));
    assert_says(&said, &["tasks.lease", "soon"]);
}

#[tokio::test]
async fn a_lost_master_key_is_never_replaced() {
    let site = Site::empty();
    site.start().await.stop().await;
    let key = site.data().join("keys/master.key");
    let kept = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    assert_says(&site.refuses_to_serve(), &["master", "key"]);
    assert!(!key.exists(), "a new key would open nothing");

    std::fs::write(&key, kept).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    site.start().await.stop().await;
}

#[tokio::test]
async fn a_wrong_master_key_is_refused() {
    let (site, other) = (Site::empty(), Site::empty());
    site.start().await.stop().await;
    other.start().await.stop().await;
    std::fs::copy(other.data().join("keys/master.key"), site.data().join("keys/master.key")).unwrap();
    assert_says(&site.refuses_to_serve(), &["master", "key"]);
}

#[tokio::test]
async fn a_master_key_that_others_can_read_is_refused() {
    let site = Site::empty();
    site.start().await.stop().await;
    let key = site.data().join("keys/master.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    assert_says(&site.refuses_to_serve(), &["master.key", "chmod 600"]);
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_is_named() {
    let mut site = Site::empty();
    std::fs::write(site.dir().join("file"), "").unwrap();
    site.set("data_dir", "file/data");
    assert_says(&site.refuses_to_serve(), &["file/data"]);
}
