//! What belongs to one tenant does not exist for another.

use portolan_access::{Access, AccessOptions, KeyFile, NewAccount, SystemClock, SystemIds, unlock};
use portolan_e2e::{Api, Disk, Site, assert_error};
use portolan_model::{Caller, Clock, IdSource, Role, Scope, Secret, TenantId, VirtualMachine, VmId};
use portolan_storage::{StorageExt, UnitOfWork};
use portolan_storage_sql::{SqlConfig, SqlStorage};
use serde_json::{Value, json};
use std::sync::Arc;

/// Makes a tenant with an operator, gives it a machine, all on the state of a stopped server.
async fn tenant(site: &Site, name: &str, vm: &Value) -> TenantId {
    let file = std::fs::read_dir(site.data())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "db"))
        .expect("the state is in SQLite");
    let storage = SqlStorage::connect(SqlConfig::sqlite(&file)).await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ids: Arc<dyn IdSource> = Arc::new(SystemIds::new(clock.clone()));
    let key = KeyFile::new(site.data().join("keys/master.key"));
    let vault = unlock(&*storage, &key, &*clock, &*ids).await.unwrap();
    let access = Access::new(storage.clone(), vault, clock.clone(), ids, AccessOptions::default()).unwrap();
    let tenant = access.tenants.create(&Caller::system(), name, name).await.unwrap().id;
    let account = NewAccount {
        login: name.to_owned(),
        password: Secret::new("a long password"),
        role: Role::Administrator,
        tenant: Some(tenant),
        time_zone: None,
    };
    access.accounts.create(&Caller::system(), account).await.unwrap();
    let vm: VmId = vm["guid"].as_str().unwrap().parse().unwrap();
    storage
        .change::<VirtualMachine, _>(clock.now(), Scope::All, vm, |vm| {
            vm.settings.tenant = Some(tenant);
            Some(UnitOfWork::new())
        })
        .await
        .unwrap();
    storage.close().await;
    tenant
}

#[tokio::test]
async fn another_tenants_objects_are_not_found() {
    let site = Site::new();
    site.machine("red", &[("root.raw", &Disk::sample(1, 2))]);
    site.machine("blue", &[("root.raw", &Disk::sample(2, 2))]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let (red, blue) = (api.vm("red").await, api.vm("blue").await);
    server.stop().await;
    tenant(&site, "reds", &red).await;
    tenant(&site, "blues", &blue).await;

    let server = site.start().await;
    let admin = server.api(&site).await;
    let reds = Api::login(server.stranger(&site), "reds", "a long password").await;
    let blues = Api::login(server.stranger(&site), "blues", "a long password").await;
    let names = async |api: &Api| {
        let vms = api.get("/virtual-machines").await;
        vms.as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&reds).await, ["red"]);
    assert_eq!(names(&blues).await, ["blue"]);
    assert_eq!(names(&admin).await, ["blue", "red"]);

    let backup = reds.back_up(&red, "FULL").await;
    let task = reds.get("/tasks").await[0].clone();
    let guid = |object: &Value| object["guid"].as_str().unwrap().to_owned();
    let paths = [
        format!("/virtual-machines/{}", guid(&red)),
        format!("/virtual-machine-disks?virtual-machine={}", guid(&red)),
        format!("/backups/{}", guid(&backup)),
        format!("/tasks/{}", guid(&task)),
    ];
    for path in &paths {
        reds.get(path).await;
        assert_error(&blues.client.get(path).await.unwrap(), 404);
    }
    for list in ["/backups", "/tasks", "/restore-jobs", "/backup-locations"] {
        assert_eq!(blues.get(list).await, json!([]), "{list}");
    }
    blues.refused("/tasks/export", &json!({ "protectedEntities": [red] }), 404).await;
    blues.refused("/tasks/restore-and-import", &json!({ "backup": backup, "restoredPeName": "mine" }), 404).await;
    blues.refused("/tasks/verify", &json!({ "backup": backup }), 404).await;
    assert_error(&blues.client.delete(&paths[3]).await.unwrap(), 404);
    let cancel = json!({ "state": { "name": "CANCELLED" } });
    assert_error(&blues.client.put(&format!("{}/state", paths[3]), &cancel).await.unwrap(), 404);
    let describe = json!({ "description": "mine" });
    let path = format!("/backups/{}/description", guid(&backup));
    assert_error(&blues.client.put(&path, &describe).await.unwrap(), 404);
    assert_eq!(reds.get(&format!("/backups/{}", guid(&backup))).await["description"], backup["description"]);
    assert_eq!(admin.backups(&red).await.len(), 1);
    server.stop().await;
}
