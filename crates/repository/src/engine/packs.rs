//! What can be checked of packs without a key.

use super::core::store_error;
use super::verify::object_damage;
use crate::format::pack::{FOOTER_BYTES, read_footer};
use crate::format::{Class, FormatError};
use crate::object::{ObjectError, ObjectStore};
use crate::port::{Damage, Observer, RepoError, VerifyReport};
use bytes::Bytes;
use portolan_model::Clock;
use std::collections::HashMap;
use tokio::task::JoinSet;

/// Checks that every pack of the repository in `objects` has the hash that it is named by. Needs no key, so the
/// owner of a store can run it without being able to read the data. Damage is a finding, not an error.
pub async fn verify_packs(
    objects: &dyn ObjectStore,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<VerifyReport, RepoError> {
    let began = clock.now();
    let mut report = VerifyReport::default();
    let mut sizes: Vec<(String, u64)> = pack_sizes(objects).await?.into_iter().collect();
    sizes.sort();
    let total: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
    let mut hashing: JoinSet<(String, Result<(), FormatError>)> = JoinSet::new();
    let note = |damage: &mut Vec<Damage>, done: Result<(String, Result<(), FormatError>), _>| match done {
        Ok((_, Ok(()))) => Ok(()),
        Ok((key, Err(e))) => {
            damage.push(object_damage(&key, e.to_string()));
            Ok(())
        }
        Err(e) => Err(RepoError::Store {
            action: "work on",
            object: "a worker's task".into(),
            source: std::io::Error::other::<tokio::task::JoinError>(e),
        }),
    };
    for (key, _) in sizes {
        if observer.cancelled() {
            return Err(RepoError::Cancelled);
        }
        let bytes: Bytes = match objects.get(&key, None).await {
            Ok(bytes) => bytes,
            Err(ObjectError::NotFound) => continue,
            Err(e) => return Err(store_error("read", &key)(e)),
        };
        report.read_bytes += bytes.len() as u64;
        observer.progress(report.read_bytes, total.max(report.read_bytes));
        // One is read while another is hashed.
        if hashing.len() >= 2
            && let Some(done) = hashing.join_next().await
        {
            note(&mut report.damage, done)?;
        }
        hashing.spawn_blocking(move || {
            let checked = check_pack_bytes(&key, &bytes);
            (key, checked)
        });
    }
    while let Some(done) = hashing.join_next().await {
        note(&mut report.damage, done)?;
    }
    report.damage.sort_by(|a, b| a.object.cmp(&b.object));
    report.took = clock.now().since(began);
    Ok(report)
}

/// All packs and their sizes.
pub(super) async fn pack_sizes(objects: &dyn ObjectStore) -> Result<HashMap<String, u64>, RepoError> {
    let mut sizes = HashMap::new();
    for class in [Class::Meta, Class::Data] {
        let prefix = class.prefix();
        let listed = objects.list(prefix).await.map_err(store_error("list", prefix))?;
        sizes.extend(listed.into_iter().map(|object| (object.key, object.bytes)));
    }
    Ok(sizes)
}

/// Checks a pack's bytes against its name. Needs no key.
pub(super) fn check_pack_bytes(key: &str, bytes: &[u8]) -> Result<(), FormatError> {
    let named = [Class::Data, Class::Meta].into_iter().find_map(|class| Some((class, class.hash_of_key(key)?)));
    let (class, hash) = named.ok_or(FormatError::Damaged("not a pack's name"))?;
    if *blake3::hash(bytes).as_bytes() != hash {
        return Err(FormatError::Damaged("its bytes do not have the hash that it is named by"));
    }
    let footer = bytes.len().checked_sub(FOOTER_BYTES).and_then(|at| bytes.get(at..)).unwrap_or_default();
    if read_footer(footer, bytes.len() as u64)?.class != class {
        return Err(FormatError::Damaged("it is of another class"));
    }
    Ok(())
}
