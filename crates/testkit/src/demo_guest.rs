//! Where the demo guest is, which `cargo xtask demo-guest` makes.

use std::path::PathBuf;

/// The image that tests on real guests boot: the one that `PORTOLAN_DEMO_GUEST` names, else the one that
/// `cargo xtask demo-guest` put into the cache. Fails with a text that says what to do.
pub fn image() -> Result<PathBuf, String> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cached = || {
        let cache = var("PORTOLAN_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("portolan")))
            .unwrap_or_else(|| var("HOME").unwrap_or_else(|| PathBuf::from("/tmp")).join(".cache/portolan"));
        cache.join("guest/demo-guest.qcow2")
    };
    let image = var("PORTOLAN_DEMO_GUEST").unwrap_or_else(cached);
    if image.is_file() {
        return Ok(image);
    }
    Err(format!("there is no demo guest at {}: make it with `cargo xtask demo-guest`", image.display()))
}
