//! The demo guest under TCG: a whole life.

mod common;

use common::{LONG, Place, comes_to, console_says, open, own, wish};
use portolan_driver_qemu::{FreezeStatus, GuestState};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_boots_answers_stops_reboots_and_outlives_the_driver() {
    let place = Place::with_demo();
    let host = open(place.demo_settings()).await;
    let mut seeded = wish("demo", "demo");
    seeded.user_data = Some("#!/bin/sh\necho SEEDED-AND-RUN\n".into());
    seeded.ssh_key = Some("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO test".into());
    let guest = own(host.create(seeded).await.unwrap());
    console_says(&guest, "GUEST-READY boots=1").await;
    comes_to(&guest, GuestState::Running).await;
    console_says(&guest, &format!("GUEST-SEED {}", guest.id())).await;
    console_says(&guest, "SEEDED-AND-RUN").await;

    let mut agent = guest.agent(LIMIT).await.unwrap();
    agent.ping().await.unwrap();
    let done = agent.exec("/bin/sh", &["-c", "echo out; echo err >&2; exit 3"], LIMIT).await.unwrap();
    assert_eq!((done.exit_code, &done.stdout[..], &done.stderr[..]), (Some(3), &b"out\n"[..], &b"err\n"[..]));
    assert_eq!(agent.fsfreeze_status().await.unwrap(), FreezeStatus::Thawed);
    assert_eq!(agent.fsfreeze_freeze(LIMIT).await.unwrap(), 1);
    drop(agent);
    // Another session finds it frozen, and thaws it.
    let mut agent = guest.agent(LIMIT).await.unwrap();
    assert_eq!(agent.fsfreeze_status().await.unwrap(), FreezeStatus::Frozen);
    assert_eq!(agent.fsfreeze_thaw(LIMIT).await.unwrap(), 1);
    let cards = agent.network_interfaces().await.unwrap();
    let mac = &guest.spec().nics[0].mac;
    assert!(cards.iter().any(|card| card.hardware_address.as_ref() == Some(mac)), "{cards:?}");
    let refused = agent.exec("/no/such/program", &[], LIMIT).await;
    assert!(matches!(refused, Err(portolan_driver_qemu::QgaError::Refused { .. })), "{refused:?}");
    agent.ping().await.expect("a refusal does not end the session");
    drop(agent);
    let addresses = async {
        while guest.addresses() != ["10.0.2.15"] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // An agent that is slow to answer is asked again half a minute later.
    tokio::time::timeout(LONG, addresses).await.expect("its address");
    assert!(guest.block_counters().await.unwrap()[0].1.rd_bytes > 1 << 20);

    guest.stop().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    assert_eq!(guest.observed().reason.as_deref(), Some("guest-shutdown"), "it shut itself down");
    guest.start().await.unwrap();
    console_says(&guest, "GUEST-READY boots=2").await;
    comes_to(&guest, GuestState::Running).await;
    let pid = guest.pid();
    guest.reboot().await.unwrap();
    console_says(&guest, "GUEST-READY boots=3").await;
    comes_to(&guest, GuestState::Running).await;
    assert_eq!(guest.pid(), pid, "the same process");

    // Another Portolan takes it over while it runs. This one knows no agents: the power button has to do.
    let (id, incarnation) = (guest.id().to_owned(), guest.spec().incarnation);
    drop(guest);
    host.close().await;
    drop(host);
    let mut settings = place.demo_settings();
    settings.agent_stop_secs = 0;
    let host = open(settings).await;
    let guest = host.guest(&id, &incarnation).await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    assert_eq!(guest.pid(), pid, "the same process, still");
    guest.agent(LIMIT).await.unwrap().ping().await.unwrap();
    guest.stop().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    assert_eq!(guest.observed().reason.as_deref(), Some("guest-shutdown"));
    host.destroy(&id, &incarnation).await.unwrap();
    assert_eq!(place.processes(), [0_u32; 0]);
    assert!(!place.root().join("guests").join(&id).exists());
    assert!(!place.root().join("datastores/default").join(&id).exists());
}
