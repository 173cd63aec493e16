//! Random requests, the same from run to run.

use serde_json::{Value, json};
use std::fmt::Write;

/// A small generator of requests.
pub(crate) struct Random {
    pub(crate) state: u64,
    /// Guids of objects that are there.
    pub(crate) known: Vec<String>,
}

const FIELDS: &[&str] = &[
    "protectedEntities",
    "backupType",
    "priority",
    "windowStart",
    "windowEnd",
    "rules",
    "ruleBackupDestinations",
    "backupDestinations",
    "backupDestination",
    "roleType",
    "backup",
    "backupLocation",
    "taskFiles",
    "restoredPeName",
    "hypervisor",
    "hypervisorManager",
    "hypervisorManagers",
    "hypervisors",
    "state",
    "statusInfo",
    "value",
    "entities",
    "login",
    "password",
    "guid",
    "name",
    "retryCount",
    "depth",
    "originalDiskName",
    "storageId",
    "overwrite",
    "excludedFromRestore",
    "restoreStorageId",
    "restoreClusterId",
];
const PARAMETERS: &[&str] = &[
    "page",
    "size",
    "orderBy",
    "direction",
    "filter",
    "nameLike",
    "tenantid",
    "tenantId",
    "tenant-id",
    "project-uuid",
    "uuid",
    "hypervisor-manager",
    "hypervisor-manager-type",
    "hypervisor",
    "protected-entity",
    "protectedEntity",
    "backup",
    "schedule",
    "state",
    "states",
    "type",
    "status",
    "from",
    "to",
    "only-mountable",
    "min-size",
    "location-status",
    "virtual-machine",
    "parent-backup",
    "parent-task",
    "restore-job",
    "backup-destination",
    "backup-to-be-restored",
    "workflow-execution",
    "node",
    "quota",
    "protected-entity-type",
];
const TEXTS: &[&str] = &[
    "",
    "null",
    "undefined",
    "FULL",
    "INCREMENTAL",
    "SUCCESS",
    "CANCELLED",
    "QUEUED",
    "PRESENT",
    "EXPORT",
    "asc",
    "desc",
    "name",
    "priority",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "7.5",
    "1e9",
    "50",
    "99999999999999999999",
    "NaN",
    "web01",
    "disk1",
    "store-1",
    "cluster-1",
    "x",
    "ü€😀",
    "a\nb",
    "\u{0}",
    "' OR 1=1 --",
    "%",
    "{}",
    "RHV",
    "VM",
    "data",
];

impl Random {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn one_of(&mut self, many: usize) -> usize {
        usize::try_from(self.next() % many as u64).unwrap()
    }

    fn text(&mut self) -> String {
        match self.one_of(8) {
            0 | 1 => self.guid(),
            2 => "n".repeat(250 + self.one_of(10)),
            _ => TEXTS[self.one_of(TEXTS.len())].to_owned(),
        }
    }

    pub(crate) fn guid(&mut self) -> String {
        match self.one_of(4) {
            0 => uuid::Uuid::from_u64_pair(self.next(), self.next()).to_string(),
            _ => {
                let which = self.one_of(self.known.len());
                self.known[which].clone()
            }
        }
    }

    pub(crate) fn json(&mut self, depth: usize) -> Value {
        match self.one_of(if depth == 0 { 5 } else { 9 }) {
            0 => Value::Null,
            1 => json!(self.one_of(2) == 0),
            2 => [json!(self.next()), json!(i64::MIN), json!(50), json!(-0.5), json!(1e300)][self.one_of(5)].clone(),
            3 | 4 => json!(self.text()),
            5 => (0..self.one_of(4)).map(|_| self.json(depth - 1)).collect(),
            6 => json!({ "guid": self.guid(), "name": self.text() }),
            _ => {
                let fields =
                    (0..self.one_of(6)).map(|_| (FIELDS[self.one_of(FIELDS.len())].to_owned(), self.json(depth - 1)));
                Value::Object(fields.collect())
            }
        }
    }

    pub(crate) fn query(&mut self) -> String {
        let mut query = String::from("?");
        for _ in 0..self.one_of(5) {
            let name = PARAMETERS[self.one_of(PARAMETERS.len())];
            let value = self.text();
            query.push_str(name);
            query.push('=');
            for byte in value.bytes() {
                write!(query, "%{byte:02X}").unwrap();
            }
            query.push('&');
        }
        query
    }
}
