//! The arithmetic on extents and ranges, against a model that looks at every byte.

use portolan_block::{BlockExtent, ExtentKind, clip, coalesce, intersect, union};
use proptest::prelude::*;
use std::ops::Range;

const SIZE: u64 = 64;

fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
    proptest::collection::vec((0..=SIZE, 0..=SIZE).prop_map(|(a, b)| a..b), 0..12)
}

fn kind() -> impl Strategy<Value = ExtentKind> {
    prop_oneof![Just(ExtentKind::Data), Just(ExtentKind::Zero), Just(ExtentKind::Hole)]
}

/// Extents in order, without gaps, from 0.
fn extents() -> impl Strategy<Value = Vec<BlockExtent>> {
    proptest::collection::vec((0u64..9, kind()), 0..12).prop_map(|runs| {
        let mut at = 0;
        let run = |(len, kind)| {
            let extent = BlockExtent::new(at..at + len, kind);
            at += len;
            extent
        };
        runs.into_iter().map(run).collect()
    })
}

fn bytes(ranges: &[Range<u64>]) -> Vec<bool> {
    (0..SIZE).map(|at| ranges.iter().any(|r| r.contains(&at))).collect()
}

fn kinds(extents: &[BlockExtent]) -> Vec<(u64, ExtentKind)> {
    extents.iter().flat_map(|e| e.range().map(|at| (at, e.kind))).collect()
}

fn is_tidy(ranges: &[Range<u64>]) -> bool {
    ranges.iter().all(|r| r.start < r.end) && ranges.windows(2).all(|w| w[0].end <= w[1].start)
}

proptest! {
    #[test]
    fn union_is_sorted_disjoint_and_exact(input in ranges()) {
        let out = union(input.clone());
        prop_assert!(out.windows(2).all(|w| w[0].end < w[1].start), "neighbours are joined: {:?}", out);
        prop_assert!(is_tidy(&out));
        prop_assert_eq!(bytes(&out), bytes(&input));
        prop_assert_eq!(union(out.clone()), out);
    }

    #[test]
    fn intersect_is_exact_and_symmetric(a in ranges(), b in ranges()) {
        let (a, b) = (union(a), union(b));
        let out = intersect(&a, &b);
        prop_assert!(is_tidy(&out));
        prop_assert_eq!(&out, &intersect(&b, &a));
        let both: Vec<bool> = bytes(&a).iter().zip(bytes(&b)).map(|(x, y)| *x && y).collect();
        prop_assert_eq!(bytes(&out), both);
    }

    #[test]
    fn coalesce_keeps_every_byte_and_joins_what_it_can(input in extents()) {
        let out = coalesce(input.clone());
        prop_assert_eq!(kinds(&out), kinds(&input));
        prop_assert!(out.iter().all(|e| e.len > 0));
        prop_assert!(out.windows(2).all(|w| w[0].kind != w[1].kind || w[0].end() < w[1].offset));
    }

    #[test]
    fn clip_keeps_what_lies_inside(input in extents(), a in 0..=SIZE, b in 0..=SIZE) {
        let out = clip(&input, &(a..b));
        let inside: Vec<_> = kinds(&input).into_iter().filter(|(at, _)| (a..b).contains(at)).collect();
        prop_assert_eq!(kinds(&out), inside);
    }
}

#[test]
fn far_ends_do_not_overflow() {
    let last = BlockExtent { offset: u64::MAX - 1, len: 10, kind: ExtentKind::Data };
    assert_eq!(last.end(), u64::MAX);
    assert_eq!(BlockExtent { offset: 9, len: 0, ..last }, BlockExtent::new(Range { start: 9, end: 3 }, last.kind));
    assert_eq!(union([u64::MAX - 1..u64::MAX, 0..1, Range { start: 7, end: 2 }]), [0..1, u64::MAX - 1..u64::MAX]);
}
