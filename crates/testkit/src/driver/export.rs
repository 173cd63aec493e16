//! Conformance of exports.

use super::{HypervisorFixture, contents, export_request, find, pattern, read_all};
use portolan_block::{BlockError, ExtentKind};
use portolan_driver::{AbandonedExport, Changes, DriverError, ExportRequest};
use std::ops::Range;

/// What is exported is what the disks hold, holes and zeros included, in the machine's order.
pub async fn export_holds_what_the_disks_hold(f: &impl HypervisorFixture) {
    let mut sparse = vec![0; 3 << 20];
    sparse[1 << 20..(1 << 20) + 70_000].copy_from_slice(&pattern(4, 70_000));
    sparse[(3 << 20) - 512..].copy_from_slice(&pattern(5, 512));
    let plain = pattern(6, 200_704);
    f.add_vm("alpha", &[("a-root", sparse.clone()), ("b-data", plain.clone()), ("c-empty", vec![0; 1 << 20])]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let session = hypervisor.open_export(export_request(&vm, "t1", 1)).await.expect("an export");
    assert_eq!(session.exported().vm, vm);
    let ids: Vec<_> = session.exported().disks.iter().map(|d| d.native_id.clone()).collect();
    assert_eq!(ids, vm.disks.iter().map(|d| d.native_id.clone()).collect::<Vec<_>>());
    let held = contents(&*session).await.expect("content");
    assert_eq!(held.len(), 3);
    assert!(held[0].1 == sparse && held[1].1 == plain && held[2].1 == vec![0; 1 << 20]);

    // Ranges out of order, overlapping, adjacent and empty come back as they were asked for.
    let source = &session.exported().disks[0].source;
    let asked: [Range<u64>; 5] = [1_048_570..1_048_600, 0..512, 512..1024, 1_048_576..1_150_000, 77..77];
    for (range, bytes) in asked.iter().zip(source.read_many(&asked).await.expect("bytes")) {
        assert!(bytes == sparse[range.start as usize..range.end as usize], "{range:?}");
    }
    session.release(false).await.expect("release");
}

/// Extents cover exactly what was asked for, in order and without gaps, and what is no data is zeros.
pub async fn extents_cover_what_was_asked(f: &impl HypervisorFixture) {
    let mut content = vec![0; 1 << 20];
    content[262_144..393_216].copy_from_slice(&pattern(7, 131_072));
    f.add_vm("alpha", &[("root", content.clone())]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let session = hypervisor.open_export(export_request(&vm, "t1", 1)).await.expect("an export");
    let source = &session.exported().disks[0].source;
    for range in [0..1 << 20, 1..2, 262_143..262_145, 300_000..1_048_576, 512..512, 1_048_576..1_048_576] {
        let extents = source.extents(range.clone()).await.expect("extents");
        let mut at = range.start;
        for extent in &extents {
            assert!(extent.offset == at && extent.len > 0, "{range:?}: {extents:?}");
            at = extent.end();
            if extent.kind != ExtentKind::Data {
                assert!(content[extent.offset as usize..extent.end() as usize].iter().all(|b| *b == 0), "{extent:?}");
            }
        }
        assert_eq!(at, range.end, "{extents:?}");
    }
    session.release(false).await.expect("release");
}

/// A read past the end is an error, not a short answer.
pub async fn reads_past_the_end_fail(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let session = hypervisor.open_export(export_request(&vm, "t1", 1)).await.expect("an export");
    let source = &session.exported().disks[0].source;
    for (offset, len) in [(0, 4097), (4096, 1), (4095, 2), (u64::MAX, 1), (u64::MAX, 0)] {
        let result = source.read_at(offset, len).await;
        assert!(matches!(result, Err(BlockError::OutOfRange { .. })), "{offset}+{len}: {result:?}");
    }
    assert!(matches!(source.extents(0..4097).await, Err(BlockError::OutOfRange { .. })));
    let many = source.read_many(&[0..512, 4000..5000]).await;
    assert!(matches!(many, Err(BlockError::OutOfRange { .. })), "{many:?}");
    assert_eq!(source.read_at(4096, 0).await.expect("nothing").len(), 0);
    session.release(false).await.expect("release");
}

/// What is not there is *not found*, by name.
pub async fn export_of_what_is_not_there(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let good = export_request(&vm, "t1", 1);
    let mut wrong: Vec<ExportRequest> = ["nothing", "", "../..", "/etc", "a/b/c/d/e", "a\0b"]
        .iter()
        .map(|id| ExportRequest { vm: (*id).to_owned(), ..good.clone() })
        .collect();
    wrong.push(ExportRequest { incarnation: "another".into(), ..good.clone() });
    for disk in ["no-such-disk", "../root", ""] {
        wrong.push(ExportRequest { disks: Some(vec![disk.into()]), ..good.clone() });
    }
    for request in wrong {
        let error = hypervisor.open_export(request.clone()).await.err();
        assert!(matches!(error, Some(DriverError::NotFound { .. })), "{request:?}: {error:?}");
    }
    // None of these attempts holds the token.
    hypervisor.open_export(good).await.expect("an export").release(false).await.expect("release");
}

/// Only the disks asked for are exported.
pub async fn export_of_one_disk(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096)), ("data", pattern(2, 8192))]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let data = vm.disks.iter().find(|d| d.size_bytes == 8192).expect("the larger disk");
    let request = ExportRequest { disks: Some(vec![data.native_id.clone()]), ..export_request(&vm, "t1", 1) };
    let session = hypervisor.open_export(request).await.expect("an export");
    let held = contents(&*session).await.expect("content");
    assert_eq!(held, vec![(data.name.clone(), pattern(2, 8192))]);
    session.release(false).await.expect("release");
}

