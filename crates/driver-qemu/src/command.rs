//! QEMU's command line for a guest: a list of arguments, never a text for a shell. What takes JSON gets JSON, so that
//! no character in a path or a name means anything.

use crate::accel::Accel;
use crate::layout::{BACKUP, CONSOLE, Layout, PID, QGA, QMP, QMP2, SEED};
use crate::spec::{DiskSpec, GuestSpec, ImageFormat, NicMode};
use serde_json::{Value, json};
use std::path::Path;

/// The channel that guest agents listen on.
const AGENT: &str = "org.qemu.guest_agent.0";

/// For how many seconds QEMU may try to open a backup.
const OPEN_LIMIT: u32 = 10;
/// For how many seconds reads wait when a backup went away. After that the guest stands still: were they to wait on,
/// so would QEMU itself, in all that has to wait for its disks.
const RECONNECT_LIMIT: u32 = 5;

/// The arguments. QEMU must run in the guest's directory: its sockets are named relative to that, because the path of
/// a socket may not be long.
pub(crate) fn arguments(spec: &GuestSpec, layout: &Layout, accel: Accel, sandbox: bool) -> Vec<String> {
    let mut args = Arguments(Vec::new());
    args.flag("-nodefaults").flag("-no-user-config");
    args.two("-display", "none");
    args.two("-name", format!("guest={},process=portolan-guest", escaped(&spec.name)));
    args.two("-uuid", spec.uuid.hyphenated().to_string());
    args.two("-machine", format!("{},graphics=off", spec.machine));
    args.two("-accel", accel.argument());
    args.two("-cpu", accel.cpu());
    args.two("-smp", format!("cpus={}", spec.cpus));
    args.two("-m", format!("size={}M", spec.memory_bytes >> 20));
    args.two("-rtc", "base=utc");
    args.two("-msg", "timestamp=on,guest-name=off");
    args.two("-pidfile", PID);
    if sandbox {
        // The helper that joins a guest to a bridge is a program of its own.
        let bridged = spec.nics.iter().any(|nic| nic.mode == NicMode::Bridge);
        let (spawn, elevate) = if bridged { ("allow", "allow") } else { ("deny", "deny") };
        let rest = "obsolete=deny,resourcecontrol=deny";
        args.two("-sandbox", format!("on,{rest},spawn={spawn},elevateprivileges={elevate}"));
    }
    for (id, socket) in [("qmp0", QMP), ("qmp1", QMP2)] {
        args.two("-chardev", format!("socket,id={id},path={socket},server=on,wait=off"));
        args.two("-mon", format!("chardev={id},mode=control"));
    }
    // Appending, so that the file can be cut short while QEMU writes to it.
    args.two("-chardev", format!("file,id=console,path={CONSOLE},append=on"));
    args.two("-serial", "chardev:console");
    args.two("-chardev", format!("socket,id=qga0,path={QGA},server=on,wait=off"));
    args.device(json!({ "driver": "virtio-serial-pci", "id": "serial0" }));
    args.device(json!({ "driver": "virtserialport", "id": "agent0", "chardev": "qga0", "name": AGENT }));
    args.two("-object", json!({ "qom-type": "rng-builtin", "id": "rng0" }).to_string());
    args.device(json!({ "driver": "virtio-rng-pci", "id": "random0", "rng": "rng0" }));
    for (n, disk) in spec.disks.iter().enumerate() {
        if spec.is_remote(&disk.id) {
            args.two("-blockdev", backup(disk).to_string());
        }
        args.two("-blockdev", node(spec, disk, layout).to_string());
        let mut device = json!({ "driver": "virtio-blk-pci", "id": device_name(disk), "drive": disk.node(),
            "serial": disk.id, "bootindex": n });
        if spec.is_remote(&disk.id) {
            // When the backup is not to be had for a while, the guest is to stand still and not to see errors.
            device["rerror"] = "stop".into();
            device["werror"] = "stop".into();
        }
        args.device(device);
    }
    if spec.seed {
        let file = json!({ "driver": "file", "filename": text(&layout.guest(&spec.id).join(SEED)) });
        args.two(
            "-blockdev",
            json!({ "driver": "raw", "node-name": "seed", "read-only": true, "file": file }).to_string(),
        );
        args.device(json!({ "driver": "virtio-blk-pci", "id": "disk-seed", "drive": "seed", "serial": "seed" }));
    }
    for (n, nic) in spec.nics.iter().enumerate() {
        let id = format!("n{n}");
        let link = nic.link.as_deref().unwrap_or_default();
        let network = match nic.mode {
            NicMode::User => json!({ "type": "user", "id": id, "restrict": nic.restrict }),
            NicMode::Bridge => json!({ "type": "bridge", "id": id, "br": link }),
            NicMode::Tap => {
                json!({ "type": "tap", "id": id, "ifname": link, "script": "no", "downscript": "no" })
            }
            NicMode::None => continue,
        };
        args.two("-netdev", network.to_string());
        args.device(json!({ "driver": "virtio-net-pci", "id": format!("nic{n}"), "netdev": id, "mac": nic.mac }));
    }
    if let Some(reverting) = spec.reverting.as_ref().filter(|reverting| reverting.load) {
        args.two("-loadvm", reverting.snapshot.clone());
    }
    args.0
}

/// The device of a disk, for commands that want that.
pub(crate) fn device_name(disk: &DiskSpec) -> String {
    format!("disk-{}", disk.id)
}

/// Where QEMU has the device of a disk.
pub(crate) fn device_path(disk: &DiskSpec) -> String {
    format!("/machine/peripheral/{}", device_name(disk))
}

