//! Point 2: lists.

use super::{CloudFixture, declared, running, wish};
use portolan_driver::{Capability, CloudDriver, CloudDriverExt, CloudNode};
use portolan_model::dialect::libcloud::NodeState;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Three listings of everything name the same things, each once, with an id and a name.
pub async fn lists_are_whole_and_stable(f: &impl CloudFixture) {
    let driver = f.driver();
    if driver.capabilities().has(Capability::CreateNode) {
        for n in 0..3 {
            running(f, &driver, &format!("listed-{n}"), &format!("listed-{n}")).await;
        }
    }
    let first = everything(&driver).await;
    assert_eq!(everything(&driver).await, first, "nothing changed in between");
    assert_eq!(everything(&f.driver()).await, first, "another driver sees the same");
    let unique: BTreeSet<_> = first.iter().collect();
    assert_eq!(unique.len(), first.len(), "{first:?}");
    assert!(first.iter().all(|(_, id, name)| !id.trim().is_empty() && !name.trim().is_empty()), "{first:?}");
}

/// Kind, address and name of everything that can be listed.
async fn everything(driver: &Arc<dyn CloudDriver>) -> Vec<(&'static str, String, String)> {
    let mut out = Vec::new();
    for node in driver.nodes().await.expect("nodes") {
        out.push(("node", format!("{} {}", node.id, node.incarnation), node.name.clone()));
    }
    if declared(driver, Capability::Sizes).await {
        let sizes = driver.sizes(None).await.expect("sizes");
        out.extend(sizes.into_iter().map(|size| ("size", size.id, size.name)));
    }
    if declared(driver, Capability::Images).await {
        let images = driver.images(None).await.expect("images");
        out.extend(images.into_iter().map(|image| ("image", image.id, image.name)));
    }
    if declared(driver, Capability::Locations).await {
        let locations = driver.locations().await.expect("locations");
        for place in &locations {
            let country = &place.country;
            let plain = country.is_empty() || country.len() == 2 && country.bytes().all(|b| b.is_ascii_uppercase());
            assert!(plain, "{place:?}");
        }
        out.extend(locations.into_iter().map(|place| ("location", place.id, place.name)));
    }
    if declared(driver, Capability::KeyPairs).await {
        let pairs = driver.key_pairs().await.expect("key pairs");
        out.extend(pairs.into_iter().map(|pair| ("key pair", pair.name.clone(), pair.name)));
    }
    if declared(driver, Capability::Volumes).await {
        let volumes = driver.volumes().await.expect("volumes");
        out.extend(volumes.into_iter().map(|volume| ("volume", volume.id, volume.name)));
    }
    out
}

/// A list of nothing is empty, and not an error.
pub async fn empty_list(f: &impl CloudFixture) {
    let driver = f.driver();
    if !declared(&driver, Capability::DestroyNode).await {
        return;
    }
    for node in driver.nodes().await.expect("nodes") {
        driver.destroy_node(&node.reference()).await.expect("destroyed");
    }
    for _ in 0..1000 {
        let left = driver.nodes().await.expect("nodes");
        if left.iter().all(|node| node.state == NodeState::Terminated) {
            return;
        }
        f.settle().await;
    }
    panic!("nodes are left after all were destroyed");
}

/// With one thing on a page and one that goes between pages, a list names everything else, each once.
pub async fn pages_are_followed(f: &impl CloudFixture) {
    let backend = f.backend().expect("a back end");
    let driver = f.driver();
    if !declared(&driver, Capability::CreateNode).await {
        return;
    }
    let mut made: Vec<CloudNode> = Vec::new();
    for n in 0..4 {
        let wish = wish(&driver, &format!("paged-{n}"), &format!("paged-{n}")).await;
        made.push(driver.create_node(&wish).await.expect("a node").node);
    }
    backend.set_page_size(1).await;
    let all: BTreeSet<_> = driver.nodes().await.expect("nodes").iter().map(|node| node.reference()).collect();
    assert!(made.iter().all(|node| all.contains(&node.reference())), "{all:?}");

    // Whichever node is on the first page goes before the second page is asked for, and so does the one after it.
    let page = driver.list_nodes(None).await.expect("a page");
    assert_eq!(page.items.len(), 1, "{page:?}");
    let from = page.next.expect("there is more");
    let second = driver.list_nodes(Some(&from)).await.expect("a page").items;
    let gone: Vec<_> = page.items.iter().chain(&second).map(|node| node.reference()).collect();
    for node in &gone {
        backend.remove_node(&node.id).await;
    }
    let (mut seen, mut next) = (Vec::new(), Some(from));
    while let Some(from) = next {
        let page = driver.list_nodes(Some(&from)).await.expect("a page");
        seen.extend(page.items.iter().map(|node| node.reference()));
        next = page.next;
    }
    let left: BTreeSet<_> = all.iter().filter(|node| !gone.contains(node)).cloned().collect();
    assert_eq!(seen.len(), left.len(), "each once: {seen:?}");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), left);
}
