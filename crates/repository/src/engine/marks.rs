//! Marks of packs that a check found damaged: `damaged/<hash>`.
//!
//! Whoever opens the repository heeds them: chunks that lie in marked packs alone are stored again by whoever has
//! them, and read from where they are whole. So a backup heals older points that need the same chunks. A mark is a
//! hint and nothing more: what is in a marked pack is still read where there is no other copy, and checked as ever.

use super::core::{Core, store_error};
use crate::format::Class;
use crate::object::{ObjectError, ObjectStore};
use crate::port::RepoError;
use portolan_model::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// What the keys of marks begin with.
pub(super) const MARKS: &str = "damaged/";

/// A mark as it is stored. Only people read it: that it is there says enough.
#[derive(Serialize)]
struct Mark<'a> {
    pack: &'a str,
    what: &'a str,
    found: Timestamp,
}

/// The hashes of the packs that are marked.
pub(super) async fn list(objects: &dyn ObjectStore) -> Result<HashSet<[u8; 32]>, RepoError> {
    let listed = objects.list(MARKS).await.map_err(store_error("list", MARKS))?;
    let hash = |key: &str| blake3::Hash::from_hex(key.strip_prefix(MARKS)?).ok().map(|hash| *hash.as_bytes());
    Ok(listed.iter().filter_map(|object| hash(&object.key)).collect())
}

/// The hash of a pack by its key.
pub(super) fn hash_of(pack: &str) -> Option<[u8; 32]> {
    [Class::Data, Class::Meta].iter().find_map(|class| class.hash_of_key(pack))
}

fn mark_key(hash: &[u8; 32]) -> String {
    format!("{MARKS}{}", blake3::Hash::from_bytes(*hash).to_hex())
}

impl Core {
    /// Marks packs of the index that were found damaged, and takes the marks of those back that were read and are
    /// whole. Returns how many packs are marked that were not before. A store that takes no marks, as one that can
    /// only be read, keeps no check from its findings.
    pub(super) async fn mark_packs(
        &self,
        damaged: &BTreeMap<String, String>,
        whole: &[String],
    ) -> Result<u64, RepoError> {
        let mut marked = 0;
        for (pack, what) in damaged {
            let listed = |hash: &[u8; 32]| self.with_index(|i| i.has_pack(hash) && !i.is_damaged(hash));
            let Some(hash) = hash_of(pack).filter(listed) else { continue };
            let key = mark_key(&hash);
            let mark = self.seal_record(&key, &Mark { pack, what, found: self.env.clock.now() })?;
            match self.objects.put_new(&key, mark).await {
                Ok(()) | Err(ObjectError::AlreadyExists) => marked += 1,
                Err(error) => tracing::warn!(%pack, %error, "a damaged pack cannot be marked"),
            }
        }
        let mut changed = marked > 0;
        for hash in whole.iter().filter_map(|pack| hash_of(pack)) {
            if !self.with_index(|index| index.is_damaged(&hash)) {
                continue;
            }
            match self.objects.delete(&mark_key(&hash)).await {
                Ok(()) | Err(ObjectError::NotFound) => changed = true,
                Err(error) => tracing::warn!(%error, "the mark of a pack that is whole cannot be removed"),
            }
        }
        if changed {
            self.refresh().await?;
        }
        Ok(marked)
    }
}
