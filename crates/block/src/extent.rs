//! Extents and the arithmetic on them.

use std::ops::Range;

/// What an extent holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Bytes that must be read.
    Data,
    /// Allocated, and known to be zeros.
    Zero,
    /// Not allocated: reads as zeros.
    Hole,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockExtent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// What it holds.
    pub kind: ExtentKind,
}

impl BlockExtent {
    /// A run of `kind` over `range`.
    pub fn new(range: Range<u64>, kind: ExtentKind) -> Self {
        Self { offset: range.start, len: range.end.saturating_sub(range.start), kind }
    }

    /// First byte after the run.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// The run as a range.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.end()
    }
}

/// Cuts the extents down to `range`, dropping those outside.
pub fn clip(extents: &[BlockExtent], range: &Range<u64>) -> Vec<BlockExtent> {
    extents
        .iter()
        .filter_map(|e| {
            let (start, end) = (e.offset.max(range.start), e.end().min(range.end));
            (start < end).then(|| BlockExtent::new(start..end, e.kind))
        })
        .collect()
}

/// Joins neighbours of the same kind and drops empty runs. The input is in order.
pub fn coalesce(extents: impl IntoIterator<Item = BlockExtent>) -> Vec<BlockExtent> {
    let mut out: Vec<BlockExtent> = Vec::new();
    for e in extents.into_iter().filter(|e| e.len > 0) {
        match out.last_mut() {
            Some(last) if last.kind == e.kind && last.end() == e.offset => last.len += e.len,
            _ => out.push(e),
        }
    }
    out
}

/// The sorted, disjoint union of ranges in any order.
pub fn union(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut all: Vec<_> = ranges.into_iter().filter(|r| r.start < r.end).collect();
    all.sort_by_key(|r| r.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for r in all {
        match out.last_mut() {
            Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
            _ => out.push(r),
        }
    }
    out
}

/// What two sorted, disjoint lists of ranges have in common.
pub fn intersect(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let (start, end) = (x.start.max(y.start), x.end.min(y.end));
        if start < end {
            out.push(start..end);
        }
        if x.end <= y.end { i += 1 } else { j += 1 }
    }
    out
}
