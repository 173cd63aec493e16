//! What the published clients do, in their own spellings: two user interfaces that post whole objects and junk, a
//! plug-in that sends bare texts and fractions, an exporter that indexes answers unguarded, a proxy that logs in
//! before every call. That no answer holds `null`, and that every error is JSON with a message, is checked on each.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]

mod transcript;
mod world;

use portolan::model::{Name, Node, NodeId, Role};
use serde_json::{Value, json};
use transcript::{Conversation, account, ready};
use world::{World, me};

async fn synced() -> (World, Conversation) {
    let (world, mut talk) = ready().await;
    world.sync().await;
    talk.login().await;
    (world, talk)
}

/// A backup of `web01` that has succeeded, and the machine's guid.
async fn backed_up(world: &World, talk: &mut Conversation) -> (String, String) {
    let vm = world.vm("web01").await.id.to_string();
    let answer = talk.post("/api/tasks/export", json!({ "protectedEntities": [vm] })).await;
    world.wait(text(&answer[0]["workflowExecution"]["guid"]).parse().unwrap()).await;
    (vm, text(&answer[0]["backup"]["guid"]))
}

/// The user interface: whole objects with keys of its own, choices that were not made, texts for numbers.
#[tokio::test(start_paused = true)]
async fn whole_objects_are_posted_back() {
    let (world, mut talk) = synced().await;
    let junk = "page=0&size=25&filter=&orderBy=undefined&direction=null&showLoader=true&nameLike=";
    let mut machines = talk.get(&format!("/api/virtual-machines?{junk}")).await;
    for machine in machines.as_array_mut().unwrap() {
        machine["isNotSaved"] = json!(true);
        machine["checked"] = json!(true);
        machine["vmBackupPolicy"] = json!({ "rules": [{ "schedules": [] }], "shortName": "x" });
    }
    let destinations = talk.post("/api/backup-destinations/usable-for-vms", machines.clone()).await;
    assert_eq!(destinations[0]["name"], "vault");
    let rules = json!([{
        "guid": "00000000-0000-0000-0000-000000000009", "name": "Default", "active": true, "schedules": [],
        "ruleBackupDestinations": [
            { "roleType": { "name": "SECONDARY", "description": "Secondary" }, "backupDestination": { "guid": null } },
            { "roleType": { "name": "PRIMARY", "description": "Primary" }, "backupDestination": destinations[0] },
        ],
    }]);
    let export = json!({ "windowStart": null, "priority": "50", "backupType": { "name": "", "description": null },
        "rules": rules, "protectedEntities": machines, "protectedEntityType": "VM", "async": true, "retryCount": "2",
        "tenantId": null, "time": "x" });
    let tasks = talk.post("/api/tasks/export", export).await;
    assert_eq!(tasks.as_array().map(Vec::len), Some(2));
    for task in tasks.as_array().unwrap() {
        assert_eq!((&task["backupType"]["name"], &task["retryCount"]), (&json!("FULL"), &json!(2)));
        let (start, end) = (task["windowStart"].as_i64().unwrap(), task["windowEnd"].as_i64().unwrap());
        assert_eq!(end - start, 5 * 3_600_000, "five hours to start in");
        world.wait(text(&task["workflowExecution"]["guid"]).parse().unwrap()).await;
    }
    let vm = text(&machines[1]["guid"]);
    let pes = format!("protected-entity={vm}");
    for tab in [
        format!("/api/backups?{pes}&status=SUCCESS&status=FAILED&from=1763000000000&to=4102444800000"),
        format!("/api/restore-jobs?{pes}&from=1763000000000&to=4102444800000"),
        format!("/api/snapshots?{pes}"),
        format!("/api/snapshots?{pes}&stand-alone=true"),
        format!("/api/virtual-machine-disks?virtual-machine={vm}"),
        format!("/api/schedules?{pes}"),
        format!("/api/tasks?{pes}"),
        format!("/api/hypervisor-managers/?backup-to-be-restored={}", text(&tasks[0]["backup"]["guid"])),
    ] {
        assert_eq!(talk.status("GET", &tab, "").await, 200, "{tab}");
    }
    assert_eq!(
        talk.post("/api/policies/vm-backup/list-by-entities", json!({ "protectedEntities": [vm] })).await,
        json!([])
    );
}

