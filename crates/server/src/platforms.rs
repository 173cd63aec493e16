//! Platforms and clouds: those of the configuration, registered at every start, and those that operators registered.

use crate::config::{CloudConfig, Config, DestinationConfig, PlatformConfig};
use crate::core::Core;
use crate::error::{Failure, OrFail};
use crate::factories::guarded;
use portolan_driver::{CloudDriver, DummyCloud};
use portolan_driver_images::ImagesHypervisor;
use portolan_inventory::NewPlatform;
use portolan_model::{Caller, Name, PlatformId};
use std::path::PathBuf;
use std::sync::Arc;

/// Registers what stands in the configuration.
///
/// # Errors
/// When a name belongs to a platform of another driver, or the database fails.
pub(crate) async fn register(core: &Core, config: &Config) -> Result<Vec<PlatformId>, Failure> {
    let mut platforms = Vec::new();
    for platform in &config.platforms {
        platforms.push(register_platform(core, platform).await?);
    }
    for cloud in &config.clouds {
        platforms.push(register_cloud(core, cloud).await?);
    }
    Ok(platforms)
}

/// Opens what operators registered, beside what the configuration says. What is out of reach keeps nothing down.
pub(crate) async fn open_registered(core: &Core, config: &Config, plans: &[DestinationConfig]) -> Result<(), Failure> {
    let registry = &core.portolan.registry;
    let platforms = config.platforms.iter().map(|p| p.name.as_str());
    let platforms: Vec<&str> = platforms.chain(config.clouds.iter().map(|c| c.name.as_str())).collect();
    let destinations: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
    let what = || "what is registered cannot be read from the database".to_owned();
    registry.settle_declared(&platforms, &destinations).await.or_fail(what)?;
    registry.open_all().await.or_fail(what)
}

async fn register_platform(core: &Core, platform: &PlatformConfig) -> Result<PlatformId, Failure> {
    if platform.driver != crate::qemu::NAME && !platform.root.is_dir() {
        tracing::warn!(
            platform = %platform.name,
            root = %platform.root.display(),
            "the platform's directory is missing; it is looked for at every listing"
        );
    }
    let what = || format!("the platform '{}' cannot be registered", platform.name);
    let name = Name::new(&platform.name).or_fail(what)?;
    let root: PathBuf = platform.root.clone();
    let url = root.display().to_string();
    if platform.driver == crate::qemu::NAME {
        // Opened with those that operators registered: QEMU may be missing or broken just now.
        let mut settings = platform.settings.clone();
        settings.insert("root".into(), url.clone());
        let new = NewPlatform { name, driver: platform.driver.clone(), url, settings, declared: true };
        let registered = core.portolan.inventory.register_declared(&Caller::system(), new).await;
        return Ok(registered.or_fail(what)?.id);
    }
    let driver = Arc::new(ImagesHypervisor::new(root, core.ids.clone()));
    let new = NewPlatform { name, driver: platform.driver.clone(), url, settings: Default::default(), declared: true };
    let registered = core.portolan.inventory.register_platform(&Caller::system(), new, driver).await;
    Ok(registered.or_fail(what)?.id)
}

async fn register_cloud(core: &Core, cloud: &CloudConfig) -> Result<PlatformId, Failure> {
    let what = || format!("the cloud '{}' cannot be registered", cloud.name);
    let name = Name::new(&cloud.name).or_fail(what)?;
    let nodes = cloud.nodes.map(|n| ("nodes".to_owned(), n.to_string()));
    let new = NewPlatform {
        name,
        driver: cloud.driver.clone(),
        url: format!("{}://{}", cloud.driver, cloud.name),
        settings: nodes.into_iter().collect(),
        declared: true,
    };
    let inventory = &core.portolan.inventory;
    let make = |id: PlatformId| -> Arc<dyn CloudDriver> {
        let state = inventory.driver_state(id);
        let dummy = DummyCloud::new(state, core.ids.clone()).with_nodes(cloud.nodes.unwrap_or_default());
        guarded(Arc::new(dummy), &core.ids)
    };
    let registered = inventory.register_cloud(&Caller::system(), new, make).await;
    Ok(registered.or_fail(what)?.id)
}