/// The same token finds the same session, also after a restart, and an older attempt does the newer no harm.
pub async fn export_again_is_the_same_session(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let vm = find(&f.hypervisor(), "alpha").await.expect("alpha");
    let first = f.hypervisor().open_export(export_request(&vm, "t1", 5)).await.expect("an export");
    let again = f.hypervisor().open_export(export_request(&vm, "t1", 6)).await.expect("the same export");
    assert_eq!(first.exported().moment, again.exported().moment);
    assert_eq!(first.exported().checkpoint, again.exported().checkpoint);
    let held = contents(&*again).await.expect("content");
    assert_eq!(held, contents(&*first).await.expect("content"));
    match f.hypervisor().open_export(export_request(&vm, "t1", 5)).await {
        Ok(older) => assert_eq!(older.exported().moment, again.exported().moment),
        Err(error) => assert!(matches!(error, DriverError::Fenced), "{error:?}"),
    }
    let stale = first.release(false).await;
    assert!(matches!(stale, Ok(()) | Err(DriverError::Fenced)), "{stale:?}");
    assert_eq!(held, contents(&*again).await.expect("the older attempt pulled the moment away"));
    let third = f.hypervisor().open_export(export_request(&vm, "t1", 6)).await.expect("the same export");
    assert_eq!(third.exported().moment, again.exported().moment);
    third.release(false).await.expect("release");
}

