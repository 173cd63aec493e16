//! Points 8, 11 and 13: logins of new nodes, many creations and lost ones, names.

use super::{CloudFixture, declared, kind, logins, wish};
use portolan_driver::{
    Capability, CloudCall, CloudDriver, CloudDriverExt, CloudErrorKind, CloudNode, Faults, NodeAuth,
};
use portolan_model::Secret;
use portolan_model::dialect::libcloud::CreateNodeFeature;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Every login that the driver declares is taken, a generated password is told once, and none of it is printed.
pub async fn logins_of_new_nodes(f: &impl CloudFixture) {
    let driver = f.driver();
    if !declared(&driver, Capability::CreateNode).await {
        return;
    }
    for (feature, auth) in logins() {
        if driver.create_features().contains(&feature) {
            let mut wish = wish(&driver, "login", &format!("login-{feature:?}")).await;
            wish.auth = Some(auth);
            let made = driver.create_node(&wish).await.expect("a node");
            let printed = format!("{wish:?} {made:?} {:?}", driver.nodes().await);
            assert!(!printed.contains("Correct-Horse"), "{printed}");
        }
    }
    if driver.create_features().contains(&CreateNodeFeature::Password) {
        // A provider may take it; if not, its complaint must not repeat it.
        let mut wish = wish(&driver, "weak", "weak").await;
        wish.auth = Some(NodeAuth::Password(Secret::new("w3ak")));
        if let Err(e) = driver.create_node(&wish).await {
            assert_eq!(e.kind, CloudErrorKind::Invalid, "{e}");
            assert!(!format!("{e} {e:?}").contains("w3ak"), "{e:?}");
        }
    }
    let made = driver.create_node(&wish(&driver, "generated", "generated").await).await.expect("a node");
    let generates = driver.create_features().contains(&CreateNodeFeature::GeneratesPassword);
    assert_eq!(made.password.is_some(), generates);
    if let Some(password) = &made.password {
        let printed = format!("{made:?} {:?}", driver.nodes().await);
        assert!(!password.reveal().is_empty() && !printed.contains(password.reveal()), "{printed}");
    }
}

/// Fifty creations on one driver at once are fifty nodes, each with its own token.
pub async fn many_creates_at_once(f: &impl CloudFixture) {
    let driver = f.driver();
    if !declared(&driver, Capability::CreateNode).await {
        return;
    }
    let made = create_all(&driver, (0..50).map(|n| format!("many-{n}")).collect()).await;
    let distinct: BTreeSet<_> = made.iter().map(CloudNode::reference).collect();
    assert_eq!(distinct.len(), 50);
    let tokens: BTreeSet<_> =
        driver.nodes().await.expect("nodes").iter().filter_map(|node| node.token.clone()).collect();
    assert!((0..50).all(|n| tokens.contains(&format!("many-{n}"))), "{tokens:?}");
}

/// Creations of one token are one node, from one driver and from another, one after the other and at once.
pub async fn equal_tokens_are_one_node(f: &impl CloudFixture) {
    let driver = f.driver();
    if !driver.capabilities().has(Capability::IdempotentCreate) {
        // It is no call: there is nothing to refuse.
        return;
    }
    let before = driver.nodes().await.expect("nodes").len();
    let made = create_all(&driver, vec!["same".to_owned(); 20]).await;
    let distinct: BTreeSet<_> = made.iter().map(CloudNode::reference).collect();
    assert_eq!(distinct.len(), 1);
    let other = f.driver();
    let again = other.create_node(&wish(&other, "same", "same").await).await.expect("a node").node;
    assert!(distinct.contains(&again.reference()));
    assert_eq!(driver.nodes().await.expect("nodes").len(), before + 1);
}

async fn create_all(driver: &Arc<dyn CloudDriver>, tokens: Vec<String>) -> Vec<CloudNode> {
    let wish = wish(driver, "many", "").await;
    let callers: Vec<_> = tokens
        .into_iter()
        .map(|token| {
            let (driver, mut wish) = (driver.clone(), wish.clone());
            wish.token = token;
            tokio::spawn(async move { driver.create_node(&wish).await })
        })
        .collect();
    let mut made = Vec::new();
    for caller in callers {
        made.push(caller.await.expect("no panic").expect("a node").node);
    }
    made
}

/// A creation that nobody waited for to its end, by its caller's will or by a crash, leaves a node that its token
/// finds, also for a driver that was made later.
pub async fn a_lost_answer_is_found_by_its_token(f: &impl CloudFixture) {
    let faults = Faults::new(f.driver());
    let driver: Arc<dyn CloudDriver> = faults.clone();
    if !declared(&driver, Capability::CreateNode).await {
        return;
    }
    let held = faults.hold_after(CloudCall::CreateNode, 1);
    let lost = wish(&driver, "lost", "lost").await;
    let caller = tokio::spawn({
        let (driver, lost) = (driver.clone(), lost.clone());
        async move { driver.create_node(&lost).await.map(drop) }
    });
    held.arrived(1).await;
    caller.abort();
    assert!(caller.await.is_err_and(|e| e.is_cancelled()));
    let later = f.driver();
    let found = later.node_of_token("lost").await.expect("nodes").expect("the orphan");
    assert_eq!(found.token.as_deref(), Some("lost"));
    assert_eq!(later.node_of_token("never").await.expect("nodes"), None);

    // One that is dropped before it went out leaves nothing.
    let held = faults.hold_before(CloudCall::CreateNode, 1);
    let never = wish(&driver, "never", "never").await;
    let caller = tokio::spawn({
        let driver = driver.clone();
        async move { driver.create_node(&never).await.map(drop) }
    });
    held.arrived(1).await;
    caller.abort();
    assert!(caller.await.is_err_and(|e| e.is_cancelled()));
    assert_eq!(later.node_of_token("never").await.expect("nodes"), None);
}

/// Names of every script and length, and metadata of every shape, are taken or refused as `Invalid`: with nothing
/// half made.
pub async fn names_of_every_kind(f: &impl CloudFixture) {
    let driver = f.driver();
    if !declared(&driver, Capability::CreateNode).await {
        return;
    }
    let long = "n".repeat(255);
    let too_long = "大".repeat(256);
    let names = ["Größe 大 🚢", "a/b?c=d&e%20", "\"quoted\" <b>", "-dash.dot-", "x", &long, &too_long];
    for (n, name) in names.into_iter().enumerate() {
        let token = format!("name-{n}");
        let mut wish = wish(&driver, name, &token).await;
        wish.metadata.insert("Größe".to_owned(), json!({ "deep": [1, null, { "": true }] }));
        wish.metadata.insert(String::new(), json!(null));
        let made = driver.create_node(&wish).await;
        let found = driver.node_of_token(&token).await.expect("nodes");
        match made {
            Ok(made) => assert_eq!(found.map(|node| node.name), Some(made.node.name), "{name}"),
            Err(e) => assert_eq!((e.kind, found), (CloudErrorKind::Invalid, None), "{name}: {e}"),
        }
    }
    if driver.capabilities().has(Capability::DestroyNode) {
        let odd = portolan_driver::NodeRef { id: "../größe?x=%00".to_owned(), incarnation: "💥".to_owned() };
        assert_eq!(kind(driver.destroy_node(&odd).await), CloudErrorKind::NotFound);
    }
}
