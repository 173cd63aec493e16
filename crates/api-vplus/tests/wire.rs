//! The dialect's golden files: whole conversations with the real handlers over memory storage. Guids, moments and
//! durations are replaced by stable words; everything else is compared to the letter.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]

mod transcript;
mod world;

use portolan::model::Role;
use serde_json::json;
use transcript::{account, ready};
use world::me;

#[tokio::test(start_paused = true)]
async fn session() {
    let (_world, mut talk) = ready().await;
    talk.get("/api/virtual-machines").await;
    talk.post("/api/session/login", json!({ "login": "portal", "password": "wrong" })).await;
    talk.post("/api/session/login", json!({ "login": "portal" })).await;
    talk.raw("POST", "/api/session/login", "{not json").await;
    talk.post("/api/session/login", json!({ "login": "portal", "password": "correct horse" })).await;
    talk.get("/api/session").await;
    talk.get("/api/session/user").await;
    talk.post("/api/session/logout", json!({})).await;
    talk.get("/api/session").await;
    insta::assert_snapshot!(talk.text());
}

#[tokio::test(start_paused = true)]
async fn inventory() {
    let (world, mut talk) = ready().await;
    talk.login().await;
    talk.quietly(async |talk| {
        talk.post("/api/tasks/inventory-sync", json!({ "hypervisorManagers": [] })).await;
    })
    .await;
    world.sync().await;
    talk.get("/api/virtual-machines?page=0&size=1&filter=&orderBy=name&direction=asc").await;
    talk.get("/api/virtual-machines/?filter=DB0").await;
    let vm = world.vm("web01").await.id;
    talk.get(&format!("/api/virtual-machines/{vm}")).await;
    talk.get(&format!("/api/virtual-machine-disks?virtual-machine={vm}")).await;
    talk.get("/api/hypervisors").await;
    talk.get("/api/hypervisor-managers/?backup-to-be-restored=").await;
    talk.get("/api/hypervisor-clusters").await;
    talk.get("/api/hypervisor-storages").await;
    talk.get("/api/backup-destinations").await;
    talk.post("/api/backup-destinations/usable-for-vms", json!([{ "guid": vm }])).await;
    talk.get("/api/virtual-machines/00000000-0000-0000-0000-000000000001").await;
    talk.get("/api/virtual-machines/not-a-guid").await;
    talk.get("/api/virtual-machines?size=0").await;
    talk.get("/api/no-such-thing").await;
    talk.raw("DELETE", "/api/nodes", "").await;
    insta::assert_snapshot!(talk.text());
}

