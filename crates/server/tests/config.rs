//! The layers of the configuration: which one wins, what is refused, and how that is said.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use portolan_model::Role;
use portolan_server::config::settings::Settings;
use portolan_server::config::{
    BUILT_IN_CLOUD, CloudConfig, Config, ConfigError, FirstSecret, Overrides, Surroundings, load,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn around(variables: &[(&str, &str)]) -> Surroundings {
    let home = [("HOME", "/nonexistent/home")];
    let all = home.iter().chain(variables).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Surroundings { variables: all.collect() }
}

fn flags(pairs: &[(&str, &str)]) -> Overrides {
    let keys = pairs.iter().map(|(k, v)| ("--set".to_owned(), (*k).to_owned(), (*v).to_owned())).collect();
    Overrides { file: None, keys }
}

fn with_file(text: &str) -> (tempfile::TempDir, Overrides) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portolan.toml");
    std::fs::write(&file, text).unwrap();
    (dir, Overrides { file: Some(file), keys: Vec::new() })
}

fn origin(settings: &Settings, key: &str) -> String {
    settings.entry(key).unwrap().origin.word().to_owned()
}

#[test]
fn defaults_serve_without_any_configuration() {
    let (config, settings) = load(&around(&[]), &Overrides::default()).unwrap();
    assert_eq!(config.data_dir, Path::new("/nonexistent/home/.local/share/portolan"));
    assert_eq!(config.vplus.addresses, ["127.0.0.1:8181".parse().unwrap()]);
    assert_eq!(config.management.addresses, ["127.0.0.1:9180".parse().unwrap()]);
    assert!(config.vplus.tls && config.platforms.is_empty() && config.destinations.is_empty());
    assert_eq!(config.sync_interval, Some(Duration::from_secs(900)));
    assert!(settings.all().iter().all(|(_, entry)| entry.origin.word() == "default"));
}

#[test]
fn the_file_gives_way_to_the_environment_and_that_to_arguments() {
    let text = "[log]\nlevel = \"error\"\nformat = \"json\"\n[tasks]\nconcurrency = 3\n";
    let (_dir, mut overrides) = with_file(text);
    overrides.keys = flags(&[("tasks.concurrency", "5")]).keys;
    let env = around(&[("PORTOLAN__LOG__LEVEL", "debug"), ("PORTOLAN__TASKS__CONCURRENCY", "4")]);
    let (config, settings) = load(&env, &overrides).unwrap();
    assert_eq!((config.log_level.as_str(), config.log_json, config.task_concurrency), ("debug", true, 5));
    assert_eq!(origin(&settings, "log.format"), "file");
    assert_eq!(origin(&settings, "log.level"), "env");
    assert_eq!(origin(&settings, "tasks.concurrency"), "flag");
    assert_eq!(origin(&settings, "tasks.lease"), "default");
    assert!(settings.entry("log.format").unwrap().origin.to_string().ends_with("portolan.toml, line 3"));
}

#[test]
fn platforms_and_destinations_come_from_any_layer() {
    let text =
        "[platform.lab]\ndriver = \"images\"\nroot = \"vms\"\n[destination.nas]\npath = \"/mnt/nas\"\ndefault = true\n";
    let (dir, overrides) = with_file(text);
    let env =
        around(&[("PORTOLAN__PLATFORM__SHED__DRIVER", "images"), ("PORTOLAN__PLATFORM__SHED__ROOT", "/srv/shed")]);
    let (config, settings) = load(&env, &overrides).unwrap();
    let roots: Vec<(&str, PathBuf)> = config.platforms.iter().map(|p| (p.name.as_str(), p.root.clone())).collect();
    // A relative path in a file starts where the file is.
    assert_eq!(roots, [("lab", dir.path().join("vms")), ("shed", "/srv/shed".into())]);
    assert!(config.destinations[0].default);
    assert_eq!(origin(&settings, "destination.nas.kind"), "default");
}

