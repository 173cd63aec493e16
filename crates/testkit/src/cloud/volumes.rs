//! Point 9: volumes and their snapshots.

use super::{CloudFixture, declared, kind, running};
use portolan_driver::{Capability, CloudDriver, CloudDriverExt, CloudErrorKind, CloudVolume, CreateVolume};
use portolan_model::dialect::libcloud::{VolumeSnapshotState, VolumeState};
use std::sync::Arc;

/// A volume is made, attached, detached and destroyed; in the wrong state that is a `Conflict`.
pub async fn volumes(f: &impl CloudFixture) {
    let driver = f.driver();
    if !declared(&driver, Capability::Volumes).await || !driver.capabilities().has(Capability::CreateNode) {
        return;
    }
    let node = running(f, &driver, "holder", "holder").await.reference();
    let other = running(f, &driver, "other", "other").await.reference();
    let volume = available(f, &driver, create(&driver, "data", None).await).await;
    assert_eq!((volume.size_gb, volume.name.as_str()), (1, "data"));
    assert_eq!(kind(driver.detach_volume(&volume.id).await), CloudErrorKind::Conflict, "it is not attached");

    driver.attach_volume(&node, &volume.id, None).await.expect("attached");
    let attached = volume_in(f, &driver, &volume.id, VolumeState::InUse).await;
    assert_eq!(attached.attached_to.as_deref(), Some(node.id.as_str()));
    for again in [&node, &other] {
        assert_eq!(kind(driver.attach_volume(again, &volume.id, None).await), CloudErrorKind::Conflict);
    }
    assert_eq!(kind(driver.destroy_volume(&volume.id).await), CloudErrorKind::Conflict, "it is attached");

    driver.detach_volume(&volume.id).await.expect("detached");
    let free = volume_in(f, &driver, &volume.id, VolumeState::Available).await;
    assert_eq!((free.attached_to, free.device.as_str()), (None, ""));
    driver.destroy_volume(&volume.id).await.expect("destroyed");
    assert_eq!(kind(driver.destroy_volume(&volume.id).await), CloudErrorKind::NotFound);
    assert_eq!(kind(driver.attach_volume(&node, &volume.id, None).await), CloudErrorKind::NotFound);
}

/// A snapshot is taken, listed with its volume, made a volume of, and destroyed.
pub async fn volume_snapshots(f: &impl CloudFixture) {
    let driver = f.driver();
    let has = declared(&driver, Capability::VolumeSnapshots).await & declared(&driver, Capability::Volumes).await;
    if !has {
        return;
    }
    let volume = available(f, &driver, create(&driver, "data", None).await).await;
    let other = available(f, &driver, create(&driver, "other", None).await).await;
    let snapshot = driver.create_volume_snapshot(&volume.id, Some("before")).await.expect("a snapshot");
    assert_eq!(snapshot.volume, volume.id);
    let mut whole = false;
    for _ in 0..1000 {
        let listed = driver.volume_snapshots(&volume.id).await.expect("snapshots");
        assert_eq!(listed.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), [snapshot.id.as_str()]);
        whole = listed.iter().all(|s| s.state == VolumeSnapshotState::Available);
        if whole {
            break;
        }
        f.settle().await;
    }
    assert!(whole, "the snapshot never came to be available");
    assert_eq!(driver.volume_snapshots(&other.id).await.expect("snapshots"), []);

    let copy = available(f, &driver, create(&driver, "copy", Some(&snapshot.id)).await).await;
    driver.destroy_volume_snapshot(&snapshot.id).await.expect("destroyed");
    assert_eq!(kind(driver.destroy_volume_snapshot(&snapshot.id).await), CloudErrorKind::NotFound);
    assert_eq!(driver.volume_snapshots(&volume.id).await.expect("snapshots"), []);
    for volume in [volume, other, copy] {
        driver.destroy_volume(&volume.id).await.expect("destroyed");
    }
}

async fn create(driver: &Arc<dyn CloudDriver>, name: &str, snapshot: Option<&str>) -> CloudVolume {
    let (name, snapshot) = (name.to_owned(), snapshot.map(str::to_owned));
    driver.create_volume(&CreateVolume { name, size_gb: 1, location: None, snapshot }).await.expect("a volume")
}

async fn available(f: &impl CloudFixture, driver: &Arc<dyn CloudDriver>, volume: CloudVolume) -> CloudVolume {
    volume_in(f, driver, &volume.id, VolumeState::Available).await
}

async fn volume_in(f: &impl CloudFixture, driver: &Arc<dyn CloudDriver>, id: &str, state: VolumeState) -> CloudVolume {
    for _ in 0..1000 {
        let listed = driver.volumes().await.expect("volumes").into_iter().filter(|volume| volume.id == id);
        let [volume] = <[CloudVolume; 1]>::try_from(listed.collect::<Vec<_>>()).expect("it is listed once");
        if volume.state == state {
            return volume;
        }
        f.settle().await;
    }
    panic!("the volume {id} never came to be {state:?}");
}
