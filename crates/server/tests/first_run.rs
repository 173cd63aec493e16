//! The first start may be cut off at any line: the next one goes on from there, and nothing is lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use portolan_http::client::Trust;
use portolan_model::{Caller, Role, Scope, Secret};
use portolan_repository::{LocalObjects, Repository, RepositoryEnv, RepositoryKey};
use portolan_server::admin::{self, FirstPassword};
use portolan_server::config::{
    AccountConfig, Config, DestinationConfig, FirstSecret, Overrides, Surroundings, TenantConfig, load,
};
use portolan_server::core::Core;
use portolan_server::data_dir::DataDir;
use portolan_server::server::{Server, Start};
use portolan_server::{declared, destinations, keyfile};
use portolan_storage::{Setting, StorageExt, UnitOfWork};
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Place {
    _root: tempfile::TempDir,
    data: PathBuf,
    repository: PathBuf,
}

fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let (data, repository) = (root.path().join("data"), root.path().join("repository"));
    Place { _root: root, data, repository }
}

fn config(data: &Path) -> Config {
    let keys = [
        ("data_dir", data.to_str().unwrap()),
        ("listeners.vplus.addresses", "127.0.0.1:0"),
        ("listeners.orchestrator.addresses", "127.0.0.1:0"),
        ("listeners.management.addresses", "127.0.0.1:0"),
        ("server.shutdown_grace", "1s"),
    ];
    let keys = keys.into_iter().map(|(k, v)| ("--set".to_owned(), k.to_owned(), v.to_owned())).collect();
    load(&Surroundings::default(), &Overrides { file: None, keys }).unwrap().0
}

async fn open(data: &Path) -> (DataDir, Core) {
    let dir = DataDir::take(data).unwrap();
    let core = Core::open(&config(data), &dir, &Surroundings::default()).await.unwrap();
    (dir, core)
}

fn plan(path: &Path) -> DestinationConfig {
    DestinationConfig { name: "nas".into(), path: path.to_owned(), default: true, recovery_key_file: None }
}

/// What is noted of the destination becomes what it was before `key` was noted.
async fn forget(core: &Core, key: &str) {
    let id = Setting::id_of("destination:nas");
    let changed = core.storage.change::<Setting, _>(core.portolan.now(), Scope::All, id, |setting| {
        setting.value.as_object_mut().unwrap().remove(key);
        Some(UnitOfWork::new())
    });
    changed.await.unwrap();
}

async fn opens(core: &Core, path: &Path, key: &RepositoryKey) -> bool {
    let env = RepositoryEnv { clock: core.clock.clone(), ids: core.ids.clone() };
    Repository::open(Arc::new(LocalObjects::open(path).unwrap()), env, key).await.is_ok()
}

#[tokio::test]
async fn a_destination_is_made_once_and_its_recovery_key_opens_it() {
    let place = place();
    let (dir, core) = open(&place.data).await;
    let first = destinations::open(&core, &dir, &plan(&place.repository)).await.unwrap();
    let file = first.recovery_file.unwrap();
    assert_eq!(file, place.data.join("recovery-key-nas.txt"));
    assert!(opens(&core, &place.repository, &keyfile::recovery(&file).unwrap()).await);
    // The operator has put it away: no other one is made.
    std::fs::remove_file(&file).unwrap();
    let again = destinations::open(&core, &dir, &plan(&place.repository)).await.unwrap();
    assert_eq!((again.id, again.recovery_file), (first.id, None));
    assert!(!file.exists());
}

#[tokio::test]
async fn a_crash_before_the_repository_was_made_costs_nothing() {
    let place = place();
    let (dir, core) = open(&place.data).await;
    let first = destinations::open(&core, &dir, &plan(&place.repository)).await.unwrap();
    // As if the process had ended right after the key was sealed: a note with the id, and no repository.
    forget(&core, "made").await;
    forget(&core, "recoverable").await;
    std::fs::remove_dir_all(&place.repository).unwrap();
    std::fs::remove_file(place.data.join("recovery-key-nas.txt")).unwrap();
    let again = destinations::open(&core, &dir, &plan(&place.repository)).await.unwrap();
    assert_eq!(again.id, first.id);
    assert!(opens(&core, &place.repository, &keyfile::recovery(&again.recovery_file.unwrap()).unwrap()).await);
}