/// The restore dialogue: the copy instead of the backup, the files of it as they were listed.
#[tokio::test(start_paused = true)]
async fn a_restore_names_a_location_and_its_files() {
    let (world, mut talk) = synced().await;
    let (vm, backup) = backed_up(&world, &mut talk).await;
    let mountable = talk.quiet_get(&format!("/api/backups?protected-entity={vm}&only-mountable=true")).await;
    let locations = format!("/api/backup-locations?protected-entity={vm}&location-status=PRESENT");
    let locations = talk.quiet_get(&locations).await;
    assert_eq!(mountable[0]["guid"], locations[0]["backup"]["guid"], "paired by index");
    let storage = talk.quiet_get("/api/hypervisor-storages").await[0].clone();
    let cluster = talk.quiet_get("/api/hypervisor-clusters").await[0].clone();
    assert_eq!(storage["clusters"][0]["guid"], cluster["guid"]);
    let files = talk.quiet_get(&format!("/api/backup-files/detailed/for-restore?backup={backup}")).await;
    let files: Vec<Value> = files
        .as_array()
        .unwrap()
        .iter()
        .map(|f| {
            json!({
                "backupFile": f, "originalDiskName": f["vmDisk"]["name"], "diskName": "", "path": f["path"],
                "excludedFromRestore": f["vmDisk"]["name"] == "disk2", "storageId": storage["uuid"],
            })
        })
        .collect();
    let manager = talk.quiet_get("/api/hypervisor-managers").await[0].clone();
    let restore = json!({ "backup": null, "backupLocation": locations[0], "hypervisorManager": manager,
        "hypervisor": null, "restoredPeName": "web01-copy", "restoreStorageId": "", "restoreClusterId": cluster["uuid"],
        "restoreProject": "", "dataCenter": null, "overwrite": false, "taskFiles": files,
        "restoredDiskAllocationFormat": { "name": "SPARSE" }, "restoreToOriginalVolumeType": false,
        "restoredNetworks": [], "baseImage": { "uuid": null } });
    let task = talk.post("/api/tasks/restore-and-import", restore).await;
    assert_eq!(task["type"]["name"], "RESTORE", "one object, not a list: {task}");
    world.wait(text(&task["workflowExecution"]["guid"]).parse().unwrap()).await;
    assert_eq!(world.fake.vm_named("web01-copy").unwrap().disks.len(), 1, "the second disk was left out");
    let chain = talk.quiet_get("/api/workflow-executions").await[0].clone();
    assert_eq!(
        (&chain["definitionName"]["name"], &chain["state"]["name"], &chain["averageProgress"]),
        (&json!("RESTORE_AND_IMPORT"), &json!("FINISHED"), &json!(100.0))
    );
    // The first sync, the backup and the restore; the sync that ended the restore is a part of it.
    assert_eq!(talk.quiet_get("/api/workflow-executions").await.as_array().map(Vec::len), Some(3));
    // A disk that is left out without saying which one is no disk that may be restored by accident.
    let nameless = json!({ "backup": backup, "taskFiles": [{ "excludedFromRestore": true }] });
    assert_eq!(talk.status("POST", "/api/tasks/restore-and-import", &nameless.to_string()).await, 400);
}

