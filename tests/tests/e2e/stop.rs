//! How the server stops.

use portolan_e2e::{Disk, PATIENCE, Site, until};
use rustix::process::Signal;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_terminated_server_ends_well_and_its_work_goes_on_later() {
    let site = Site::new();
    site.machine("web", &[("root.raw", &Disk::noise(1, 48))]);
    let mut server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let task = api.export(&vm, "FULL").await;
    server.signal(Signal::TERM);
    let status = server.ended().await;
    assert!(status.success(), "{status}: {}", server.log());
    assert!(tokio::net::TcpStream::connect(server.address()).await.is_err());

    let server = site.start().await;
    let api = server.api(&site).await;
    api.chain(&task, 2).await.assert_finished(&["EXPORT", "STORE"]);
    assert_eq!(api.backups(&vm).await.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut site = Site::new();
    site.set("server.shutdown_grace", "10m");
    site.machine("web", &[("root.raw", &Disk::noise(2, 96))]);
    let mut server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let task = api.export(&vm, "FULL").await;
    until("the export to run", async || {
        let state = api.tasks_of(&task).await;
        (state[0]["state"]["name"] == "RUNNING").then_some(())
    })
    .await;
    let start = Instant::now();
    server.signal(Signal::TERM);
    // The listener closes first: then the first signal has been understood.
    until("the listener to close", async || tokio::net::TcpStream::connect(server.address()).await.err().map(|_| ()))
        .await;
    if server.is_running() {
        server.signal(Signal::TERM);
    }
    server.ended().await;
    assert!(start.elapsed() < Duration::from_secs(60).min(PATIENCE), "the second signal did not count");

    // However it ended, nothing is lost.
    let server = site.start().await;
    let api = server.api(&site).await;
    api.chain(&task, 2).await.assert_finished(&["EXPORT", "STORE"]);
    server.stop().await;
}

#[tokio::test]
async fn a_hangup_takes_a_new_certificate() {
    let site = Site::empty();
    let server = site.start().await;
    let before = server.stranger(&site);
    assert_eq!(before.get("/session").await.unwrap().status, 401);
    let data = site.data().display().to_string();
    let renewed = site.run(&["cert", "renew", "--data-dir", &data]);
    assert_eq!(renewed.code, Some(0), "{}", renewed.err);
    server.signal(Signal::HUP);
    let after = server.stranger(&site);
    // Each request has a connection of its own until the new certificate is there.
    until("the new certificate", async || after.get("/session").await.ok()).await;
    server.stop().await;
}