#[tokio::test(start_paused = true)]
async fn backup_and_restore() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    talk.login().await;
    let vm = world.vm("web01").await.id;
    let export = json!({ "protectedEntities": [{ "guid": vm, "name": "web01" }], "backupType": { "name": "FULL" },
        "priority": "60", "rules": [], "protectedEntityType": "VM", "async": true });
    let answer = talk.post("/api/tasks/export", export).await;
    let (task, backup) = (text(&answer[0]["guid"]), text(&answer[0]["backup"]["guid"]));
    let chain = text(&answer[0]["workflowExecution"]["guid"]);
    world.wait(chain.parse().unwrap()).await;
    talk.get(&format!("/api/tasks/{task}")).await;
    talk.get(&format!("/api/tasks?workflow-execution={chain}&type=STORE&state=FINISHED")).await;
    talk.get(&format!("/api/backups/?protected-entity={vm}&status=SUCCESS&status=PARTIAL_SUCCESS")).await;
    talk.get(&format!("/api/backup-locations?protected-entity={vm}&location-status=PRESENT")).await;

    world.fake.write_disk(&world.vm("web01").await.external.native_id, "disk1", 9, b"new");
    let export = json!({ "protectedEntities": [vm], "backupType": "INCREMENTAL" });
    let answer = talk.post("/api/tasks/export", export).await;
    world.wait(text(&answer[0]["workflowExecution"]["guid"]).parse().unwrap()).await;
    let increment = text(&answer[0]["backup"]["guid"]);
    talk.get(&format!("/api/backups/{increment}")).await;

    let answer = talk.post("/api/tasks/verify", json!({ "backup": increment })).await;
    world.wait(text(&answer["workflowExecution"]["guid"]).parse().unwrap()).await;
    talk.get(&format!("/api/tasks/{}", text(&answer["guid"]))).await;

    let location = talk.quiet_get(&format!("/api/backup-locations?protected-entity={vm}")).await[0].clone();
    let restore = json!({ "backup": null, "backupLocation": location, "restoredPeName": "web01-copy",
        "restoreStorageId": "", "taskFiles": [] });
    let answer = talk.post("/api/tasks/restore-and-import", restore).await;
    world.wait(text(&answer["workflowExecution"]["guid"]).parse().unwrap()).await;
    talk.get(&format!("/api/restore-jobs?protected-entity={vm}")).await;
    talk.put(&format!("/api/backups/{backup}/description"), json!({ "value": "before the upgrade" })).await;
    talk.put(&format!("/api/backups/{backup}/warnings-acknowledged"), json!({ "value": true })).await;
    talk.put(&format!("/api/tasks/{task}/state"), json!({ "state": { "name": "CANCELLED" } })).await;
    talk.raw("DELETE", "/api/tasks/all-finished", "").await;
    talk.get("/api/tasks").await;
    insta::assert_snapshot!(talk.text());
}

#[tokio::test(start_paused = true)]
async fn bad_requests() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    talk.login().await;
    let vm = world.vm("web01").await.id;
    let unknown = "00000000-0000-0000-0000-000000000001";
    for body in [
        json!({}),
        json!([]),
        json!({ "protectedEntities": "web01" }),
        json!({ "protectedEntities": [{ "name": "web01" }] }),
        json!({ "protectedEntities": ["web01"] }),
        json!({ "protectedEntities": [unknown] }),
        json!({ "protectedEntities": [vm], "backupType": "HALF" }),
        json!({ "protectedEntities": [vm], "priority": 101 }),
        json!({ "protectedEntities": [vm], "priority": "high" }),
        json!({ "protectedEntities": [vm], "windowEnd": 5 }),
        json!({ "protectedEntities": [vm], "backupDestination": { "guid": unknown } }),
    ] {
        talk.post("/api/tasks/export", body).await;
    }
    for body in [json!({}), json!({ "backup": unknown }), json!({ "backup": 7 })] {
        talk.post("/api/tasks/restore-and-import", body).await;
    }
    talk.get("/api/tasks?state=BUSY").await;
    talk.get("/api/tasks?type=NAP").await;
    talk.get("/api/backups?protected-entity=web01").await;
    talk.get("/api/backups?from=yesterday").await;
    talk.put(&format!("/api/tasks/{unknown}/state"), json!({ "state": "CANCELLED" })).await;
    talk.raw("DELETE", &format!("/api/tasks/{unknown}"), "").await;
    talk.get("/api/backups").await;
    insta::assert_snapshot!(talk.text());
}

#[tokio::test(start_paused = true)]
async fn tenants_are_kept_apart() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    let tenant = world.portolan.access.tenants.create(&me(), "t1", "ext-1").await.unwrap().value;
    let (web, db) = (world.vm("web01").await, world.vm("db01").await);
    world.portolan.inventory.set_tenant(&me(), web.id, Some(tenant.id)).await.unwrap();
    account(&world, "theirs", "battery staple", Role::Operator, Some(tenant.id)).await;
    talk.login().await;
    for name in ["tenantid", "tenantId", "tenant-id", "project-uuid"] {
        let seen = talk.quiet_get(&format!("/api/virtual-machines?{name}=ext-1")).await;
        assert_eq!(seen.as_array().map(Vec::len), Some(1), "{name}");
    }
    assert_eq!(talk.quiet_get("/api/virtual-machines?tenantid=nobody").await, json!([]));
    talk.login_as("theirs", "battery staple").await;
    talk.get("/api/virtual-machines").await;
    talk.get(&format!("/api/virtual-machines/{}", db.id)).await;
    talk.post("/api/tasks/export", json!({ "protectedEntities": [db.id] })).await;
    talk.get("/api/virtual-machines?tenantid=nobody").await;
    insta::assert_snapshot!(talk.text());
}