/// The plug-in of 2020: bare texts and fractions, no window, `dstProtectedEntity` read from the answer.
#[tokio::test(start_paused = true)]
async fn bare_texts_and_fractions() {
    let (world, mut talk) = synced().await;
    let (vm, backup) = backed_up(&world, &mut talk).await;
    let vault = text(&talk.quiet_get("/api/backup-destinations").await[0]["guid"]);
    let export = json!({ "protectedEntities": [{ "guid": vm }], "backupType": "INCREMENTAL", "priority": 50.0,
        "backupDestination": vault, "windowStart": 1_795_219_200_000.0_f64 });
    let tasks = talk.post("/api/tasks/export", export).await;
    assert_eq!(tasks[0]["backupDestination"]["name"], "vault");
    world.wait(text(&tasks[0]["workflowExecution"]["guid"]).parse().unwrap()).await;
    let increment = talk.quiet_get(&format!("/api/backups?parent-backup={backup}")).await;
    assert_eq!(increment[0]["parentBackup"]["guid"], json!(backup));
    assert!(increment[0]["parentBackup"]["name"].as_str().unwrap().starts_with("web01 - "));
    // The other rows of these parameters have nothing to do with the machine.
    assert_eq!(talk.quiet_get("/api/backups?protected-entity-type=APP").await, json!([]));
    assert_eq!(talk.quiet_get(&format!("/api/backups?backup-destination={vault}")).await.as_array().unwrap().len(), 2);

    let found = talk.quiet_get("/api/virtual-machines?uuid=vm-1&hypervisor-manager-type=RHV").await;
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    // The increment found nothing new: the size of the newest backup is a number all the same.
    assert_eq!(found[0]["lastSuccessfulBackupSize"], 0);
    assert!(found[0]["lastSuccessfulFullBackupSize"].as_u64().unwrap() > 0);
    let host = text(&talk.quiet_get("/api/hypervisors").await[0]["guid"]);
    let restore = json!({ "backup": backup, "hypervisor": host, "restoredPeName": "", "restoreProject": "",
        "dstProtectedEntity": { "guid": vm, "type": "VM" }, "tenantId": "", "restoreStorageId": "store-1" });
    // The machine is there under its name: this fails later, but the request itself is well-formed.
    let task = talk.post("/api/tasks/restore-and-import", restore).await;
    assert_eq!(task["dstProtectedEntity"]["name"], "web01");
    assert_eq!(task["hypervisor"]["name"], "host-1");
    world.wait(text(&task["workflowExecution"]["guid"]).parse().unwrap()).await;
    let store = talk.quiet_get("/api/tasks?type=STORE&states=FINISHED&state=RUNNING").await;
    assert_eq!(store[0]["parentTask"]["name"], "Export");
    assert!(talk.quiet_get("/api/tasks?type=BACKUP_CLEANUP").await.as_array().unwrap().is_empty());
    assert_eq!(
        talk.status(
            "POST",
            "/api/tasks/export",
            &json!({ "protectedEntities": [vm],
        "backupType": "SYNTHETIC" })
            .to_string()
        )
        .await,
        400
    );
}

