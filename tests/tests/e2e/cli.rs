//! The command line as a client of a running server.

use portolan_e2e::{Disk, PASSWORD, Said, Server, Site};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

/// Runs a command against a server, with `input` on its standard input.
fn run(site: &Site, server: &Server, args: &[&str], input: &str) -> Said {
    use std::io::Write;
    let mut command = site.command(args);
    command.env("PORTOLAN_URL", server.health()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// Runs a command that must go well; its standard output.
pub(crate) fn done(site: &Site, server: &Server, args: &[&str]) -> String {
    let said = run(site, server, args, "");
    assert_eq!(said.code, Some(0), "{args:?}: {}", said.err);
    said.out
}

pub(crate) fn json(site: &Site, server: &Server, args: &[&str]) -> Value {
    serde_json::from_str(&done(site, server, &[args, &["--json"]].concat())).unwrap()
}

pub(crate) fn log_in(site: &Site, server: &Server) {
    let said = run(site, server, &["login", "--login", "admin"], &format!("{PASSWORD}\n"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(!said.err.contains(PASSWORD) && said.out.is_empty(), "{said:?}");
}

#[tokio::test]
async fn a_login_is_stored_for_its_owner_and_ended() {
    let site = Site::empty();
    let server = site.start().await;
    let nobody = run(&site, &server, &["status"], "");
    assert!(nobody.code == Some(4) && nobody.err.contains("portolan login"), "{}", nobody.err);
    let wrong = run(&site, &server, &["login", "--login", "admin"], "wrong password\n");
    assert_eq!(wrong.code, Some(4), "{}", wrong.err);
    log_in(&site, &server);
    let file = site.dir().join(".config/portolan/credentials.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let status = done(&site, &server, &["status"]);
    assert!(status.contains("fake_driver") && status.contains("local"), "{status}");
    let me = json(&site, &server, &["account", "whoami"]);
    assert_eq!((me["login"].as_str(), me["role"].as_str()), (Some("admin"), Some("ADMINISTRATOR")));
    done(&site, &server, &["logout"]);
    assert_eq!(run(&site, &server, &["status"], "").code, Some(4));
    let away = site.run(&["status", "--url", "http://127.0.0.1:1"]);
    assert!(away.code == Some(1) && away.err.contains("--url"), "{}", away.err);
    server.stop().await;
}

#[tokio::test]
async fn platforms_and_destinations_are_registered_and_forgotten() {
    let site = Site::empty();
    std::fs::create_dir_all(site.datastore()).unwrap();
    site.machine("web", &[("root.raw", &Disk::sample(1, 1))]);
    let server = site.start().await;
    log_in(&site, &server);
    let root = format!("root={}", site.root().display());
    let drivers = done(&site, &server, &["platform", "drivers"]);
    assert!(drivers.contains("images") && drivers.contains("root"), "{drivers}");
    let bad = run(&site, &server, &["platform", "add", "lab", "--driver", "images"], "");
    assert!(bad.code == Some(2) && bad.err.contains("root"), "{}", bad.err);
    done(&site, &server, &["platform", "add", "lab", "--driver", "images", "--set", &root, "--test"]);
    assert!(!done(&site, &server, &["platform", "list"]).contains("lab"), "it was only tried");
    done(&site, &server, &["platform", "add", "lab", "--driver", "images", "--set", &root]);
    let list = json(&site, &server, &["platform", "list"]);
    let lab = list["items"].as_array().unwrap().iter().find(|p| p["name"] == "lab").unwrap();
    assert_eq!(lab["driver"], "images");
    done(&site, &server, &["platform", "test", "lab"]);
    let sync = json(&site, &server, &["platform", "sync", "lab"]);
    let task = sync["id"].as_str().unwrap();
    let followed = done(&site, &server, &["task", "show", task, "--follow"]);
    assert!(followed.contains("SUCCEEDED"), "{followed}");
    assert!(done(&site, &server, &["task", "list", "--state", "succeeded"]).contains("inventory-sync"));

    let path = site.dir().join("vault").display().to_string();
    let key = done(&site, &server, &["destination", "add", "vault", "--path", &path, "--default"]);
    assert!(key.trim().len() >= 60, "the recovery key alone: {key}");
    let list = done(&site, &server, &["destination", "list"]);
    assert!(list.contains("vault") && list.contains("local"), "{list}");
    done(&site, &server, &["destination", "test", "vault"]);
    let first = site.dir().join("first.key");
    std::fs::write(&first, &key).unwrap();
    let second = site.dir().join("second.key");
    std::fs::write(&second, done(&site, &server, &["destination", "recovery-key", "vault"])).unwrap();
    let opens = |key: &std::path::Path| {
        let key = key.to_str().unwrap();
        site.run(&["repo", "list", "--repository", &path, "--recovery-key-file", key]).code == Some(0)
    };
    assert!(opens(&first) && opens(&second));
    let third = site.dir().join("third.key");
    std::fs::write(&third, done(&site, &server, &["destination", "recovery-key", "vault", "--replace", "--yes"]))
        .unwrap();
    assert!(opens(&third) && !opens(&first) && !opens(&second));
    done(&site, &server, &["destination", "default", "local"]);
    done(&site, &server, &["destination", "remove", "vault"]);
    let used = run(&site, &server, &["platform", "remove", "lab"], "");
    assert!(used.code == Some(1) && used.err.contains("in use"), "{}", used.err);
    done(&site, &server, &["platform", "remove", "lab", "--force"]);
    let gone = run(&site, &server, &["platform", "show", "lab"], "");
    assert!(gone.code == Some(1) && gone.err.contains("no such platform"), "{}", gone.err);
    server.stop().await;
}

#[tokio::test]
async fn tasks_are_held_back_cancelled_and_let_go_and_the_audit_log_tells_by_whom() {
    let site = Site::empty();
    let server = site.start().await;
    log_in(&site, &server);
    done(&site, &server, &["task", "drain", "--wait"]);
    let sync = || json(&site, &server, &["platform", "sync", "fake_driver"])["id"].as_str().unwrap().to_owned();
    let task = sync();
    let state = |task: &str| json(&site, &server, &["task", "show", task])["state"].as_str().unwrap().to_owned();
    assert_eq!(state(&task), "READY");
    done(&site, &server, &["task", "cancel", &task]);
    assert_eq!(state(&task), "CANCELLED");
    let task = sync();
    assert_eq!(state(&task), "READY");
    done(&site, &server, &["task", "drain", "--undo"]);
    done(&site, &server, &["task", "show", &task, "--follow"]);
    assert_eq!(state(&task), "SUCCEEDED");
    let audit = json(&site, &server, &["audit", "--actor", "admin", "--limit", "0"]);
    let names: Vec<&str> = audit["items"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    for name in ["tasks.drained", "tasks.resumed", "task.cancelled"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let one = json(&site, &server, &["audit", "--actor", "admin", "--limit", "1"]);
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    assert!(one["next"].as_i64().is_some(), "{one:#}");
    server.stop().await;
}

#[tokio::test]
async fn accounts_tokens_and_tenants_are_managed_without_a_secret_in_an_argument() {
    let site = Site::empty();
    let server = site.start().await;
    log_in(&site, &server);
    done(&site, &server, &["tenant", "add", "acme", "--external-id", "7f3a"]);
    let add = ["account", "add", "eve", "--role", "operator", "--tenant", "acme"];
    let said = run(&site, &server, &add, "\n");
    let generated = said.out.trim().to_owned();
    assert!(said.code == Some(0) && generated.len() >= 20, "{said:?}");
    let said = run(&site, &server, &["account", "passwd", "eve"], "another password\n");
    assert!(said.code == Some(0) && said.out.is_empty(), "{said:?}");
    let own = run(&site, &server, &["account", "passwd"], &format!("{PASSWORD}\n{PASSWORD}!\n"));
    assert_eq!(own.code, Some(0), "{}", own.err);

    let create = ["token", "create", "script", "--account", "eve", "--role", "viewer", "--expires", "90d"];
    let token = done(&site, &server, &create).trim().to_owned();
    let file = site.dir().join("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let with = |args: &[&str]| {
        let args = [args, &["--token-file", file.to_str().unwrap()]].concat();
        run(&site, &server, &args, "")
    };
    let me: Value = serde_json::from_str(&with(&["account", "whoami", "--json"]).out).unwrap();
    assert_eq!((me["account"]["login"].as_str(), me["role"].as_str()), (Some("eve"), Some("VIEWER")));
    let denied = with(&["account", "list"]);
    assert!(denied.code == Some(4) && denied.err.contains("whoami"), "{}", denied.err);
    done(&site, &server, &["token", "revoke", "script"]);
    assert_eq!(with(&["account", "whoami"]).code, Some(4));

    done(&site, &server, &["account", "change", "eve", "--disable"]);
    let list = json(&site, &server, &["account", "list"]);
    let eve = list["items"].as_array().unwrap().iter().find(|a| a["login"] == "eve").unwrap();
    assert_eq!(eve["enabled"], false);
    let last = run(&site, &server, &["account", "remove", "admin"], "");
    assert!(last.code == Some(1) && last.err.contains("last administrator"), "{}", last.err);
    done(&site, &server, &["account", "remove", "eve"]);
    done(&site, &server, &["tenant", "remove", "acme"]);
    server.stop().await;
}

#[test]
fn every_command_has_a_manual_page_with_its_examples() {
    let site = Site::empty();
    let said = site.run(&["man", "--dir", "man"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    for (page, words) in [
        ("portolan.1", "portolan demo"),
        ("portolan-task-drain.1", "drain \\-\\-undo"),
        ("portolan-state-export.1", "passphrase"),
        ("portolan-platform-add.1", "root=/srv/vms"),
    ] {
        let text = std::fs::read_to_string(site.dir().join("man").join(page)).unwrap();
        assert!(text.contains(words), "'{words}' is missing in {page}");
    }
    let said = site.run(&["completions", "bash"]);
    assert!(said.out.contains("platform") && said.out.contains("drain"));
    let said = site.run(&["platform", "add", "x"]);
    assert!(said.code == Some(2) && said.err.contains("--driver"), "{}", said.err);
}