#[tokio::test]
async fn a_crash_after_the_repository_was_made_leaves_one_that_opens() {
    let place = place();
    let (dir, core) = open(&place.data).await;
    let first = destinations::open(&core, &dir, &plan(&place.repository)).await.unwrap();
    let before = core.portolan.repositories().get(first.id).unwrap().describe().await.unwrap().id;
    let file = first.recovery_file.unwrap();
    // Before the recovery key was written: it gets another one.
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(place.repository.join("config.copy")).unwrap();
    for key in ["made", "recoverable"] {
        forget(&core, key).await;
    }
    let again = destinations::open(&core, &dir, &plan(&place.repository)).await.unwrap();
    assert_eq!(again.recovery_file.as_deref(), Some(file.as_path()));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(opens(&core, &place.repository, &keyfile::recovery(&file).unwrap()).await);
    let after = core.portolan.repositories().get(again.id).unwrap().describe().await.unwrap().id;
    assert_eq!(after, before);
    // After it was written and before that was noted: the written one stays good.
    for key in ["made", "recoverable"] {
        forget(&core, key).await;
    }
    destinations::open(&core, &dir, &plan(&place.repository)).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    assert!(opens(&core, &place.repository, &keyfile::recovery(&file).unwrap()).await);
}

#[tokio::test]
async fn nothing_is_made_in_the_place_of_a_repository_that_is_gone() {
    let place = place();
    let (dir, core) = open(&place.data).await;
    destinations::open(&core, &dir, &plan(&place.repository)).await.unwrap();
    std::fs::rename(&place.repository, place.repository.with_extension("away")).unwrap();
    let error = destinations::open(&core, &dir, &plan(&place.repository)).await.unwrap_err();
    assert!(error.message.contains("gone") && error.hint.unwrap().contains("mounted"));
    assert!(!place.repository.exists());
    std::fs::rename(place.repository.with_extension("away"), &place.repository).unwrap();
    destinations::open(&core, &dir, &plan(&place.repository)).await.unwrap();
}

#[tokio::test]
async fn somebody_elses_repository_is_taken_by_its_recovery_key_only() {
    let (one, other) = (place(), place());
    let (dir, core) = open(&one.data).await;
    let made = destinations::open(&core, &dir, &plan(&one.repository)).await.unwrap();
    let recovery = made.recovery_file.unwrap();

    let (dir, core) = open(&other.data).await;
    let error = destinations::open(&core, &dir, &plan(&one.repository)).await.unwrap_err();
    assert!(error.hint.as_deref().unwrap().contains("recovery_key_file"), "{}", error.render());
    let adopt = DestinationConfig { recovery_key_file: Some(recovery), ..plan(&one.repository) };
    let adopted = destinations::open(&core, &dir, &adopt).await.unwrap();
    assert_eq!(adopted.recovery_file, None);
    // From now on its own key does.
    destinations::open(&core, &dir, &plan(&one.repository)).await.unwrap();
}

#[tokio::test]
async fn the_first_password_is_told_until_it_was_delivered() {
    let place = place();
    let (dir, core) = open(&place.data).await;
    let shown = |first: FirstPassword| match first {
        FirstPassword::Show { password, .. } => password.reveal().to_owned(),
        other => panic!("{other:?}"),
    };
    let one = shown(admin::ensure(&core, &dir, None, true).await.unwrap());
    // The process ended before anybody could read it.
    let two = shown(admin::ensure(&core, &dir, None, true).await.unwrap());
    assert_eq!(one, two);
    let FirstPassword::Written(file) = admin::ensure(&core, &dir, None, false).await.unwrap() else { panic!() };
    assert_eq!(std::fs::read_to_string(file).unwrap().trim(), one);
    assert!(matches!(admin::ensure(&core, &dir, None, true).await.unwrap(), FirstPassword::Known));
    let secret = Secret::new(one);
    assert!(core.portolan.access.logins.authenticate("admin", &secret, None).await.is_ok());
}

