//! Repairing a lost index from the packs' own lists.

use super::core::{format_error, store_error};
use super::repository::Repository;
use crate::format::pack::{FOOTER_BYTES, PackListing, read_footer, read_trailer};
use crate::format::{Class, record, segment};
use crate::port::RepoError;
use std::ops::Range;

impl Repository {
    /// Lists packs that no index segment lists, from their own lists, in a new segment: repairs a lost segment.
    /// Returns how many packs it found. Packs that are damaged themselves stay unlisted.
    pub async fn repair_index(&self) -> Result<u64, RepoError> {
        self.core.refresh().await?;
        let mut found: Vec<PackListing> = Vec::new();
        for class in [Class::Meta, Class::Data] {
            let prefix = class.prefix();
            for object in self.core.objects.list(prefix).await.map_err(store_error("list", prefix))? {
                let Some(hash) = class.hash_of_key(&object.key) else { continue };
                if self.core.with_index(|index| index.has_pack(&hash)) {
                    continue;
                }
                match self.read_listing(&object.key, class, hash, object.bytes).await {
                    Ok(listing) => found.push(listing),
                    Err(RepoError::Corrupt { object, what }) => {
                        tracing::warn!(%object, %what, "a pack cannot be listed");
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        if found.is_empty() {
            return Ok(0);
        }
        let key = format!("index/{}-0", self.core.env.ids.uuid());
        let sealed = record::seal(&self.core.keys, &key, self.core.salt(), &segment::encode(&found));
        let sealed = sealed.map_err(format_error(&key))?;
        self.core.objects.put_new(&key, sealed.into()).await.map_err(store_error("write", &key))?;
        self.core.segment_written(key).await;
        self.core.add_to_index(&found);
        Ok(found.len() as u64)
    }

    async fn read_listing(
        &self,
        key: &str,
        class: Class,
        hash: [u8; 32],
        bytes: u64,
    ) -> Result<PackListing, RepoError> {
        let get = |range: Range<u64>| async move {
            self.core.objects.get(key, Some(range)).await.map_err(store_error("read", key))
        };
        let footer = get(bytes.saturating_sub(FOOTER_BYTES as u64)..bytes).await?;
        let footer = read_footer(&footer, bytes).map_err(format_error(key))?;
        let end = u64::from(footer.trailer_at) + u64::from(footer.trailer_len);
        let trailer = get(footer.trailer_at.into()..end).await?;
        let entries = read_trailer(&footer, &trailer, &self.core.keys).map_err(format_error(key))?;
        let bytes = u32::try_from(bytes).ok().filter(|_| footer.class == class);
        let bytes =
            bytes.ok_or_else(|| RepoError::Corrupt { object: key.into(), what: "it is of another class".into() })?;
        Ok(PackListing { hash, class, bytes, salt: footer.salt, entries })
    }
}