/// The node of what lies right below a disk.
pub(crate) fn base_node(disk: &DiskSpec) -> String {
    format!("{}-base0", disk.id)
}

/// The graph of a disk, with all that lies below its own node given here and nothing left to what headers say.
pub(crate) fn node(spec: &GuestSpec, disk: &DiskSpec, layout: &Layout) -> Value {
    let images = layout.images();
    let mut below = Value::Null;
    for (n, base) in disk.base.iter().enumerate().rev() {
        let mut layer = json!({
            "driver": base.format.name(),
            "node-name": format!("{}-base{n}", disk.id),
            "read-only": true,
            "file": { "driver": "file", "filename": text(&images.join(&base.file)), "locking": "on" },
        });
        if base.format == ImageFormat::Qcow2 {
            layer["backing"] = below;
        }
        below = layer;
    }
    // By reference: given here, QEMU would add the name out of the header to it.
    node_over(spec, disk, layout, if spec.is_remote(&disk.id) { backup_name(disk).into() } else { below })
}

/// The graph of a disk beside the one that QEMU has of it: what lies below is shared.
pub(crate) fn second_node(spec: &GuestSpec, disk: &DiskSpec, layout: &Layout) -> Value {
    let below = if disk.base.is_empty() { Value::Null } else { base_node(disk).into() };
    node_over(spec, disk, layout, below)
}

fn node_over(spec: &GuestSpec, disk: &DiskSpec, layout: &Layout, below: Value) -> Value {
    let mut node = json!({
        "driver": disk.format.name(),
        "node-name": disk.node(),
        "discard": "unmap",
        "file": {
            "driver": "file",
            "node-name": format!("{}-file", disk.node()),
            "filename": text(&layout.file(&spec.id, &disk.placed())),
            "locking": "on",
            "discard": "unmap",
        },
    });
    if disk.format == ImageFormat::Qcow2 {
        node["backing"] = below;
    }
    node
}

/// The name of the node of a disk's data in a backup.
pub(crate) fn backup_name(disk: &DiskSpec) -> String {
    format!("{}-backup", disk.id)
}

/// The disk's data in a backup. QEMU works in the guest's directory, so that the socket's path is short.
fn backup(disk: &DiskSpec) -> Value {
    json!({
        "driver": "nbd",
        "node-name": backup_name(disk),
        "read-only": true,
        "server": { "type": "unix", "path": BACKUP },
        "export": disk.id,
        "open-timeout": OPEN_LIMIT,
        "reconnect-delay": RECONNECT_LIMIT,
    })
}

/// The driver's root is text: its settings say so.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A value in QEMU's comma-separated form.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn two(&mut self, flag: &str, value: impl Into<String>) {
        self.0.push(flag.to_owned());
        self.0.push(value.into());
    }

    fn device(&mut self, device: Value) {
        self.two("-device", device.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{BaseFile, Desired, NicSpec, Phase};
    use portolan_driver::Extra;
    use portolan_model::Timestamp;
    use uuid::Uuid;

    fn spec() -> GuestSpec {
        let base = |file: &str, format| BaseFile { file: file.into(), format, length: 1, modified_ns: 1 };
        GuestSpec {
            version: 1,
            id: "i-1".into(),
            name: "a,b=c -qmp tcp:".into(),
            uuid: Uuid::nil(),
            incarnation: "x".into(),
            token: String::new(),
            cpus: 2,
            memory_bytes: 64 << 20,
            machine: "q35".into(),
            disks: vec![DiskSpec {
                id: "d0".into(),
                name: "root".into(),
                datastore: "default".into(),
                file: "d0.qcow2".into(),
                size_bytes: 1 << 30,
                format: ImageFormat::Qcow2,
                base: vec![base("top.qcow2", ImageFormat::Qcow2), base("under.raw", ImageFormat::Raw)],
                copy_of: Vec::new(),
                moved: 0,
            }],
            nics: vec![NicSpec {
                mac: "52:54:00:00:00:01".into(),
                mode: NicMode::User,
                link: None,
                restrict: true,
                name: String::new(),
            }],
            seed: true,
            tags: Vec::new(),
            metadata: Extra::new(),
            image: None,
            size: None,
            instant: None,
            snapshots: Vec::new(),
            reverting: None,
            moving: None,
            phase: Phase::Ready,
            desired: Desired::Running,
            created_at: Timestamp::from_millis(0),
            last_stop: None,
            import: None,
        }
    }

    #[test]
    fn names_and_paths_mean_nothing_to_qemu() {
        let layout = Layout { root: "/srv/a, b\"c".into() };
        let args = arguments(&spec(), &layout, Accel::Tcg, true);
        let after = |flag: &str| {
            let at = args.iter().position(|arg| arg == flag).unwrap();
            args[at + 1].clone()
        };
        assert_eq!(after("-name"), "guest=a,,b=c -qmp tcp:,process=portolan-guest");
        assert!(!args.iter().any(|arg| arg == "-qmp"));
        let disk: Value = serde_json::from_str(&after("-blockdev")).unwrap();
        assert_eq!(disk["file"]["filename"], "/srv/a, b\"c/datastores/default/i-1/d0.qcow2");
        assert_eq!(disk["node-name"], "d0");
        assert_eq!(disk["backing"]["file"]["filename"], "/srv/a, b\"c/images/top.qcow2");
        assert_eq!(disk["backing"]["backing"]["driver"], "raw");
        assert_eq!(disk["backing"]["backing"].get("backing"), None);
        assert!(after("-sandbox").contains("spawn=deny"));
        assert_eq!(after("-m"), "size=64M");
        let network: Value = serde_json::from_str(&after("-netdev")).unwrap();
        assert_eq!(network["restrict"], true);
    }
}
