//! Disks in memory: what is read is what was written, and nothing past the end.

use bytes::Bytes;
use portolan_block::{BlockError, BlockSink, BlockSource, ExtentKind, MemorySink, MemorySource, check_range};
use proptest::prelude::*;
use std::ops::Range;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Zero(Range<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..20_000, proptest::collection::vec(1u8.., 0..9000)).prop_map(|(at, data)| Step::Write(at, data)),
        (0u64..20_000, 0u64..20_000).prop_map(|(a, b)| Step::Zero(a..b)),
    ]
}

proptest! {
    #[test]
    fn a_sink_does_what_a_byte_string_does(steps in proptest::collection::vec(step(), 0..12)) {
        const SIZE: u64 = 16_500;
        let sink = MemorySink::new(SIZE);
        let mut model = vec![0; SIZE as usize];
        for step in steps {
            let (range, result) = match step.clone() {
                Step::Write(at, data) => (at..at + data.len() as u64, run(sink.write_at(at, Bytes::from(data)))),
                Step::Zero(range) => (range.clone(), run(sink.zero(range))),
            };
            let fits = range.start.max(range.end) <= SIZE;
            prop_assert_eq!(result.is_ok(), fits);
            if fits && range.start < range.end {
                let at = range.start as usize..range.end as usize;
                match step {
                    Step::Write(_, data) => model[at].copy_from_slice(&data),
                    Step::Zero(_) => model[at].fill(0),
                }
            }
        }
        prop_assert!(sink.content() == model);
        let source = MemorySource::new(model.clone());
        let extents = run(source.extents(0..SIZE)).expect("extents");
        let mut at = 0;
        for extent in extents {
            prop_assert_eq!(extent.offset, at);
            at = extent.end();
            let held = &model[extent.offset as usize..at as usize];
            prop_assert!(extent.kind == ExtentKind::Data || held.iter().all(|b| *b == 0));
        }
        prop_assert_eq!(at, SIZE);
    }
}

#[test]
fn nothing_past_the_end() {
    let source = MemorySource::new(vec![1; 4096]);
    for (offset, len) in [(0, 4097), (4096, 1), (u64::MAX, 1), (u64::MAX, 0), (4097, 0)] {
        assert!(matches!(run(source.read_at(offset, len)), Err(BlockError::OutOfRange { .. })), "{offset}+{len}");
    }
    assert!(run(source.read_at(4096, 0)).expect("nothing").is_empty());
    assert!(matches!(run(source.extents(0..4097)), Err(BlockError::OutOfRange { .. })));
    assert!(matches!(run(source.read_many(&[0..1, 4000..5000])), Err(BlockError::OutOfRange { .. })));
    assert!(check_range(u64::MAX, 2, u64::MAX).is_err());
    assert!(check_range(0, u64::MAX, u64::MAX).is_ok());
}
