//! What a new guest will be, and whether it may.

use super::{NewGuest, QemuHost, Seen};
use crate::QemuError;
use crate::image::Template;
use crate::layout::DEFAULT_DATASTORE;
use crate::settings::{DiskMode, SizeSetting};
use crate::spec::{Desired, DiskSpec, GuestSpec, ImageFormat, NicMode, NicSpec, Phase, SPEC_VERSION, is_mac, mac_of};
use portolan_driver::{Extra, NativeNic};
use std::collections::HashSet;
use uuid::Uuid;

/// The longest name of a guest, in characters.
const LONGEST_NAME: usize = 255;
/// The longest token, in bytes.
const LONGEST_TOKEN: usize = 1024;
/// The most that callers may keep with a guest, in bytes of JSON.
const MOST_METADATA: usize = 64 << 10;

impl QemuHost {
    pub(super) fn check_size(&self, size: &SizeSetting, template: &Template) -> Result<(), QemuError> {
        let settings = &self.shared.settings;
        let over = |what: String| Err(QemuError::Quota(what));
        if size.cpus > settings.max_cpus {
            return over(format!("a guest may have {} processors", settings.max_cpus));
        }
        if size.memory_mb > settings.max_memory_mb {
            return over(format!("a guest may have {} MiB of memory", settings.max_memory_mb));
        }
        if disk_bytes(size, template) > settings.max_disk_gb.saturating_mul(1 << 30) {
            return over(format!("a disk may have {} GiB", settings.max_disk_gb));
        }
        if disk_bytes(size, template) < template.size_bytes {
            return Err(QemuError::Invalid(format!(
                "the image '{}' is larger than the disk of the size '{}'",
                template.id, size.id
            )));
        }
        Ok(())
    }

    pub(crate) fn check_quota(&self, size: &SizeSetting, all: &[Seen]) -> Result<(), QemuError> {
        let settings = &self.shared.settings;
        if all.len() as u64 >= settings.max_guests {
            return Err(QemuError::Quota(format!("this host may have {} guests", settings.max_guests)));
        }
        let most = settings.total_memory_mb.unwrap_or_else(host_memory_mb);
        let used: u64 = all.iter().filter_map(Seen::spec).map(|spec| spec.memory_bytes >> 20).sum();
        if used.saturating_add(size.memory_mb) > most {
            return Err(QemuError::Quota(format!("the guests of this host may have {most} MiB of memory together")));
        }
        Ok(())
    }

    /// An id that no guest has.
    pub(crate) fn free_id(&self) -> String {
        loop {
            let mut bytes = [0; 6];
            self.shared.ids.fill(&mut bytes);
            let id = bytes.iter().fold("i-".to_owned(), |id, byte| id + &format!("{byte:02x}"));
            if !self.shared.layout.guest(&id).exists() {
                return id;
            }
        }
    }

    pub(super) fn plan(&self, wish: &NewGuest, size: &SizeSetting, template: &Template) -> GuestSpec {
        let settings = &self.shared.settings;
        let uuid = self.shared.ids.uuid();
        let (base, copy_of) = match settings.disk {
            DiskMode::Overlay => (template.chain.clone(), Vec::new()),
            DiskMode::Copy => (Vec::new(), template.chain.clone()),
        };
        let nic = (settings.network != NicMode::None).then(|| self.card(mac_of(uuid, 0), ""));
        GuestSpec {
            token: wish.token.clone(),
            cpus: size.cpus,
            memory_bytes: size.memory_mb << 20,
            disks: vec![DiskSpec {
                id: "d0".into(),
                name: "root".into(),
                datastore: DEFAULT_DATASTORE.into(),
                file: "d0.qcow2".into(),
                size_bytes: disk_bytes(size, template),
                format: ImageFormat::Qcow2,
                base,
                copy_of,
                moved: 0,
            }],
            nics: nic.into_iter().collect(),
            seed: wish.ssh_key.is_some() || wish.user_data.is_some(),
            metadata: wish.metadata.clone(),
            image: Some(template.id.clone()),
            size: Some(size.id.clone()),
            ..self.bare(self.free_id(), &wish.name, uuid)
        }
    }

