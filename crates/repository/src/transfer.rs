//! Copies a disk from a source to a sink: what a restore does.

use crate::port::{Observer, RepoError};
use futures_util::stream::{FuturesUnordered, StreamExt};
use portolan_block::{BlockError, BlockExtent, BlockSink, BlockSource, ExtentKind};
use std::collections::VecDeque;
use std::ops::Range;

/// How much one read asks for, in bytes: less than what the server's allocator maps anew for every buffer, which costs
/// a restore about a fifth of its processor time.
const BATCH_BYTES: u64 = 768 * 1024;
/// How many reads and writes go on at once.
const WIDTH: usize = 8;
/// How much of the source's map is looked at in one go, in bytes.
const WINDOW_BYTES: u64 = 1024 * 1024 * 1024;

/// Copies all of `source` to `sink`: data is read ahead and written as it comes, everything else becomes holes,
/// also what the sink has past the source's end. Flushes the sink. Returns the bytes of data that were written.
///
/// # Errors
/// [`RepoError::Source`] when the source cannot be read, [`RepoError::Sink`] when the sink is too small or cannot be
/// written, [`RepoError::Cancelled`] when the observer says so; the sink's content is undefined then.
pub async fn copy_disk(
    source: &dyn BlockSource,
    sink: &dyn BlockSink,
    observer: &dyn Observer,
) -> Result<u64, RepoError> {
    let failed = |source| RepoError::Source { disk: "source".into(), source };
    let unwritable = |source| RepoError::Sink { source };
    let size = source.size();
    portolan_block::check_range(0, size, sink.size()).map_err(unwritable)?;
    let (mut mapped, mut done, mut copied) = (0, 0, 0);
    let mut pieces: VecDeque<BlockExtent> = VecDeque::new();
    let mut running = FuturesUnordered::new();
    // Whatever waits for source or sink does so in `running`: a sink has so many places for requests, and one that is
    // kept for a write that nobody looks after would be waited for without an end.
    let copy = |range: Range<u64>, kind: ExtentKind| async move {
        if kind != ExtentKind::Data {
            let len = range.end - range.start;
            return sink.zero(range).await.map_err(unwritable).map(|()| (len, 0));
        }
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let bytes = source.read_at(range.start, len).await.map_err(failed)?;
        if bytes.len() != len {
            let what = "the source gave another length".into();
            return Err(failed(BlockError::Corrupt { offset: range.start, what }));
        }
        sink.write_at(range.start, bytes).await.map_err(unwritable)?;
        Ok((range.end - range.start, range.end - range.start))
    };
    loop {
        if observer.cancelled() {
            return Err(RepoError::Cancelled);
        }
        while running.len() < WIDTH {
            match pieces.pop_front() {
                Some(piece) if piece.kind == ExtentKind::Data => {
                    let end = piece.end().min((piece.offset / BATCH_BYTES + 1) * BATCH_BYTES);
                    if end < piece.end() {
                        pieces.push_front(BlockExtent::new(end..piece.end(), ExtentKind::Data));
                    }
                    running.push(copy(piece.offset..end, ExtentKind::Data));
                }
                Some(piece) => running.push(copy(piece.range(), piece.kind)),
                None if mapped < size && running.is_empty() => {
                    let end = size.min(mapped + WINDOW_BYTES);
                    pieces.extend(source.extents(mapped..end).await.map_err(failed)?);
                    mapped = end;
                }
                None => break,
            }
        }
        match running.next().await {
            Some(ended) => {
                let (through, written): (u64, u64) = ended?;
                copied += written;
                done += through;
                observer.progress(done, size);
            }
            None => break,
        }
    }
    if size < sink.size() {
        sink.zero(size..sink.size()).await.map_err(unwritable)?;
    }
    sink.flush().await.map_err(unwritable)?;
    observer.progress(size, size);
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Unobserved;
    use async_trait::async_trait;
    use bytes::Bytes;
    use portolan_block::{MemorySink, MemorySource};
    use std::time::Duration;
    use tokio::sync::Semaphore;

    /// A sink with so few places for requests that they are waited for, in turn: as one over a network is.
    struct Crowded {
        inner: MemorySink,
        places: Semaphore,
    }

    impl Crowded {
        async fn place(&self) -> tokio::sync::SemaphorePermit<'_> {
            let place = self.places.acquire().await.unwrap();
            tokio::task::yield_now().await;
            place
        }
    }

    #[async_trait]
    impl BlockSink for Crowded {
        fn size(&self) -> u64 {
            self.inner.size()
        }

        async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
            let _place = self.place().await;
            self.inner.write_at(offset, data).await
        }

        async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
            let _place = self.place().await;
            self.inner.zero(range).await
        }

        async fn flush(&self) -> Result<(), BlockError> {
            let _place = self.place().await;
            self.inner.flush().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn writes_that_wait_for_a_place_are_looked_after_while_a_hole_is_made() {
        const PIECE: usize = 64 << 10;
        // Data and holes in turn, and then data in long runs.
        let mut content = vec![0_u8; 128 * PIECE];
        for (n, piece) in content.chunks_mut(PIECE).enumerate().filter(|(n, _)| n % 2 == 0 || *n > 64) {
            piece.fill(u8::try_from(n % 255).unwrap() + 1);
        }
        let source = MemorySource::new(content.clone());
        for places in [1, 2, 3, 7] {
            let inner = MemorySink::new(content.len() as u64 + 4096);
            let sink = Crowded { inner, places: Semaphore::new(places) };
            let copy = copy_disk(&source, &sink, &Unobserved);
            let copied = tokio::time::timeout(Duration::from_secs(3600), copy).await.expect("it ends").unwrap();
            assert!(copied < content.len() as u64 && copied > 0, "{copied}");
            let written = sink.inner.content();
            assert!(written[..content.len()] == content[..] && written[content.len()..].iter().all(|b| *b == 0));
        }
    }
}