/// The exporter: `a["b"]["c"]` guarded for a missing key alone.
#[tokio::test(start_paused = true)]
async fn fields_that_are_indexed_unguarded_are_there() {
    let (world, mut talk) = synced().await;
    let node = Node {
        id: NodeId::from_uuid(uuid::Uuid::from_u128(9)),
        name: Name::new("node1").unwrap(),
        version: "1".into(),
        address: "10.0.0.5".into(),
        last_seen: world.portolan.now(),
        serves: Vec::new(),
        staging_total_bytes: 1000,
        staging_used_bytes: 200,
    };
    world.portolan.inventory.note_node(&node).await.unwrap();
    let (vm, backup) = backed_up(&world, &mut talk).await;
    let machine = talk.quiet_get(&format!("/api/virtual-machines/{vm}")).await;
    has(&machine, &["guid", "uuid", "name", "present", "lastSuccessfulBackupSize", "hvManager.guid", "hvManager.url"]);
    assert_eq!(machine["hvmType"]["name"], "RHV");
    assert!(machine.get("hvType").is_none() && machine.get("backupUpToDate").is_none(), "no schedule is defined");
    let full = machine["lastSuccessfulFullBackup"]["name"].as_str().unwrap();
    assert_eq!(full.rsplit(" - ").next().unwrap().len(), "2026-11-21 01:00:04".len());
    let fresh = talk.quiet_get(&format!("/api/virtual-machines/{}", world.vm("db01").await.id)).await;
    assert_eq!(fresh["lastSuccessfulBackupSize"], 0);
    assert!(fresh.get("lastSuccessfulFullBackup").is_none());

    let row = talk.quiet_get(&format!("/api/backups/{backup}")).await;
    has(&row, &["warnings", "status.name", "taskTimeStats.exportTime", "size", "statusInfo", "snapshotTime"]);
    has(&row["backupLocations"][0], &["backupDestination.name", "status.name", "retentionHint.name", "roleType.name"]);
    assert!(row["statusInfo"].is_string() && row["warnings"].is_array() && row["size"].is_u64());
    for path in ["backup-files", "backup-files/detailed", "backup-files/detailed/for-restore"] {
        let files = talk.quiet_get(&format!("/api/{path}?backup={backup}")).await;
        assert_eq!(files.as_array().map(Vec::len), Some(2));
        has(
            &files[0],
            &["guid", "path", "backupFileType.name", "vmDisk.excludedFromBackup", "vmDisk.name", "storageId"],
        );
        assert_ne!(files[0]["guid"], files[1]["guid"]);
    }
    let task = talk.quiet_get("/api/tasks").await[0].clone();
    has(&task, &["guid", "state.name", "state.description", "type.name", "type.description", "progress"]);
    assert_eq!(task["protectedEntity"]["name"], "web01");
    let chains = talk.quiet_get("/api/workflow-executions").await;
    for chain in chains.as_array().unwrap() {
        has(chain, &["guid", "state.description", "definitionName.name", "averageProgress", "currentStep.name"]);
        let origin = chain["originEntity"]["type"]["name"].as_str().unwrap();
        assert!(["USER", "SCHEDULE", "SYSTEM_SCHEDULE"].contains(&origin), "{origin}");
    }
    let hypervisor = talk.quiet_get("/api/hypervisors").await[0].clone();
    has(&hypervisor, &["guid", "name", "host", "type.name", "user", "vmCount", "licenseCovered", "cluster.name"]);
    let node = talk.quiet_get("/api/nodes").await[0].clone();
    has(&node, &["name", "state.name", "lastSeen", "nodeIP", "version", "nodeConfig.name"]);
    assert_eq!(node["stagingSpace"], json!({ "totalSpace": 1000, "usedSpace": 200 }));
    let space = talk.quiet_get("/api/dashboard/staging-space").await;
    assert_eq!((&space[0]["node"]["name"], &space[0]["availableSpace"]), (&json!("node1"), &json!(800)));
    let destination = talk.quiet_get("/api/backup-destinations").await[0].clone();
    has(&destination, &["totalUsedSpace", "totalAvailableSpace", "type.name", "projects", "nodeConfigs"]);
    let restore = json!({ "backup": backup, "restoredPeName": "again" });
    let task = talk.post("/api/tasks/restore-and-import", restore).await;
    world.wait(text(&task["workflowExecution"]["guid"]).parse().unwrap()).await;
    let job = talk.quiet_get(&format!("/api/restore-jobs?protected-entity={vm}")).await[0].clone();
    has(&job, &["taskTimeStats.restoreTime", "backup.snapshotTime", "status.description", "restoreTime"]);
}