/// A page of another site may not make a user's browser write.
#[tokio::test(start_paused = true)]
async fn foreign_pages_cannot_write() {
    let (_world, mut talk) = ready().await;
    talk.login().await;
    talk.origin = Some("https://evil.example".into());
    assert_eq!(talk.status("POST", "/api/tasks/inventory-sync", "{}").await, 403);
    assert_eq!(talk.status("GET", "/api/virtual-machines", "").await, 200);
    talk.origin = Some("https://engine.example".into());
    assert_eq!(talk.status("POST", "/api/tasks/inventory-sync", "{}").await, 200);
}

/// What a backup's chain and files look like, and what has no members.
#[tokio::test(start_paused = true)]
async fn chains_files_and_figures() {
    let (world, mut talk) = ready().await;
    world.sync().await;
    talk.login().await;
    let vm = world.vm("web01").await.id;
    talk.post("/api/virtual-machines/incremental-not-possible", json!({ "entities": [{ "guid": vm }] })).await;
    talk.quietly(async |talk| {
        let answer = talk.post("/api/tasks/export", json!({ "protectedEntities": [vm] })).await;
        world.wait(text(&answer[0]["workflowExecution"]["guid"]).parse().unwrap()).await;
    })
    .await;
    talk.post("/api/virtual-machines/incremental-not-possible", json!({ "entities": [{ "guid": vm }] })).await;
    let chains =
        talk.get("/api/workflow-executions?page=0&size=40&orderBy=state&direction=desc&filter=&showLoader=true").await;
    let backup = text(&talk.quiet_get("/api/backups").await[0]["guid"]);
    talk.get(&format!("/api/backup-files?backup={backup}")).await;
    talk.get(&format!("/api/backup-files/detailed/for-restore?backup={backup}&with-modified-configs=true&size=1"))
        .await;
    talk.get("/api/backup-files").await;
    talk.get("/api/dashboard/protection").await;
    talk.get("/api/dashboard/backup-stats").await;
    talk.get("/api/dashboard/staging-space").await;
    talk.get("/api/dashboard/backup-destination-stats").await;
    world.portolan.access.tenants.create(&me(), "tenant-a", "b1946ac92492d2347c6235b4d2611184").await.unwrap();
    talk.get("/api/projects?hypervisor-manager=undefined").await;
    for path in ["snapshots", "virtual-machine-flavors", "network", "network/shared", "schedules", "mounted-backups"] {
        talk.get(&format!("/api/{path}")).await;
    }
    talk.post("/api/policies/vm-backup", json!({ "name": "gold" })).await;
    talk.raw("DELETE", &format!("/api/workflow-executions/{}", text(&chains[0]["guid"])), "").await;
    talk.raw("DELETE", &format!("/api/workflow-executions/{}", text(&chains[0]["guid"])), "").await;
    insta::assert_snapshot!(talk.text());
}

/// What is served is what is committed: `cargo xtask openapi` writes the file, and so does this test where
/// `UPDATE_OPENAPI` is set.
#[test]
fn the_committed_document_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi/vplus.json");
    let generated = portolan_api_vplus::document().to_pretty_json().unwrap();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, format!("{generated}\n")).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed.trim_end() == generated.trim_end(),
        "run `cargo xtask openapi` and commit docs/openapi/vplus.json"
    );
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
