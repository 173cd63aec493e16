//! The state of a server in a file: exported, and imported elsewhere, also into another kind of database.

use portolan_e2e::{Api, Disk, PASSWORD, Said, Site, same_bytes};
use portolan_testkit::db::{Database, Engine};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const PASSPHRASE: &str = "a passphrase\n";

/// Runs a command whose standard input is `input`.
fn run(site: &Site, args: &[&str], input: &str) -> Said {
    use std::io::Write;
    let mut command = site.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

fn export(site: &Site, file: &Path, more: &[&str]) -> Said {
    let (config, file) = (site.dir().join("portolan.toml"), file.display().to_string());
    let config = config.display().to_string();
    let args = ["state", "export", "--output", &file, "--config", &config];
    run(site, &[&args, more].concat(), PASSPHRASE)
}

/// The arguments of an import with the configuration of a site.
fn import(site: &Site, file: &Path, passphrase: &str) -> Said {
    // Writes the configuration file.
    let args = site.serve_args();
    run(site, &["state", "import", &file.display().to_string(), "--config", &args[2]], passphrase)
}

/// A site with a backed-up machine, stopped, and what its lists said.
async fn made() -> (Site, Disk, Vec<Value>) {
    let site = Site::new();
    let disk = Disk::sample(1, 3);
    site.machine("web", &[("root.raw", &disk)]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    api.back_up(&vm, "FULL").await;
    let lists = lists(&api).await;
    server.stop().await;
    (site, disk, lists)
}

async fn lists(api: &Api) -> Vec<Value> {
    let mut lists = Vec::new();
    for path in ["/virtual-machines", "/backups", "/tasks", "/hypervisors", "/backup-destinations"] {
        let mut list = api.get(path).await;
        let items = list.as_array_mut().unwrap();
        items.retain(|item| item["type"]["name"] != "INDEX");
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            // What differs with time and place.
            for name in [
                "totalDedupAvailableSpace",
                "availableSpace",
                "usedSpace",
                "totalUsedSpace",
                "totalAvailableSpace",
                "uptime",
                "path",
            ] {
                item.remove(name);
            }
        }
        items.sort_by_key(|item| item["guid"].as_str().unwrap_or_default().to_owned());
        lists.push(list);
    }
    lists
}

/// A site that shall take over from another one: the same disk images and, copied, the same repository.
fn heir(of: &Site, url: Option<&str>) -> Site {
    let mut site = url.map_or_else(Site::new, Site::on);
    site.set("platform.lab.root", &of.root().display().to_string());
    site.set("destination.local.path", &of.repository().display().to_string());
    site
}

async fn takes_over(from: &Site, disk: &Disk, before: &[Value], file: &Path, heir: &Site) {
    let said = import(heir, file, PASSPHRASE);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let server = heir.start().await;
    let api = server.api(heir).await;
    let after = lists(&api).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after);
    }
    let vm = api.vm("web").await;
    let backups = api.backups(&vm).await;
    let verified = api.verify(&backups[0]).await;
    assert_eq!(verified["state"]["name"], "FINISHED", "{verified:#}");
    api.restored(&backups[0], "back").await;
    same_bytes(&from.datastore().join("back/root.raw"), disk);
    server.stop().await;
}

fn file_of(site: &Site) -> PathBuf {
    site.dir().join("portolan.state")
}

#[tokio::test]
async fn state_moves_to_another_data_directory() {
    let (site, disk, before) = made().await;
    let file = file_of(&site);
    let said = export(&site, &file, &[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = export(&site, &file, &[]);
    assert_eq!(again.code, Some(2), "a file that is there is not overwritten: {}", again.err);
    takes_over(&site, &disk, &before, &file, &heir(&site, None)).await;
}

#[tokio::test]
async fn a_server_goes_on_while_its_state_is_exported() {
    let site = Site::new();
    site.machine("web", &[("root.raw", &Disk::sample(1, 2))]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let file = file_of(&site);
    let refused = export(&site, &file, &[]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("in use") && refused.err.contains("--live"), "{}", refused.err);
    let said = export(&site, &file, &["--live"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    api.vm("web").await;
    server.stop().await;

    let heir = heir(&site, None);
    assert_eq!(import(&heir, &file, PASSPHRASE).code, Some(0));
    let server = heir.start().await;
    Api::login(server.stranger(&heir), "admin", PASSWORD).await.vm("web").await;
    server.stop().await;
}

#[tokio::test]
async fn an_import_that_cannot_be_leaves_nothing_behind() {
    let (site, _, _) = made().await;
    let file = file_of(&site);
    assert_eq!(export(&site, &file, &[]).code, Some(0));
    let whole = std::fs::read(&file).unwrap();
    let heir = heir(&site, None);
    let refuses = |file: &Path, passphrase: &str, word: &str| {
        let said = import(&heir, file, passphrase);
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(said.err.contains(word) && !said.err.contains("panicked"), "'{word}' is missing in: {}", said.err);
        assert!(!heir.data().exists(), "nothing is made");
    };
    refuses(&file, "another passphrase\n", "passphrase");
    let damaged = site.dir().join("damaged.state");
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&damaged, &bytes).unwrap();
    refuses(&damaged, PASSPHRASE, "damaged");
    std::fs::write(&damaged, &whole[..whole.len() - 10]).unwrap();
    refuses(&damaged, PASSPHRASE, "cut short");
    std::fs::write(&damaged, "PTLSTATE\u{2}").unwrap();
    refuses(&damaged, PASSPHRASE, "newer");
    refuses(&site.dir().join("portolan.toml"), PASSPHRASE, "no exported state");
    assert_eq!(export(&site, &damaged, &["--force"]).code, Some(0));
    let short = run(&site, &["state", "export", "--output", "x", "--data-dir", "data"], "short\n");
    assert_eq!(short.code, Some(2), "{}", short.err);

    // Into what is there already: the first import, and a server that has run.
    assert_eq!(import(&heir, &file, PASSPHRASE).code, Some(0));
    let twice = import(&heir, &file, PASSPHRASE);
    assert!(twice.code == Some(1) && twice.err.contains("holds something"), "{}", twice.err);
    let other = Site::empty();
    other.start().await.stop().await;
    let key = std::fs::read(other.data().join("keys/master.key")).unwrap();
    let taken = import(&other, &file, PASSPHRASE);
    assert!(taken.code == Some(1) && taken.err.contains("another master key"), "{}", taken.err);
    assert_eq!(std::fs::read(other.data().join("keys/master.key")).unwrap(), key);
}

#[tokio::test]
async fn a_server_moves_from_sqlite_to_postgresql() {
    let database = Database::fresh(Engine::Postgres);
    let (site, disk, before) = made().await;
    let file = file_of(&site);
    assert_eq!(export(&site, &file, &[]).code, Some(0));
    takes_over(&site, &disk, &before, &file, &heir(&site, Some(&database.url))).await;
}

#[tokio::test]
async fn a_server_moves_from_sqlite_to_mariadb() {
    let database = Database::fresh(Engine::MariaDb);
    let (site, disk, before) = made().await;
    let file = file_of(&site);
    assert_eq!(export(&site, &file, &[]).code, Some(0));
    takes_over(&site, &disk, &before, &file, &heir(&site, Some(&database.url))).await;
}