#[tokio::test]
async fn a_given_password_must_be_acceptable() {
    let place = place();
    let (dir, core) = open(&place.data).await;
    let error = admin::ensure(&core, &dir, Some("x"), false).await.unwrap_err();
    assert!(error.hint.unwrap().contains("PORTOLAN_ADMIN_PASSWORD"));
    let given = admin::ensure(&core, &dir, Some("a fine password"), false).await.unwrap();
    assert!(matches!(given, FirstPassword::Known));
}

#[tokio::test]
async fn a_lost_or_foreign_master_key_keeps_the_server_down() {
    let place = place();
    let (dir, core) = open(&place.data).await;
    core.storage.close().await;
    let key = place.data.join("keys/master.key");
    let good = std::fs::read(&key).unwrap();
    let failing = || Core::open_error(&place.data, &dir);

    std::fs::remove_file(&key).unwrap();
    let text = failing().await;
    assert!(text.contains("missing") && text.contains("keys/master.key"), "{text}");
    assert!(!key.exists(), "no new key may take its place");

    let (other, _) = open(&place.data.with_extension("other")).await;
    std::fs::copy(other.join("keys").join("master.key"), &key).unwrap();
    let text = failing().await;
    assert!(text.contains("is not the one of this database"), "{text}");

    write_key(&key, &good[..good.len() / 2]);
    let text = failing().await;
    assert!(text.contains("cut short"), "{text}");

    write_key(&key, &good);
    Core::open(&config(&place.data), &dir, &Surroundings::default()).await.unwrap();
}

fn write_key(path: &Path, bytes: &[u8]) {
    portolan_server::data_dir::write_private(path, bytes).unwrap();
}

/// What a person reads when the core does not open.
trait OpenError {
    async fn open_error(data: &Path, dir: &DataDir) -> String;
}