/// The proxy: it logs in twice for a call and never logs out.
#[tokio::test(start_paused = true)]
async fn logins_without_logouts() {
    let (_world, mut talk) = ready().await;
    talk.login().await;
    let first = talk.request("GET", "/api/session");
    for _ in 0..200 {
        talk.login().await;
    }
    let again = first.body(axum::body::Body::empty()).unwrap();
    assert_eq!(talk.exchange(again).await.status, 204, "a session outlives others of its account");
    let user = talk.quiet_get("/api/user-info").await;
    has(&user, &["guid", "login", "privileges", "uiTimeZone", "appUserSettings.unmountPeriodForMountedBackups"]);
    let held: Vec<&str> = user["privileges"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert!(
        held.contains(&"VE_BACKUP_SLA_READ") && held.contains(&"NODE_READ") && held.contains(&"VE_BACKUP_SLA_WRITE")
    );
    let request = talk.request("GET", "/api/virtual-machines").header("3rd-party", "HORIZON");
    let request = request.header("x-csrftoken", "x").header("3rd-party-project", "p").header("content-type", "text/x");
    assert_eq!(talk.exchange(request.body(axum::body::Body::empty()).unwrap()).await.status, 200);
}

/// A page of the engine's origin: asks first, sends the cookie along, reads the total.
#[tokio::test(start_paused = true)]
async fn pages_of_a_configured_origin() {
    let (_world, mut talk) = ready().await;
    talk.origin = Some("https://engine.example".into());
    let ask = talk.request("OPTIONS", "/api/tasks/export").header("access-control-request-method", "POST");
    let answer = talk.exchange(ask.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.headers["access-control-allow-origin"], "https://engine.example");
    assert_eq!(answer.headers["access-control-allow-credentials"], "true");
    let allowed = answer.headers["access-control-allow-headers"].to_str().unwrap();
    for name in ["content-type", "x-csrftoken", "3rd-party", "3rd-party-project"] {
        assert!(allowed.contains(name), "{name}");
    }
    let methods = answer.headers["access-control-allow-methods"].to_str().unwrap();
    assert!(["GET", "POST", "PUT", "DELETE"].iter().all(|m| methods.contains(m)));
    talk.login().await;
    let list = talk.request("GET", "/api/tasks").body(axum::body::Body::empty()).unwrap();
    let answer = talk.exchange(list).await;
    let exposed = answer.headers["access-control-expose-headers"].to_str().unwrap();
    assert!(exposed.contains("X-Total-Count") && exposed.contains("Content-Disposition"));
    let refused = talk.request("GET", "/api/no-such-thing").body(axum::body::Body::empty()).unwrap();
    let answer = talk.exchange(refused).await;
    assert_eq!((answer.status, answer.headers.contains_key("access-control-allow-origin")), (404, true));
}

/// Every collection: whole or by pages, with its total, with or without a slash, whatever junk is with it.
#[tokio::test(start_paused = true)]
async fn every_collection_is_listed_alike() {
    let (world, mut talk) = synced().await;
    let (vm, backup) = backed_up(&world, &mut talk).await;
    world.portolan.access.tenants.create(&me(), "tenant-a", "ext-1").await.unwrap();
    let vm_disks = format!("virtual-machine-disks?virtual-machine={vm}&");
    let files = format!("backup-files?backup={backup}&");
    for path in [
        "virtual-machines?",
        "virtual-machines/detailed?",
        &vm_disks,
        "hypervisors?",
        "hypervisor-managers?",
        "hypervisor-clusters?",
        "hypervisor-storages?",
        "nodes?",
        "backup-destinations?",
        "tasks?",
        "backups?",
        "backup-locations?",
        "restore-jobs?",
        &files,
        "workflow-executions?",
        "projects?",
        "snapshots?",
        "network?",
        "network/shared?",
        "virtual-machine-flavors?",
        "schedules?",
        "policies/vm-backup?",
        "policies/vm-snapshot?",
        "rules/vm-backup?",
        "mounted-backups?",
        "mailing-lists?",
    ] {
        let mut ask = async |path: String| {
            let request = talk.request("GET", &path).body(axum::body::Body::empty()).unwrap();
            let answer = talk.exchange(request).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
            let total = answer.headers["x-total-count"].to_str().unwrap().parse::<usize>().unwrap();
            (answer.value.as_array().unwrap().len(), total)
        };
        let (all, total) = ask(format!("/api/{path}")).await;
        assert_eq!(all, total, "{path}");
        let slashed = format!("/api/{path}").replacen('?', "/?", 1);
        assert_eq!(ask(slashed).await, (all, total));
        assert_eq!(ask(format!("/api/{path}page=0&size=1")).await, (all.min(1), total), "{path}");
        assert_eq!(ask(format!("/api/{path}page={}&size=10", u64::MAX)).await, (0, total), "{path}");
        let junk = "filter=&orderBy=null&direction=undefined&nameLike=&showLoader=true&page=&size=";
        assert_eq!(ask(format!("/api/{path}{junk}")).await, (all, total), "{path}");
        assert_eq!(ask(format!("/api/{path}orderBy=no.such.path&direction=desc")).await, (all, total), "{path}");
    }
}

/// Where a chain is, and what forgetting it leaves.
#[tokio::test(start_paused = true)]
async fn chains_wait_fail_and_are_cancelled() {
    let (world, mut talk) = synced().await;
    let vm = world.vm("web01").await.id;
    let later = world.portolan.now().as_millis() + 3_600_000;
    let export = json!({ "protectedEntities": [vm], "windowStart": later });
    let task = talk.post("/api/tasks/export", export).await[0].clone();
    let chain = text(&task["workflowExecution"]["guid"]);
    let path = format!("/api/workflow-executions/{chain}");
    let state = async |talk: &mut Conversation| {
        let chains = talk.quiet_get("/api/workflow-executions?orderBy=priority&direction=desc").await;
        let found = chains.as_array().unwrap().iter().find(|c| c["guid"] == json!(chain)).cloned();
        found.map(|c| (text(&c["state"]["name"]), text(&c["currentStep"]["name"]), c.get("finishTime").is_some()))
    };
    assert_eq!(state(&mut talk).await, Some(("RUNNING".into(), "EXPORT".into(), false)));
    assert_eq!(talk.status("DELETE", &path, "").await, 204);
    assert_eq!(state(&mut talk).await, Some(("RUNNING".into(), "EXPORT".into(), false)), "nothing of it has ended");
    let cancel = json!({ "state": { "name": "CANCELLED" }, "statusInfo": "Canceled by user" });
    let cancelled = talk.put(&format!("/api/tasks/{}/state", text(&task["guid"])), cancel).await;
    assert_eq!(
        (&cancelled["state"]["name"], &cancelled["statusInfo"]),
        (&json!("CANCELLED"), &json!("Canceled by user"))
    );
    world.wait(chain.parse().unwrap()).await;
    assert_eq!(state(&mut talk).await, Some(("CANCELLED".into(), "EXPORT".into(), true)));
    assert_eq!(talk.status("DELETE", &path, "").await, 204);
    assert_eq!(state(&mut talk).await, None);

    let gone = || portolan::driver::DriverError::Conflict("in use".into());
    world.fake.fail(portolan_testkit::fake_hypervisor::Call::OpenExport, 100, gone);
    let task = talk.post("/api/tasks/export", json!({ "protectedEntities": [vm] })).await[0].clone();
    world.wait(text(&task["workflowExecution"]["guid"]).parse().unwrap()).await;
    let chains = talk.quiet_get("/api/workflow-executions?size=1").await;
    assert_eq!(chains[0]["state"], json!({ "name": "FAILED", "description": "Failed" }));
    assert!(chains[0]["averageProgress"].as_f64().unwrap() < 100.0);
    // A failed backup that has no moment of its own belongs to the history of its day.
    let day = format!("from={}&to={}", later - 3_700_000, later);
    let history = talk.quiet_get(&format!("/api/backups?protected-entity={vm}&{day}")).await;
    assert_eq!(history[0]["status"]["description"], "Failed");
    assert_eq!(talk.quiet_get("/api/dashboard/backup-stats").await["failed"], 2);
}

/// What a viewer may not do is 403, and nothing of it is done.
#[tokio::test(start_paused = true)]
async fn a_viewer_reads() {
    let (world, mut talk) = synced().await;
    let (vm, backup) = backed_up(&world, &mut talk).await;
    account(&world, "reader", "battery staple", Role::Viewer, None).await;
    talk.login_as("reader", "battery staple").await;
    let task = text(&talk.quiet_get("/api/tasks").await[0]["guid"]);
    let chain = text(&talk.quiet_get("/api/workflow-executions").await[0]["guid"]);
    for (method, path, body) in [
        ("POST", "/api/tasks/export".to_owned(), json!({ "protectedEntities": [vm] })),
        ("POST", "/api/tasks/restore-and-import".into(), json!({ "backup": backup })),
        ("POST", "/api/tasks/inventory-sync".into(), json!({})),
        ("POST", "/api/tasks/verify".into(), json!({ "backup": backup })),
        ("PUT", format!("/api/tasks/{task}/state"), json!({ "state": "CANCELLED" })),
        ("PUT", format!("/api/backups/{backup}/description"), json!({ "value": "x" })),
        ("PUT", format!("/api/backups/{backup}/warnings-acknowledged"), json!({ "value": true })),
        ("DELETE", format!("/api/tasks/{task}"), json!({})),
        ("DELETE", format!("/api/workflow-executions/{chain}"), json!({})),
        ("DELETE", "/api/tasks/all-finished".into(), json!({})),
        ("DELETE", "/api/tasks/all-finished-and-queued".into(), json!({})),
        ("DELETE", "/api/tasks/all-running".into(), json!({})),
    ] {
        assert_eq!(talk.status(method, &path, &body.to_string()).await, 403, "{method} {path}");
    }
    for path in ["dashboard/protection", "dashboard/backup-stats", "dashboard/backup-destination-stats", "backups"] {
        assert_eq!(talk.status("GET", &format!("/api/{path}"), "").await, 200, "{path}");
    }
}

fn has(value: &Value, paths: &[&str]) {
    for path in paths {
        let found = path.split('.').try_fold(value, |v, key| v.get(key));
        assert!(found.is_some(), "{path} is missing in {value}");
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