/// What changes during an export is either not seen, or noticed: content of two moments never comes out.
pub async fn export_is_never_of_two_moments(f: &impl HypervisorFixture) {
    let (one, two) = (pattern(1, 65_536), pattern(2, 65_536));
    f.add_vm("alpha", &[("a", one.clone()), ("b", two.clone())]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let session = hypervisor.open_export(export_request(&vm, "t1", 1)).await.expect("an export");
    let disks = &session.exported().disks;
    assert_eq!(read_all(&disks[0].source).await.expect("content"), one);
    f.write_disk("alpha", "a", 0, &pattern(8, 4096)).await;
    f.write_disk("alpha", "b", 4096, &pattern(9, 4096)).await;
    let hides_it = match read_all(&disks[1].source).await {
        Ok(content) => {
            assert!(content == two, "bytes of a later moment came out");
            true
        }
        Err(error) => {
            assert!(matches!(error, BlockError::Changed(_)), "{error:?}");
            false
        }
    };
    // The same token after a restart: the old moment, or one that says that it is another.
    match f.hypervisor().open_export(export_request(&vm, "t1", 2)).await {
        Ok(again) if again.exported().moment == session.exported().moment => {
            let held = contents(&*again).await.expect("content");
            assert!(hides_it && held[0].1 == one && held[1].1 == two, "the moment moved");
            again.release(false).await.expect("release");
        }
        Ok(again) => {
            assert!(!hides_it, "the platform let go of the moment");
            again.release(false).await.expect("release");
        }
        Err(error) => assert!(matches!(error, DriverError::Conflict(_)) && !hides_it, "{error:?}"),
    }
    if !hides_it {
        let released = session.release(false).await;
        assert!(matches!(released, Err(DriverError::Conflict(_))), "{released:?}");
    }
    // A new session has the new content.
    let fresh = f.hypervisor().open_export(export_request(&vm, "t2", 1)).await.expect("a new export");
    assert_ne!(fresh.exported().moment, session.exported().moment);
    assert_eq!(contents(&*fresh).await.expect("content")[1].1[4096..8192], pattern(9, 4096));
    fresh.release(false).await.expect("release");
}

/// With change tracking, an export says what changed since a checkpoint; without it, or when the checkpoint is
/// unknown, it says that it does not know.
pub async fn changes_since_a_checkpoint(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 1 << 20))]).await;
    let hypervisor = f.hypervisor();
    let tracks = hypervisor.capabilities().changed_blocks;
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let first = hypervisor.open_export(export_request(&vm, "t1", 1)).await.expect("an export");
    assert_eq!(first.exported().disks[0].changes, Changes::Unknown, "a first export has nothing to compare with");
    let checkpoint = first.exported().checkpoint.clone();
    assert_eq!(checkpoint.is_some(), tracks);
    first.release(true).await.expect("release");

    f.write_disk("alpha", "root", 524_288, &pattern(9, 4096)).await;
    let since = checkpoint.unwrap_or_else(|| "unknown".into());
    let keep = vec![since.clone()];
    let request = ExportRequest { since: Some(since.clone()), keep, ..export_request(&vm, "t2", 1) };
    let second = hypervisor.open_export(request).await.expect("an export");
    match &second.exported().disks[0].changes {
        Changes::Unknown | Changes::Lost(_) => assert!(!tracks, "the change was lost"),
        Changes::Ranges(ranges) => {
            assert!(tracks);
            assert!(ranges.iter().any(|r| r.start <= 524_288 && r.end >= 528_384), "{ranges:?}");
            assert!(ranges.windows(2).all(|w| w[0].end <= w[1].start) && ranges.iter().all(|r| r.end <= 1 << 20));
            assert!(ranges.iter().map(|r| r.end - r.start).sum::<u64>() < 1 << 20, "not everything changed");
        }
    }
    second.release(false).await.expect("release");
    let request = ExportRequest { since: Some("never-made".into()), ..export_request(&vm, "t3", 1) };
    let third = hypervisor.open_export(request).await.expect("an export");
    assert!(!matches!(third.exported().disks[0].changes, Changes::Ranges(_)), "what never was is no checkpoint");
    third.release(false).await.expect("release");
    // The third export kept none: the first's checkpoint is gone by now, or still good. It never tells less than all.
    let request = ExportRequest { since: Some(since), ..export_request(&vm, "t4", 1) };
    let fourth = hypervisor.open_export(request).await.expect("an export");
    if let Changes::Ranges(ranges) = &fourth.exported().disks[0].changes {
        assert!(ranges.iter().any(|r| r.start <= 524_288 && r.end >= 528_384), "{ranges:?}");
    }
    fourth.release(false).await.expect("release");
}

/// A release can be repeated, by another process too.
pub async fn release_can_be_repeated(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let session = hypervisor.open_export(export_request(&vm, "t1", 1)).await.expect("an export");
    session.release(false).await.expect("release");
    session.release(false).await.expect("release again");
    let session = f.hypervisor().open_export(export_request(&vm, "t1", 1)).await.expect("an export");
    session.release(false).await.expect("release");
}

/// Who cleans up after a session lets go of its moment without opening one: of a live session, of none, twice; and
/// not of one that a newer attempt holds.
pub async fn an_export_can_be_abandoned(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let abandoned = |token: &str, fence| AbandonedExport {
        vm: vm.native_id.clone(),
        incarnation: vm.incarnation.clone(),
        token: token.to_owned(),
        fence,
    };
    hypervisor.abandon_export(abandoned("never", 1)).await.expect("nothing to let go of");
    let session = hypervisor.open_export(export_request(&vm, "t1", 2)).await.expect("an export");
    match f.hypervisor().abandon_export(abandoned("t1", 1)).await {
        Ok(()) => contents(&*session).await.expect("an older attempt takes nothing from it"),
        Err(error) => {
            assert!(matches!(error, DriverError::Fenced), "{error:?}");
            contents(&*session).await.expect("content")
        }
    };
    drop(session);
    f.hypervisor().abandon_export(abandoned("t1", 3)).await.expect("abandoned");
    f.hypervisor().abandon_export(abandoned("t1", 3)).await.expect("abandoned again");
    let fresh = f.hypervisor().open_export(export_request(&vm, "t1", 4)).await.expect("a new export");
    contents(&*fresh).await.expect("content");
    fresh.release(false).await.expect("release");
    let gone = AbandonedExport { vm: "no-such-machine".into(), ..abandoned("t1", 5) };
    hypervisor.abandon_export(gone).await.expect("a machine that is gone holds no moment");
}