    /// What all new guests have in common. It has no processors, memory, disks or cards yet, and is to be made and
    /// started.
    pub(crate) fn bare(&self, id: String, name: &str, uuid: Uuid) -> GuestSpec {
        GuestSpec {
            version: SPEC_VERSION,
            id,
            name: name.to_owned(),
            uuid,
            incarnation: self.shared.ids.uuid().simple().to_string(),
            token: String::new(),
            cpus: 0,
            memory_bytes: 0,
            machine: self.shared.settings.machine.clone(),
            disks: Vec::new(),
            nics: Vec::new(),
            seed: false,
            tags: Vec::new(),
            metadata: Extra::new(),
            image: None,
            size: None,
            instant: None,
            snapshots: Vec::new(),
            reverting: None,
            moving: None,
            phase: Phase::Preparing,
            desired: Desired::Running,
            created_at: self.shared.clock.now(),
            last_stop: None,
            import: None,
        }
    }

    /// A card, connected as this host connects all.
    fn card(&self, mac: String, name: &str) -> NicSpec {
        let settings = &self.shared.settings;
        let (mode, link, restrict) = (settings.network, settings.bridge.clone(), settings.restrict_network);
        NicSpec { mac, mode, link, restrict, name: name.to_owned() }
    }

    /// The cards of the guest `id`, which comes out of a backup. Each keeps its address, unless another guest has it:
    /// a copy beside the guest that it is of must not answer to the same one.
    pub(crate) fn cards(&self, before: &[NativeNic], id: &str, uuid: Uuid, all: &[Seen]) -> Vec<NicSpec> {
        let others = all.iter().filter_map(Seen::spec).filter(|spec| spec.id != id).flat_map(|spec| spec.nics);
        let mut taken: HashSet<String> = others.map(|nic| nic.mac.to_lowercase()).collect();
        let card = |(n, nic): (usize, &NativeNic)| {
            let mac = nic.mac.to_lowercase();
            let keeps = is_mac(&mac) && taken.insert(mac.clone());
            self.card(if keeps { mac } else { mac_of(uuid, n) }, &nic.name)
        };
        before.iter().enumerate().map(card).collect()
    }
}

fn disk_bytes(size: &SizeSetting, template: &Template) -> u64 {
    match size.disk_gb {
        0 => template.size_bytes.max(512).next_multiple_of(512),
        gb => gb.saturating_mul(1 << 30),
    }
}

/// All the host's memory: a guest more than that would be killed by the kernel, or kill others.
fn host_memory_mb() -> u64 {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = told.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.map_or(u64::MAX, |kilobytes| kilobytes >> 10)
}

pub(crate) fn check_wish(wish: &NewGuest) -> Result<(), QemuError> {
    let wrong = |what: String| Err(QemuError::Invalid(what));
    let length = wish.name.chars().count();
    if length == 0 || length > LONGEST_NAME || wish.name.trim().is_empty() || wish.name.chars().any(char::is_control) {
        return wrong(format!("a name has 1 to {LONGEST_NAME} characters, and none of them controls anything"));
    }
    if wish.token.len() > LONGEST_TOKEN {
        return wrong(format!("a token has at most {LONGEST_TOKEN} bytes"));
    }
    if serde_json::to_vec(&wish.metadata).map_or(usize::MAX, |text| text.len()) > MOST_METADATA {
        return wrong(format!("metadata may be {} KiB long", MOST_METADATA >> 10));
    }
    if let Some(key) = &wish.ssh_key {
        let kinds = ["ssh-", "ecdsa-", "sk-"];
        if key.len() > 16 << 10 || key.chars().any(char::is_control) || !kinds.iter().any(|kind| key.starts_with(kind))
        {
            return wrong("this is no public key of OpenSSH's form".into());
        }
    }
    Ok(())
}
