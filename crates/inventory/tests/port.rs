//! What a sync asks of a platform, and no more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use async_trait::async_trait;
use mockall::mock;
use portolan_driver::{
    AbandonedExport, Capabilities, DriverError, ExportRequest, ExportSession, Hypervisor, ImportRequest, ImportSession,
    Inventory as Listing,
};
use portolan_inventory::{CloudRules, Drivers, Inventory, NewPlatform};
use portolan_model::{Caller, Name, Platform, PlatformId};
use portolan_storage::MemoryStorage;
use portolan_testkit::clock::{FakeClock, SeededIds};
use std::sync::Arc;

mock! {
    Driver {}

    #[async_trait]
    impl Hypervisor for Driver {
        fn capabilities(&self) -> Capabilities;
        async fn inventory(&self) -> Result<Listing, DriverError>;
        async fn open_export(&self, request: ExportRequest) -> Result<Box<dyn ExportSession>, DriverError>;
        async fn abandon_export(&self, export: AbandonedExport) -> Result<(), DriverError>;
        async fn begin_import(&self, request: ImportRequest) -> Result<Box<dyn ImportSession>, DriverError>;
    }
}

async fn inventory_over(driver: MockDriver) -> (Inventory, PlatformId) {
    let inventory = Inventory::new(
        Arc::new(MemoryStorage::new()),
        Drivers::default(),
        Arc::new(FakeClock::default()),
        Arc::new(SeededIds::new(1)),
        CloudRules::default(),
        Arc::default(),
    );
    let new = NewPlatform {
        name: Name::new("lab").unwrap(),
        driver: "mock".into(),
        url: "mock:lab".into(),
        settings: Default::default(),
        declared: false,
    };
    let platform = inventory.register_platform(&Caller::system(), new, Arc::new(driver)).await.unwrap();
    (inventory, platform.id)
}

/// A listing may be expensive: registering asks for none, and a sync for exactly one. Nothing is exported or imported.
#[tokio::test]
async fn a_sync_takes_one_listing() {
    let mut driver = MockDriver::new();
    driver.expect_inventory().times(1).returning(|| Ok(Listing::default()));
    driver.expect_open_export().never();
    driver.expect_begin_import().never();
    let (inventory, platform) = inventory_over(driver).await;
    assert_eq!(inventory.sync_platform(platform, None).await.unwrap().vms, 0);
}

/// A refusal is shown, is not asked for again by the sync itself, and goes away with the next complete listing.
#[tokio::test]
async fn a_refusal_is_shown_until_a_listing_is_complete() {
    let mut driver = MockDriver::new();
    driver.expect_inventory().times(1).returning(|| Err(DriverError::Auth));
    driver.expect_inventory().times(1).returning(|| Ok(Listing::default()));
    let (inventory, id) = inventory_over(driver).await;
    inventory.sync_platform(id, None).await.unwrap_err();
    let shown = inventory.one::<Platform>(&Caller::system(), id).await.unwrap();
    assert!(shown.last_error.contains("credentials") && shown.last_sync.is_none(), "{shown:?}");
    inventory.sync_platform(id, None).await.unwrap();
    let shown = inventory.one::<Platform>(&Caller::system(), id).await.unwrap();
    assert!(shown.last_error.is_empty() && shown.last_sync.is_some(), "{shown:?}");
}