#[test]
fn unknown_keys_are_named_with_their_place_and_their_neighbours() {
    let (_dir, overrides) = with_file("data_dir = \"/x\"\n\n[databse]\nurl = \"sqlite:///x\"\n");
    let error = load(&around(&[]), &overrides).unwrap_err();
    assert!(error.to_string().contains("'databse'") && error.to_string().contains("line 3"), "{error}");

    let (_dir, overrides) = with_file("[database]\nulr = \"sqlite:///x\"\n");
    let error = load(&around(&[]), &overrides).unwrap_err();
    assert!(error.to_string().contains("'database.ulr'") && error.to_string().contains("line 2"), "{error}");
    assert!(error.hint().unwrap().contains("'database.url'"));

    let error = load(&around(&[("PORTOLAN__LISTENERS__VPLUS__ADRESSES", "127.0.0.1:1")]), &Overrides::default());
    let error = error.unwrap_err();
    assert!(error.to_string().contains("PORTOLAN__LISTENERS__VPLUS__ADRESSES"), "{error}");
    assert!(error.hint().unwrap().contains("'listeners.vplus.addresses'"));

    let error = load(&around(&[]), &flags(&[("platform.lab.rot", "/x")])).unwrap_err();
    assert!(error.hint().unwrap().contains("'platform.lab.root'"));
    assert!(matches!(error, ConfigError::Unknown { .. }));
}

#[test]
fn values_of_another_kind_are_refused() {
    for text in [
        "[tasks]\nconcurrency = \"4\"\n",
        "[tasks]\nconcurrency = 0\n",
        "[listeners.vplus]\ntls = \"yes\"\n",
        "[listeners.vplus]\naddresses = [\"localhost\"]\n",
        "[listeners.vplus]\naddresses = []\n",
        "[inventory]\nsync_interval = 30\n",
        "[log]\nlevel = \"loud\"\n",
        "[log]\nlevel = { a = 1 }\n",
        "data_dir = \"\"\n",
        "[platform.lab]\ndriver = \"wishes\"\nroot = \"/x\"\n",
    ] {
        let (_dir, overrides) = with_file(text);
        let error = load(&around(&[]), &overrides).unwrap_err();
        assert!(matches!(error, ConfigError::Value { .. }), "{text}: {error}");
    }
    let (_dir, overrides) = with_file("[log\n");
    assert!(matches!(load(&around(&[]), &overrides).unwrap_err(), ConfigError::Syntax { .. }));
    let missing = Overrides { file: Some("/nonexistent/portolan.toml".into()), keys: Vec::new() };
    assert!(matches!(load(&around(&[]), &missing).unwrap_err(), ConfigError::Unreadable { .. }));
}

#[test]
fn keys_that_do_not_go_together_are_refused() {
    let refused = |pairs: &[(&str, &str)]| load(&around(&[]), &flags(pairs)).unwrap_err().to_string();
    assert!(refused(&[("platform.lab.driver", "images")]).contains("platform.lab.root"));
    assert!(refused(&[("platform.lab.root", "/x")]).contains("platform.lab.driver"));
    assert!(refused(&[("destination.a.default", "true")]).contains("destination.a.path"));
    assert!(refused(&[("listeners.vplus.cert", "/x")]).contains("listeners.vplus.key"));
    let two = [
        ("destination.a.path", "/a"),
        ("destination.a.default", "true"),
        ("destination.b.path", "/b"),
        ("destination.b.default", "true"),
    ];
    assert!(refused(&two).contains("'a' is the default destination already"));
    assert!(refused(&[("destination.a.path", "/a"), ("destination.b.path", "/a")]).contains("same directory"));
}

#[test]
fn passwords_show_as_stars() {
    let url = "postgres://portolan:hunter2@db/portolan";
    let (config, settings) = load(&around(&[("PORTOLAN__DATABASE__URL", url)]), &Overrides::default()).unwrap();
    let shown = settings.entry("database.url").unwrap().shown().unwrap().to_string();
    assert!(shown.contains("***") && !shown.contains("hunter2"), "{shown}");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.database_url.unwrap().0.reveal(), url);
    let error = load(&around(&[("PORTOLAN__DATABASE__URL", "")]), &Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("***"));
}

#[test]
fn the_data_directory_is_the_service_managers_or_the_users() {
    let dir = |variables: &[(&str, &str)]| load(&around(variables), &Overrides::default()).unwrap().0.data_dir;
    assert_eq!(dir(&[("XDG_DATA_HOME", "/data")]), Path::new("/data/portolan"));
    assert_eq!(dir(&[("XDG_DATA_HOME", "relative")]), Path::new("/nonexistent/home/.local/share/portolan"));
    let state = [("STATE_DIRECTORY", "/var/lib/portolan:/var/lib/other"), ("XDG_DATA_HOME", "/data")];
    assert_eq!(dir(&state), Path::new("/var/lib/portolan"));
    let nowhere = Config::from_settings(&Settings::default(), &Surroundings::default()).unwrap_err();
    assert!(nowhere.to_string().contains("--data-dir"));
}

