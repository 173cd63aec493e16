//! A copy-on-write export against a byte string: random histories through a client. `PORTOLAN_SOAK` multiplies the
//! number of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use bytes::Bytes;
use common::{Fixture, KIB, Random, check_cover, patchy, read_by_extents, soak};
use futures_util::future::join_all;
use portolan_block::{BlockSource, ExtentKind, MemorySource};
use portolan_nbd::{ClientOptions, CowDevice, NbdSource, ZeroOptions};
use std::ops::Range;
use std::sync::Arc;

/// Not a whole number of the overlay's blocks.
const SIZE: usize = 700 * KIB + 77;

#[derive(Debug, Clone, Copy)]
enum Change {
    Write,
    Zero,
    Trim,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_on_write_export_is_a_byte_string() {
    let directory = tempfile::tempdir().unwrap();
    for seed in 0..8 * soak() {
        let base = patchy(seed, SIZE);
        let mut model = base.clone();
        let source = Arc::new(MemorySource::new(base.clone()));
        let fixture = Fixture::new(Arc::new(CowDevice::new(source.clone(), directory.path()).unwrap())).await;
        let source_over = NbdSource::over(fixture.connect().await);
        let mut random = Random(seed);
        for _ in 0..60 {
            step(&source_over, &mut model, &mut random, seed).await;
        }
        assert!(read_by_extents(&source_over).await == model, "seed {seed}");
        let again = NbdSource::connect(&fixture.address(), &ClientOptions::default(), 2).await.unwrap();
        assert!(again.read_at(0, SIZE).await.unwrap() == model, "seed {seed}");
        assert!(source.read_at(0, SIZE).await.unwrap() == base, "the base stays as it is");
    }
}

/// A few changes at once that do not overlap, but often share a block; then a read and a map.
async fn step(source: &NbdSource, model: &mut [u8], random: &mut Random, seed: u64) {
    let connection = source.connection();
    let mut changes: Vec<(Change, Range<usize>, Bytes)> = Vec::new();
    let mut at = random.below(SIZE);
    for _ in 0..random.below(6) {
        let len = match random.below(4) {
            0 => random.below(100),
            1 => random.below(200 * KIB),
            // Whole blocks, more or less.
            2 => 64 * KIB - at % (64 * KIB),
            _ => random.below(9000),
        };
        let range = at..(at + len).min(SIZE);
        if range.is_empty() {
            break;
        }
        let change = [Change::Write, Change::Write, Change::Zero, Change::Trim][random.below(4)];
        let data = Bytes::from(random.bytes(range.len()));
        match change {
            Change::Write => model[range.clone()].copy_from_slice(&data),
            // A trimmed range of this device reads as zeros.
            Change::Zero | Change::Trim => model[range.clone()].fill(0),
        }
        at = range.end + random.below(3) * random.below(5000);
        changes.push((change, range, data));
    }
    let done = join_all(changes.into_iter().map(async |(change, range, data)| {
        let bytes = range.start as u64..range.end as u64;
        match change {
            Change::Write => connection.write(bytes.start, data, false).await,
            Change::Zero => connection.write_zeroes(bytes, ZeroOptions::default()).await,
            Change::Trim => connection.trim(bytes).await,
        }
    }));
    done.await.into_iter().for_each(|done| done.unwrap());
    let at = random.below(SIZE);
    let range = at..(at + random.below(SIZE / 2)).min(SIZE);
    let read = source.read_at(range.start as u64, range.len()).await.unwrap();
    assert!(read == model[range.clone()], "seed {seed}, {range:?}");
    let bytes = range.start as u64..range.end as u64;
    let extents = source.extents(bytes.clone()).await.unwrap();
    check_cover(&extents, bytes);
    for extent in extents.iter().filter(|extent| extent.kind != ExtentKind::Data) {
        let zeros = &model[extent.offset as usize..extent.end() as usize];
        assert!(zeros.iter().all(|byte| *byte == 0), "seed {seed}, {extent:?}");
    }
}