impl OpenError for Core {
    async fn open_error(data: &Path, dir: &DataDir) -> String {
        match Core::open(&config(data), dir, &Surroundings::default()).await {
            Ok(_) => panic!("it opens"),
            Err(failure) => failure.render(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_starts_stops_and_starts_again() {
    let place = place();
    let config = config(&place.data);
    let start = Start { admin_password: Some("a fine password".into()), ..Start::default() };
    let server = Server::start(&config, &Surroundings::default(), start).await.unwrap();
    assert_eq!(server.destinations.len(), 1);
    assert!(server.built_in_default && server.destinations[0].recovery_file.is_some());
    let error = Server::start(&config, &Surroundings::default(), Start::default()).await.err().unwrap();
    assert!(error.message.contains("in use by process"));
    let url = server.management.clone().unwrap();
    let client = portolan_http::client::Client::new(&url, Trust::Plain).unwrap();
    assert_eq!(client.get("/healthz").await.unwrap().status.as_u16(), 200);
    assert_eq!(client.get("/readyz").await.unwrap().text(), "ready\n");
    let metrics = client.get("/metrics").await.unwrap().text();
    for name in [
        "portolan_build_info{version=",
        // The built-in cloud is being listed at this moment, or has been.
        "portolan_tasks{state=\"STUCK\"} 0",
        "portolan_task_attempts_started_total{kind=\"export\"} 0",
        "portolan_destination_open{destination=\"local\"} 1",
        "portolan_http_requests_total{listener=\"management\",method=\"GET\",route=\"/healthz\",status=\"200\"} 1",
    ] {
        assert!(metrics.contains(name), "{name} in\n{metrics}");
    }
    let clouds = portolan_http::client::Client::new(server.orchestrator.as_deref().unwrap(), Trust::Plain).unwrap();
    let nodes = clouds.get("/api/v1/nodes").await.unwrap();
    assert!(nodes.status.is_success() && nodes.text().contains("dummy-1"), "{}", nodes.text());
    assert!(client.get("/openapi/orchestrator.json").await.unwrap().text().contains("/vm/start"));
    assert!(client.get("/openapi/vplus.json").await.unwrap().text().contains("/tasks/export"));
    server.stop().await;

    let again = Server::start(&config, &Surroundings::default(), Start::default()).await.unwrap();
    assert!(again.destinations[0].recovery_file.is_none());
    assert!(matches!(again.first_password, FirstPassword::Known));
    again.stop().await;
}

#[tokio::test]
async fn an_address_in_use_leaves_nothing_behind() {
    let place = place();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&place.data);
    config.vplus.addresses = vec![taken.local_addr().unwrap()];
    let error = Server::start(&config, &Surroundings::default(), Start::default()).await.err().unwrap();
    assert!(error.message.contains("'vplus'") && error.hint.unwrap().contains("listeners.vplus.addresses"));
    assert!(!place.data.exists());
}

#[tokio::test]
async fn one_configured_destination_takes_the_default_from_the_built_in_one() {
    let place = place();
    let (dir, core) = open(&place.data).await;
    let config = config(&place.data);
    let plans = destinations::planned(&config, &dir);
    assert_eq!((plans.len(), plans[0].default), (1, true));
    destinations::open(&core, &dir, &plans[0]).await.unwrap();
    let with_one = Config { destinations: vec![plan(&place.repository)], ..config };
    let plans = destinations::planned(&with_one, &dir);
    let defaults: Vec<(&str, bool)> = plans.iter().map(|p| (p.name.as_str(), p.default)).collect();
    assert_eq!(defaults, [("nas", true), ("local", false)]);
    for plan in &plans {
        destinations::open(&core, &dir, plan).await.unwrap();
    }
    destinations::settle_default(&core, "nas").await;
    let all = core.portolan.protect.destinations(&Caller::system(), portolan_storage::Query::default()).await.unwrap();
    let defaults: Vec<&str> = all.items.iter().filter(|d| d.default).map(|d| d.name.as_str()).collect();
    assert_eq!(defaults, ["nas"]);
}

#[tokio::test]
async fn declared_tenants_and_accounts_are_made_once_and_kept_in_step() {
    let place = place();
    let (_dir, core) = open(&place.data).await;
    let file = place.data.join("eve.txt");
    std::fs::write(&file, "a fine password\n# and a remark\n").unwrap();
    let eve = |role: Role| AccountConfig {
        login: "eve".into(),
        role,
        tenant: Some("acme".into()),
        password: FirstSecret::File(file.clone()),
    };
    let acme = |external: &str| TenantConfig { name: "acme".into(), external_id: external.into() };
    let with = |external: &str, role: Role| Config {
        tenants: vec![acme(external)],
        accounts: vec![eve(role)],
        ..config(&place.data)
    };
    let apply = async |config: &Config| {
        declared::tenants(&core, config).await?;
        declared::accounts(&core, config).await
    };
    // The tenant must be declared, or be there.
    let orphan = Config { tenants: Vec::new(), ..with("x", Role::Viewer) };
    let error = apply(&orphan).await.unwrap_err();
    assert!(error.render().contains("there is no tenant 'acme'"), "{}", error.render());

    apply(&with("one", Role::Viewer)).await.unwrap();
    let system = Caller::system();
    let access = &core.portolan.access;
    let tenant = access.tenants.by_external_id(&system, "one").await.unwrap();
    let caller = access.logins.authenticate("eve", &Secret::new("a fine password"), None).await.unwrap();
    assert_eq!((caller.role, caller.scope), (Role::Viewer, Scope::Tenant(tenant.id)));

    // Her password is hers from then on: the file is not looked at again.
    std::fs::remove_file(&file).unwrap();
    apply(&with("two", Role::Operator)).await.unwrap();
    assert_eq!(access.accounts.by_login(&system, "eve").await.unwrap().role, Role::Operator);
    assert_eq!(access.tenants.by_external_id(&system, "two").await.unwrap().id, tenant.id);

    assert!(!declared::has_administrator(&with("two", Role::Administrator)), "bound to a tenant");
    let boss = AccountConfig {
        tenant: None,
        login: "boss".into(),
        password: FirstSecret::Hash(Secret::new("$2b$12$no")),
        ..eve(Role::Administrator)
    };
    let with_boss = Config { accounts: vec![boss], ..with("two", Role::Operator) };
    assert!(declared::has_administrator(&with_boss));
    assert!(apply(&with_boss).await.unwrap_err().render().contains("Argon2id"));
}
