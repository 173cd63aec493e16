//! Point 1: a driver does what it declares, and refuses the rest before anything goes out.

use super::{CloudFixture, kind, wish};
use portolan_driver::{
    Capability, CloudCall, CloudDriver, CloudDriverExt, CloudError, CloudErrorKind, CreateNode, CreateVolume, Extra,
    NodeAuth, NodeRef,
};
use portolan_model::Secret;
use portolan_model::dialect::libcloud::CreateNodeFeature;
use std::sync::Arc;

/// A call whose capability the driver does not declare is `Unsupported`; one that it declares is anything else.
pub async fn undeclared_calls_are_unsupported(f: &impl CloudFixture) {
    let driver = f.driver();
    for call in CloudCall::ALL {
        let declared = call.needs().is_none_or(|needed| driver.capabilities().has(needed));
        let answer = ask(&driver, *call).await;
        let unsupported = matches!(&answer, Err(e) if e.kind == CloudErrorKind::Unsupported);
        assert_eq!(!declared, unsupported, "{call}: {answer:?}");
        if let Err(e) = answer {
            // Placeholders name nothing that is there.
            let fine = [CloudErrorKind::NotFound, CloudErrorKind::Invalid, CloudErrorKind::Unsupported];
            assert!(fine.contains(&e.kind), "{call}: {e}");
        }
    }
    let info = driver.info();
    assert!(!info.provider.is_empty() && !info.display_name.is_empty() && !info.host.is_empty(), "{info:?}");
}

/// Nothing goes out for a call that the driver does not declare, nor to say what it can do.
pub async fn undeclared_calls_do_not_go_out(f: &impl CloudFixture) {
    let backend = f.backend().expect("a back end");
    let driver = f.driver();
    let before = (backend.requests().await, backend.logins().await);
    let (_, _, _) = (driver.info(), driver.capabilities(), driver.create_features());
    for call in CloudCall::ALL {
        if call.needs().is_some_and(|needed| !driver.capabilities().has(needed)) {
            assert_eq!(kind(ask(&driver, *call).await), CloudErrorKind::Unsupported, "{call}");
        }
    }
    assert_eq!((backend.requests().await, backend.logins().await), before);
}

/// A login for a new node of a kind that the driver does not declare is `Unsupported`, and makes nothing.
pub async fn undeclared_logins_are_unsupported(f: &impl CloudFixture) {
    let driver = f.driver();
    if !declared(&driver, Capability::CreateNode).await {
        return;
    }
    let before = driver.nodes().await.expect("nodes").len();
    for (feature, auth) in logins() {
        if !driver.create_features().contains(&feature) {
            let mut wish = wish(&driver, "no-such-login", "no-such-login").await;
            wish.auth = Some(auth);
            assert_eq!(kind(driver.create_node(&wish).await), CloudErrorKind::Unsupported, "{feature:?}");
        }
    }
    assert_eq!(driver.nodes().await.expect("nodes").len(), before);
}

/// Whether the driver declares it. If not, makes sure that every call that needs it is refused.
pub(crate) async fn declared(driver: &Arc<dyn CloudDriver>, capability: Capability) -> bool {
    if driver.capabilities().has(capability) {
        return true;
    }
    for call in CloudCall::ALL.iter().filter(|call| call.needs() == Some(capability)) {
        assert_eq!(kind(ask(driver, *call).await), CloudErrorKind::Unsupported, "{call}");
    }
    false
}

/// One login of each kind.
pub(crate) fn logins() -> [(CreateNodeFeature, NodeAuth); 2] {
    [
        (CreateNodeFeature::SshKey, NodeAuth::SshKey("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO suite".to_owned())),
        (CreateNodeFeature::Password, NodeAuth::Password(Secret::new("Correct-Horse-7"))),
    ]
}

/// Makes a call with arguments that name nothing.
async fn ask(driver: &Arc<dyn CloudDriver>, call: CloudCall) -> Result<(), CloudError> {
    let node = NodeRef { id: "no-such-node".to_owned(), incarnation: String::new() };
    let id = "no-such-thing";
    match call {
        CloudCall::ListNodes => driver.list_nodes(None).await.map(drop),
        CloudCall::CreateNode => {
            let (name, token) = ("honest".to_owned(), "honest".to_owned());
            let (image, size) = (id.to_owned(), id.to_owned());
            let metadata = Extra::new();
            let wish = CreateNode { name, image, size, location: None, key_pair: None, auth: None, metadata, token };
            driver.create_node(&wish).await.map(drop)
        }
        CloudCall::StartNode => driver.start_node(&node).await,
        CloudCall::StopNode => driver.stop_node(&node).await,
        CloudCall::RebootNode => driver.reboot_node(&node).await,
        CloudCall::DestroyNode => driver.destroy_node(&node).await,
        CloudCall::ListSizes => driver.list_sizes(None, None).await.map(drop),
        CloudCall::ListImages => driver.list_images(None, None).await.map(drop),
        CloudCall::GetImage => driver.get_image(id).await.map(drop),
        CloudCall::CreateImage => driver.create_image(&node, "honest", "").await.map(drop),
        CloudCall::DeleteImage => driver.delete_image(id).await,
        CloudCall::ListLocations => driver.list_locations(None).await.map(drop),
        CloudCall::ListKeyPairs => driver.list_key_pairs(None).await.map(drop),
        CloudCall::GetKeyPair => driver.get_key_pair(id).await.map(drop),
        CloudCall::CreateKeyPair => driver.create_key_pair("honest-made").await.map(drop),
        CloudCall::ImportKeyPair => driver.import_key_pair("honest", "ssh-ed25519 AAAA suite").await.map(drop),
        CloudCall::DeleteKeyPair => driver.delete_key_pair(id).await,
        CloudCall::ListVolumes => driver.list_volumes(None).await.map(drop),
        CloudCall::CreateVolume => {
            let (name, snapshot) = ("honest".to_owned(), Some(id.to_owned()));
            driver.create_volume(&CreateVolume { name, size_gb: 1, location: None, snapshot }).await.map(drop)
        }
        CloudCall::AttachVolume => driver.attach_volume(&node, id, None).await,
        CloudCall::DetachVolume => driver.detach_volume(id).await,
        CloudCall::DestroyVolume => driver.destroy_volume(id).await,
        CloudCall::ListVolumeSnapshots => driver.list_volume_snapshots(id, None).await.map(drop),
        CloudCall::CreateVolumeSnapshot => driver.create_volume_snapshot(id, None).await.map(drop),
        CloudCall::DestroyVolumeSnapshot => driver.destroy_volume_snapshot(id).await,
        other => panic!("the suite does not know the call {other}"),
    }
}
