//! A listing as the inventory can take it: each thing once, and texts that every store can hold.

use portolan_driver::Inventory as Listing;
use std::collections::BTreeSet;

/// Drops what is listed twice, the first of them counts, and says so in `problems`; replaces control characters in
/// texts that are shown. Names become names later. One odd object must not keep a whole platform from being listed.
pub(crate) fn tidy(mut listing: Listing) -> Listing {
    let problems = &mut listing.problems;
    once(&mut listing.clusters, "cluster", problems, |c| c.native_id.clone());
    once(&mut listing.hosts, "host", problems, |h| h.native_id.clone());
    once(&mut listing.datastores, "datastore", problems, |d| d.native_id.clone());
    once(&mut listing.vms, "virtual machine", problems, |v| format!("{}\n{}", v.native_id, v.incarnation));
    for host in &mut listing.hosts {
        plain(&mut host.address);
    }
    for vm in &mut listing.vms {
        vm.tags.iter_mut().for_each(plain);
        for disk in &mut vm.disks {
            plain(&mut disk.name);
            plain(&mut disk.format);
        }
        for nic in &mut vm.nics {
            plain(&mut nic.name);
            plain(&mut nic.mac);
            nic.addresses.iter_mut().for_each(plain);
        }
    }
    listing
}

fn once<T>(items: &mut Vec<T>, what: &str, problems: &mut Vec<String>, key: impl Fn(&T) -> String) {
    let mut seen = BTreeSet::new();
    items.retain(|item| {
        let key = key(item);
        let id = key.split('\n').next().unwrap_or_default().to_owned();
        let first = seen.insert(key);
        if !first {
            problems.push(format!("the {what} '{id}' is listed more than once"));
        }
        first
    });
}

fn plain(text: &mut String) {
    if text.chars().any(char::is_control) {
        *text = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    }
}
