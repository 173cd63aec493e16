//! The kinds of tasks that Portolan runs. Crates that never meet hand work to one another by these names.

/// Lists a platform and writes what has changed.
pub const INVENTORY_SYNC: &str = "inventory-sync";
/// Reads a machine's disks into an uncommitted repository session.
pub const EXPORT: &str = "export";
/// Commits the session: from then on the backup exists.
pub const STORE: &str = "store";
/// Cleans up after a backup chain that did not end well.
pub const BACKUP_CLEANUP: &str = "backup-cleanup";
/// Writes a recovery point's disks to a platform, not yet visible there.
pub const RESTORE: &str = "restore";
/// Makes the restored machine visible.
pub const IMPORT: &str = "import";
/// Cleans up after a restore chain that did not end well.
pub const RESTORE_CLEANUP: &str = "restore-cleanup";
/// Reads a recovery point and checks every byte.
pub const VERIFY: &str = "verify";
/// Proves a recovery point by booting it.
pub const TRIAL_BOOT: &str = "trial-boot";
/// Runs a machine from a recovery point, and brings its data home meanwhile.
pub const INSTANT_RESTORE: &str = "instant-restore";
/// Cleans up after a machine that ran from a recovery point and was given up.
pub const INSTANT_CLEANUP: &str = "instant-cleanup";
/// Makes a second machine out of a machine.
pub const CLONE: &str = "clone";
/// Cleans up after a clone that did not end well.
pub const CLONE_CLEANUP: &str = "clone-cleanup";
/// Turns a machine on or off.
pub const POWER: &str = "machine-power";
/// Brings a machine's disks to another datastore.
pub const MOVE: &str = "machine-move";
/// Makes a snapshot of a machine.
pub const SNAPSHOT: &str = "snapshot";
/// Reverts a machine to a snapshot.
pub const SNAPSHOT_REVERSION: &str = "snapshot-reversion";
/// Deletes a snapshot of a machine.
pub const SNAPSHOT_REMOVAL: &str = "snapshot-removal";
/// Makes a node in a cloud.
pub const NODE_START: &str = "node-start";
/// Destroys a node of a cloud.
pub const NODE_STOP: &str = "node-stop";
/// Destroys a node that its user gave back, after a while.
pub const NODE_RELEASE: &str = "node-release";

/// Kinds that clean up behind the scenes: dialects do not list them.
pub const INTERNAL: &[&str] = &[BACKUP_CLEANUP, RESTORE_CLEANUP, INSTANT_CLEANUP, CLONE_CLEANUP];
