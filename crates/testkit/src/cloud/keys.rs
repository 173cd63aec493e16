//! Point 10: key pairs and images.

use super::{CloudFixture, declared, kind, running};
use portolan_driver::{Capability, CloudDriverExt, CloudErrorKind};

const PUBLIC_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO suite";

/// Key pairs are made and brought, each name once, the private half told once and never printed.
pub async fn key_pairs(f: &impl CloudFixture) {
    let driver = f.driver();
    let pairs = declared(&driver, Capability::KeyPairs).await;
    let mut names = Vec::new();
    if declared(&driver, Capability::CreateKeyPair).await {
        let made = driver.create_key_pair("made").await.expect("a key pair");
        let private = made.private_key.clone().expect("the private half");
        assert!(!format!("{made:?}").contains(private.reveal()) && !private.reveal().is_empty(), "{made:?}");
        assert_eq!(kind(driver.create_key_pair("made").await), CloudErrorKind::Conflict);
        names.push(made.pair.name);
    }
    if declared(&driver, Capability::ImportKeyPair).await {
        let brought = driver.import_key_pair("brought", PUBLIC_KEY).await.expect("a key pair").pair;
        assert!(!brought.fingerprint.is_empty(), "{brought:?}");
        assert_eq!(kind(driver.import_key_pair("brought", PUBLIC_KEY).await), CloudErrorKind::Conflict);
        names.push(brought.name);
    }
    if !pairs {
        return;
    }
    assert_eq!(kind(driver.get_key_pair("missing").await), CloudErrorKind::NotFound);
    assert_eq!(kind(driver.delete_key_pair("missing").await), CloudErrorKind::NotFound);
    for name in names {
        let got = driver.get_key_pair(&name).await.expect("the key pair");
        let listed = driver.key_pairs().await.expect("key pairs");
        assert_eq!(listed.iter().filter(|pair| **pair == got).count(), 1, "{listed:?}");
        driver.delete_key_pair(&name).await.expect("deleted");
        assert_eq!(kind(driver.get_key_pair(&name).await), CloudErrorKind::NotFound);
        assert_eq!(kind(driver.delete_key_pair(&name).await), CloudErrorKind::NotFound);
    }
}

/// Images are found one by one as they are listed; one that is made of a node is seen while it is made.
pub async fn images(f: &impl CloudFixture) {
    let driver = f.driver();
    if declared(&driver, Capability::Images).await {
        for image in driver.images(None).await.expect("images") {
            assert_eq!(driver.get_image(&image.id).await.expect("the image").name, image.name);
        }
        assert_eq!(kind(driver.get_image("no-such-image").await), CloudErrorKind::NotFound);
    }
    let deletes = declared(&driver, Capability::DeleteImage).await;
    if !declared(&driver, Capability::CreateImage).await || !driver.capabilities().has(Capability::CreateNode) {
        return;
    }
    let node = running(f, &driver, "model", "model").await.reference();
    let made = driver.create_image(&node, "picture", "of a node").await.expect("an image");
    assert_eq!(made.name, "picture");
    assert_eq!(driver.get_image(&made.id).await.expect("the image, already").id, made.id);
    let mut missing = node.clone();
    missing.id.push_str("-missing");
    assert_eq!(kind(driver.create_image(&missing, "nothing", "").await), CloudErrorKind::NotFound);
    if deletes {
        driver.delete_image(&made.id).await.expect("deleted");
        assert_eq!(kind(driver.get_image(&made.id).await), CloudErrorKind::NotFound);
        assert_eq!(kind(driver.delete_image(&made.id).await), CloudErrorKind::NotFound);
    }
}
