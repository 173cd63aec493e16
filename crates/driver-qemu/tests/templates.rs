//! Images that lead out of their directory, or are not what they seem, are refused before QEMU sees them.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Place, comes_to, open, own, wish};
use portolan_driver::{CloudDriver, CloudDriverExt, CloudError, CloudErrorKind};
use portolan_driver_qemu::{DiskMode, GuestState, QemuCloud, QemuError};
use std::path::Path;
use std::process::Command;

fn qemu_img(dir: &Path, args: &[&str]) {
    let done = Command::new("qemu-img").args(args).current_dir(dir).output().expect("qemu-img");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_images_are_refused() {
    let place = Place::with_blank();
    let dir = place.images();
    let outside = place.root().join("outside.raw");
    std::fs::write(&outside, vec![7; 1 << 20]).unwrap();
    let outside = outside.to_str().unwrap();
    let over = |name: &str, backing: &str, format: &str| {
        qemu_img(&dir, &["create", "-q", "-f", "qcow2", "-u", "-F", format, "-b", backing, name, "1M"]);
    };
    over("absolute.qcow2", outside, "raw");
    over("passwd.qcow2", "/etc/passwd", "raw");
    over("parent.qcow2", "../outside.raw", "raw");
    over("json.qcow2", r#"json:{"driver":"file","filename":"/etc/passwd"}"#, "raw");
    over("nbd.qcow2", "nbd+unix:///x?socket=/run/x.sock", "raw");
    over("deep.qcow2", "blank.raw/../../outside.raw", "raw");
    over("missing.qcow2", "nowhere.raw", "raw");
    over("lies.qcow2", "blank.raw", "qcow2");
    over("circle.qcow2", "other.qcow2", "qcow2");
    over("other.qcow2", "circle.qcow2", "qcow2");
    over("second.qcow2", "absolute.qcow2", "qcow2");
    let data = format!("data_file={outside},data_file_raw=on");
    qemu_img(&dir, &["create", "-q", "-f", "qcow2", "-o", &data, "data.qcow2", "1M"]);
    std::os::unix::fs::symlink(outside, dir.join("link.raw")).unwrap();
    std::fs::write(dir.join("garbage.qcow2"), b"nothing at all").unwrap();
    qemu_img(&dir, &["create", "-q", "-f", "qcow2", "short.qcow2", "1M"]);
    std::fs::File::options().write(true).open(dir.join("short.qcow2")).unwrap().set_len(90).unwrap();
    std::fs::write(place.root().join("images/vendor.vmdk"), b"x").unwrap();

    let host = place.open().await;
    let cloud = QemuCloud::new(host.clone());
    for image in [
        "absolute", "passwd", "parent", "json", "nbd", "deep", "missing", "lies", "circle", "second", "data",
        "garbage", "short",
    ] {
        let error = host.create(wish(image, image)).await.expect_err(image);
        assert!(matches!(error, QemuError::Image { .. }), "{image}: {error}");
        assert_eq!(CloudError::from(error).kind, CloudErrorKind::Invalid);
        let listed = cloud.get_image(image).await.unwrap();
        assert!(listed.extra.contains_key("refused"), "{listed:?}");
    }
    for image in ["link", "vendor", "../outside", "blank.raw", "", "."] {
        let error = host.create(wish("none", image)).await.expect_err(image);
        assert!(matches!(error, QemuError::NotFound { .. }), "{image}: {error}");
    }
    assert_eq!(cloud.nodes().await.unwrap(), [], "nothing was half made");
    assert_eq!(std::fs::read_dir(place.root().join("guests")).unwrap().count(), 0);
}

/// A chain beside each other is fine. QEMU is told all of it, and an image that changes later is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn chains_in_the_directory_are_used_and_guarded() {
    let place = Place::with_blank();
    let dir = place.images();
    qemu_img(&dir, &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "blank.raw", "middle.qcow2"]);
    qemu_img(&dir, &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "middle.qcow2", "top.qcow2"]);
    let host = place.open().await;
    let guest = own(host.create(wish("chain", "top")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    let files: Vec<_> = guest.spec().disks[0].base.iter().map(|base| base.file.clone()).collect();
    assert_eq!(files, ["top.qcow2", "middle.qcow2", "blank.raw"]);
    let nodes = guest.qmp().unwrap().execute("query-named-block-nodes", None).await.unwrap().to_string();
    for name in ["\"d0\"", "\"d0-base0\"", "\"d0-base1\"", "\"d0-base2\""] {
        assert!(nodes.contains(name), "{name}: {nodes}");
    }
    guest.power_off().await.unwrap();
    qemu_img(&dir, &["resize", "-q", "-f", "raw", "blank.raw", "2M"]);
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    let reason = guest.observed().reason.unwrap_or_default();
    assert!(reason.contains("changed since"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_needs_its_image_no_more() {
    let place = Place::with_blank();
    let mut settings = place.settings();
    settings.disk = DiskMode::Copy;
    settings.sizes[0].disk_gb = 1;
    let host = open(settings).await;
    let guest = own(host.create(wish("copy", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    guest.power_off().await.unwrap();
    std::fs::remove_file(place.images().join("blank.raw")).unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    assert_eq!(guest.spec().disks[0].size_bytes, 1 << 30);
    let inventory = guest.qmp().unwrap().execute("query-named-block-nodes", None).await.unwrap();
    let node = inventory.as_array().unwrap().iter().find(|node| node["node-name"] == "d0").unwrap().clone();
    assert_eq!(node["image"]["virtual-size"], 1_u64 << 30);
    assert_eq!(node["backing_file_depth"], 0);
}
