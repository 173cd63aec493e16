//! Comfort over the cloud port: whole lists, and nodes by what they are called.

use super::data::*;
use super::error::{CloudError, CloudErrorKind};
use super::port::{CloudDriver, CloudPage, Cursor};
use async_trait::async_trait;
use std::future::Future;
use std::sync::Arc;

/// A list of more pages than this is taken for a provider that goes round in circles.
pub const MOST_PAGES: usize = 10_000;

/// What every [`CloudDriver`] can do beside. Not to be implemented.
#[async_trait]
pub trait CloudDriverExt: CloudDriver {
    /// Every node, each once. Complete, or an error.
    async fn nodes(&self) -> Result<Vec<Arc<CloudNode>>, CloudError> {
        whole(|from| async move { self.list_nodes(from.as_ref()).await }, |n| format!("{}\n{}", n.id, n.incarnation))
            .await
    }

    /// The node as it is now; `NotFound` when it is gone.
    async fn node(&self, node: &NodeRef) -> Result<CloudNode, CloudError> {
        let found = self.nodes().await?.into_iter().find(|n| n.id == node.id && n.incarnation == node.incarnation);
        found.map(Arc::unwrap_or_clone).ok_or_else(|| CloudError::not_found("node", &node.id))
    }

    /// The node that was made with this token, if there is one.
    async fn node_of_token(&self, token: &str) -> Result<Option<CloudNode>, CloudError> {
        let found = self.nodes().await?.into_iter().find(|n| n.token.as_deref() == Some(token));
        Ok(found.map(Arc::unwrap_or_clone))
    }

    /// Every size of a location, or of all.
    async fn sizes(&self, location: Option<&str>) -> Result<Vec<CloudSize>, CloudError> {
        whole(|from| async move { self.list_sizes(location, from.as_ref()).await }, |s| s.id.clone()).await
    }

    /// Every image of a location, or of all.
    async fn images(&self, location: Option<&str>) -> Result<Vec<CloudImage>, CloudError> {
        whole(|from| async move { self.list_images(location, from.as_ref()).await }, |i| i.id.clone()).await
    }

    /// Every location.
    async fn locations(&self) -> Result<Vec<CloudLocation>, CloudError> {
        whole(|from| async move { self.list_locations(from.as_ref()).await }, |l| l.id.clone()).await
    }

    /// Every key pair.
    async fn key_pairs(&self) -> Result<Vec<CloudKeyPair>, CloudError> {
        whole(|from| async move { self.list_key_pairs(from.as_ref()).await }, |k| k.name.clone()).await
    }

    /// Every volume.
    async fn volumes(&self) -> Result<Vec<CloudVolume>, CloudError> {
        whole(|from| async move { self.list_volumes(from.as_ref()).await }, |v| v.id.clone()).await
    }

    /// Every snapshot of a volume.
    async fn volume_snapshots(&self, volume: &str) -> Result<Vec<CloudSnapshot>, CloudError> {
        whole(|from| async move { self.list_volume_snapshots(volume, from.as_ref()).await }, |s| s.id.clone()).await
    }
}

impl<D: CloudDriver + ?Sized> CloudDriverExt for D {}

/// Reads page after page. A thing that moves between pages while they are read, and so comes twice, counts once.
async fn whole<T, F, Fut>(mut page: F, key: impl Fn(&T) -> String + Send) -> Result<Vec<T>, CloudError>
where
    F: FnMut(Option<Cursor>) -> Fut + Send,
    Fut: Future<Output = Result<CloudPage<T>, CloudError>> + Send,
    T: Send,
{
    let first = page(None).await?;
    let (mut items, mut next) = (first.items, first.next);
    let Some(_) = &next else { return Ok(items) };
    let mut seen: std::collections::HashSet<String> = std::collections::HashSet::new();
    items.retain(|item| seen.insert(key(item)));
    let mut pages = 1;
    while let Some(from) = next {
        if pages == MOST_PAGES {
            return Err(CloudError::new(CloudErrorKind::Malformed, "the list never ends"));
        }
        pages += 1;
        let more = page(Some(from.clone())).await?;
        if more.next.as_ref() == Some(&from) {
            return Err(CloudError::new(CloudErrorKind::Malformed, "the list goes round in circles"));
        }
        items.extend(more.items.into_iter().filter(|item| seen.insert(key(item))));
        next = more.next;
    }
    Ok(items)
}