#[test]
fn a_users_file_is_found_without_being_named() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("portolan");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("portolan.toml"), "[node]\nname = \"quay\"\n").unwrap();
    let env = around(&[("XDG_CONFIG_HOME", home.path().to_str().unwrap())]);
    assert_eq!(load(&env, &Overrides::default()).unwrap().0.node_name.as_deref(), Some("quay"));
}

#[test]
fn tenants_and_accounts_are_declared_without_a_plain_password() {
    let hash = "$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let text = format!(
        "[tenant.acme]\nexternal_id = \"7f3a\"\n[tenant.none]\nexternal_id = \"\"\n\
         [account.root]\nrole = \"administrator\"\npassword_hash = \"{hash}\"\n\
         [account.eve]\ntenant = \"acme\"\npassword_file = \"eve.txt\"\n"
    );
    let (dir, overrides) = with_file(&text);
    let (config, settings) = load(&around(&[]), &overrides).unwrap();
    let tenants: Vec<(&str, &str)> = config.tenants.iter().map(|t| (t.name.as_str(), t.external_id.as_str())).collect();
    assert_eq!(tenants, [("acme", "7f3a"), ("none", "")]);
    let [eve, root] = config.accounts.as_slice() else { panic!("{:?}", config.accounts) };
    assert_eq!((eve.role, eve.tenant.as_deref()), (Role::Viewer, Some("acme")));
    assert_eq!(eve.password, FirstSecret::File(dir.path().join("eve.txt")));
    assert_eq!(root.role, Role::Administrator);
    assert!(!format!("{config:?}").contains("argon2id"));
    assert_eq!(settings.entry("account.root.password_hash").unwrap().shown().unwrap(), "***");

    let refused = |text: &str| {
        let (_dir, overrides) = with_file(text);
        load(&around(&[]), &overrides).unwrap_err().to_string()
    };
    assert!(refused("[account.eve]\nrole = \"viewer\"\n").contains("'account.eve.password_file' is missing"));
    assert!(refused("[account.eve]\npassword = \"hunter2\"\n").contains("unknown configuration key"));
    assert!(refused("[account.eve]\nrole = \"god\"\npassword_file = \"x\"\n").contains("must be one of"));
    assert!(refused("[account.eve]\npassword_file = \"x\"\npassword_hash = \"y\"\n").contains("one of them is enough"));
    let empty = refused("\n[tenant.acme]\n");
    assert!(empty.contains("'tenant.acme.external_id' is missing") && empty.contains("line 2"), "{empty}");
}

#[test]
fn every_listener_has_addresses_tls_and_an_off_switch() {
    let of = |pairs: &[(&str, &str)]| load(&around(&[]), &flags(pairs)).unwrap().0;
    let config = of(&[]);
    assert!(config.vplus.tls && !config.management.tls);
    let config = of(&[
        ("listeners.management.tls", "true"),
        ("listeners.management.addresses", "127.0.0.1:1,[::1]:2"),
        ("listeners.vplus.enabled", "false"),
    ]);
    assert!(config.vplus.addresses.is_empty());
    assert!(config.management.tls && config.management.addresses.len() == 2);
    let error = load(&around(&[]), &flags(&[("listeners.management.key", "/k")])).unwrap_err();
    assert!(error.to_string().contains("listeners.management.cert"), "{error}");
}

#[test]
fn there_is_a_dummy_cloud_unless_something_is_configured() {
    let of = |pairs: &[(&str, &str)]| load(&around(&[]), &flags(pairs)).map(|(config, _)| config.clouds);
    let names = |clouds: Vec<CloudConfig>| clouds.into_iter().map(|c| (c.name, c.nodes)).collect::<Vec<_>>();
    assert_eq!(names(of(&[]).unwrap()), [(BUILT_IN_CLOUD.to_owned(), None)]);
    let images = [("platform.lab.driver", "images"), ("platform.lab.root", "/x")];
    assert_eq!(names(of(&images).unwrap()), []);
    let dummy = [("cloud.lab.driver", "dummy"), ("cloud.lab.nodes", "7")];
    assert_eq!(names(of(&dummy).unwrap()), [("lab".to_owned(), Some(7))]);
    let error = of(&[images, dummy].concat()).unwrap_err().to_string();
    assert!(error.contains("a platform has the same name"), "{error}");
    let error = of(&[("cloud.lab.nodes", "7")]).unwrap_err().to_string();
    assert!(error.contains("'cloud.lab.driver' is missing"), "{error}");
    assert!(of(&[("cloud.lab.driver", "openstack")]).is_err());
}
