//! Conformance of imports.

use super::{HypervisorFixture, contents, export_request, find, pattern};
use bytes::Bytes;
use portolan_block::BlockError;
use portolan_driver::{DiskImport, DriverError, Hypervisor, ImportRequest, ImportSession, NativeNic, NativeVm};
use portolan_model::vm::PowerState;
use std::sync::Arc;

/// A wish for a machine with these disks: name and size.
pub fn import_request(name: &str, token: &str, fence: i64, disks: &[(&str, u64)]) -> ImportRequest {
    let disk = |(name, size_bytes): &(&str, u64)| DiskImport {
        name: (*name).to_owned(),
        size_bytes: *size_bytes,
        datastore: None,
        format: None,
    };
    ImportRequest {
        token: token.to_owned(),
        fence,
        name: name.to_owned(),
        template: None,
        cluster: None,
        host: None,
        datastore: None,
        overwrite: false,
        disks: disks.iter().map(disk).collect(),
    }
}

/// The cases that need [`portolan_driver::Capabilities::import`].
pub async fn import_all<F: HypervisorFixture>(make: &impl Fn() -> F) {
    import_makes_a_machine(&make()).await;
    import_is_continued_after_a_restart(&make()).await;
    import_commit_can_be_repeated(&make()).await;
    import_of_an_older_attempt_is_fenced(&make()).await;
    import_abort_leaves_nothing(&make()).await;
    import_never_replaces_unasked(&make()).await;
    import_replaces_when_asked(&make()).await;
    imports_of_one_name_have_one_winner(&make()).await;
    import_refuses_bad_requests(&make()).await;
}

/// A driver without imports says so.
pub async fn import_is_unsupported(f: &impl HypervisorFixture) {
    let error = f.hypervisor().begin_import(import_request("new", "t1", 1, &[("root", 4096)])).await.err();
    assert!(matches!(error, Some(DriverError::Unsupported(_))), "{error:?}");
}

async fn write(session: &dyn ImportSession, disk: &str, offset: u64, data: Vec<u8>) -> Result<(), BlockError> {
    let sink = session.disk(disk).await.expect("a disk");
    sink.write_at(offset, Bytes::from(data)).await?;
    sink.flush().await
}

async fn exported(hypervisor: &Arc<dyn Hypervisor>, vm: &NativeVm) -> Vec<(String, Vec<u8>)> {
    let session = hypervisor.open_export(export_request(vm, "check", 1)).await.expect("an export");
    let held = contents(&*session).await.expect("content");
    session.release(false).await.expect("release");
    held
}

/// A machine appears at the commit, whole, with what was written and what its template says.
pub async fn import_makes_a_machine(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let before = hypervisor.inventory().await.expect("a listing");
    let mut template = find(&hypervisor, "alpha").await.expect("alpha");
    template.cpus = 6;
    template.memory_bytes = 3 << 30;
    template.power = PowerState::Running;
    template.tags = vec!["gold".into()];
    template.nics = vec![NativeNic { name: "eth0".into(), mac: "52:54:00:00:00:01".into(), addresses: vec![] }];
    let mut request = import_request("Neu 新", "t1", 1, &[("z-root", 1 << 20), ("a-data", 8192)]);
    request.template = Some(template.clone());
    let session = hypervisor.begin_import(request).await.expect("an import");
    let sink = session.disk("z-root").await.expect("a disk");
    assert_eq!(sink.size(), 1 << 20);
    sink.write_at(4096, Bytes::from(pattern(2, 65_536))).await.expect("write");
    sink.write_at((1 << 20) - 512, Bytes::from(pattern(3, 512))).await.expect("write");
    sink.zero(10_000..20_000).await.expect("zero");
    sink.zero(500_000..500_000).await.expect("zero nothing");
    sink.flush().await.expect("flush");
    for (offset, len) in [((1 << 20) - 1, 2), (1 << 20, 1), (u64::MAX, 1)] {
        let past = sink.write_at(offset, Bytes::from(pattern(1, len))).await;
        assert!(matches!(past, Err(BlockError::OutOfRange { .. })), "{past:?}");
    }
    assert!(matches!(sink.zero(0..(1 << 20) + 1).await, Err(BlockError::OutOfRange { .. })));
    write(&*session, "a-data", 512, pattern(4, 512)).await.expect("write");
    assert_eq!(hypervisor.inventory().await.expect("a listing").vms, before.vms, "nothing shows before the commit");
    let vm = session.commit().await.expect("commit");

    assert_eq!(find(&f.hypervisor(), "Neu 新").await.as_ref(), Some(&vm));
    assert_eq!((vm.cpus, vm.memory_bytes, vm.power), (6, 3 << 30, PowerState::Stopped));
    assert_eq!((&vm.tags, &vm.nics), (&template.tags, &template.nics));
    let mut root = vec![0; 1 << 20];
    root[4096..4096 + 65_536].copy_from_slice(&pattern(2, 65_536));
    root[(1 << 20) - 512..].copy_from_slice(&pattern(3, 512));
    root[10_000..20_000].fill(0);
    let mut data = vec![0; 8192];
    data[512..1024].copy_from_slice(&pattern(4, 512));
    let held = exported(&hypervisor, &vm).await;
    assert_eq!(held.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["z-root", "a-data"], "in their order");
    assert!(held[0].1 == root && held[1].1 == data);
}

/// A newer attempt goes on with what was written before a restart.
pub async fn import_is_continued_after_a_restart(f: &impl HypervisorFixture) {
    let wish = |fence| import_request("new", "t1", fence, &[("root", 8192)]);
    let first = f.hypervisor().begin_import(wish(1)).await.expect("an import");
    write(&*first, "root", 0, pattern(1, 4096)).await.expect("write");
    drop(first);
    let second = f.hypervisor().begin_import(wish(2)).await.expect("the same import");
    write(&*second, "root", 4096, pattern(2, 4096)).await.expect("write");
    let vm = second.commit().await.expect("commit");
    let held = exported(&f.hypervisor(), &vm).await;
    assert!(held[0].1 == [pattern(1, 4096), pattern(2, 4096)].concat());

    let other = import_request("new", "t2", 1, &[("root", 8192)]);
    assert!(f.hypervisor().begin_import(ImportRequest { overwrite: true, ..other.clone() }).await.is_ok());
    let different = ImportRequest { overwrite: true, disks: vec![], fence: 2, ..other };
    let error = f.hypervisor().begin_import(different).await.err();
    assert!(matches!(error, Some(DriverError::Conflict(_))), "a token stands for one wish: {error:?}");
}

/// A commit whose answer was lost is repeated, and finds the machine that it made.
pub async fn import_commit_can_be_repeated(f: &impl HypervisorFixture) {
    let wish = |fence| import_request("new", "t1", fence, &[("root", 4096)]);
    let first = f.hypervisor().begin_import(wish(1)).await.expect("an import");
    write(&*first, "root", 0, pattern(1, 4096)).await.expect("write");
    let vm = first.commit().await.expect("commit");
    assert_eq!(first.commit().await.expect("commit again"), vm);
    let again = f.hypervisor().begin_import(wish(2)).await.expect("the same import");
    assert_eq!(again.commit().await.expect("commit again"), vm);
    again.abort().await.expect("does nothing after a commit");
    assert_eq!(find(&f.hypervisor(), "new").await.as_ref(), Some(&vm));
    assert!(exported(&f.hypervisor(), &vm).await[0].1 == pattern(1, 4096));
}

/// A worker that lost its task can neither write nor commit nor drop what its successor owns.
pub async fn import_of_an_older_attempt_is_fenced(f: &impl HypervisorFixture) {
    let wish = |fence| import_request("new", "t1", fence, &[("root", 4096)]);
    let old = f.hypervisor().begin_import(wish(3)).await.expect("an import");
    let old_sink = old.disk("root").await.expect("a disk");
    let new = f.hypervisor().begin_import(wish(4)).await.expect("the same import");
    write(&*new, "root", 0, pattern(2, 4096)).await.expect("write");
    let late = f.hypervisor().begin_import(wish(3)).await.err();
    assert!(matches!(late, Some(DriverError::Fenced)), "{late:?}");
    assert!(matches!(old.disk("root").await.err(), Some(DriverError::Fenced)));
    assert!(matches!(old.commit().await, Err(DriverError::Fenced)));
    assert!(matches!(old.abort().await, Err(DriverError::Fenced)));
    assert!(old_sink.write_at(0, Bytes::from(pattern(1, 512))).await.is_err(), "an old sink still writes");
    assert!(old_sink.zero(0..512).await.is_err(), "an old sink still writes");
    let vm = new.commit().await.expect("commit");
    assert!(old_sink.write_at(0, Bytes::from(pattern(1, 512))).await.is_err(), "an old sink writes into a machine");
    assert!(exported(&f.hypervisor(), &vm).await[0].1 == pattern(2, 4096));
}

/// After an abort nothing is left, and the same token begins from zeros.
pub async fn import_abort_leaves_nothing(f: &impl HypervisorFixture) {
    let wish = |fence| import_request("new", "t1", fence, &[("root", 4096)]);
    let hypervisor = f.hypervisor();
    let first = hypervisor.begin_import(wish(1)).await.expect("an import");
    write(&*first, "root", 0, pattern(1, 4096)).await.expect("write");
    first.abort().await.expect("abort");
    first.abort().await.expect("abort again");
    assert!(first.commit().await.is_err(), "nothing is there to commit");
    assert!(find(&hypervisor, "new").await.is_none());
    let second = hypervisor.begin_import(wish(2)).await.expect("an import");
    write(&*second, "root", 0, pattern(2, 512)).await.expect("write");
    let vm = second.commit().await.expect("commit");
    let held = exported(&hypervisor, &vm).await;
    assert!(held[0].1[..512] == pattern(2, 512) && held[0].1[512..].iter().all(|b| *b == 0));
}

/// A machine that is there is not replaced unless that was asked for.
pub async fn import_never_replaces_unasked(f: &impl HypervisorFixture) {
    let hypervisor = f.hypervisor();
    let pending = hypervisor.begin_import(import_request("late", "t2", 1, &[("root", 4096)])).await.expect("an import");
    let first = hypervisor.begin_import(import_request("late", "t1", 1, &[("root", 4096)])).await.expect("an import");
    write(&*first, "root", 0, pattern(1, 4096)).await.expect("write");
    let made = first.commit().await.expect("commit");
    let error = pending.commit().await;
    assert!(matches!(error, Err(DriverError::Conflict(_))), "{error:?}");
    pending.abort().await.expect("abort");
    let third = hypervisor.begin_import(import_request("late", "t3", 1, &[("root", 4096)])).await.err();
    assert!(matches!(third, Some(DriverError::Conflict(_))), "known from the start: {third:?}");
    assert_eq!(find(&hypervisor, "late").await.as_ref(), Some(&made));
    assert!(exported(&hypervisor, &made).await[0].1 == pattern(1, 4096));
}

/// Replacing puts the new machine in the old one's place, as another incarnation.
pub async fn import_replaces_when_asked(f: &impl HypervisorFixture) {
    let hypervisor = f.hypervisor();
    let first = hypervisor.begin_import(import_request("alpha", "t1", 1, &[("root", 4096)])).await.expect("an import");
    write(&*first, "root", 0, pattern(1, 4096)).await.expect("write");
    let old = first.commit().await.expect("commit");
    let wish = ImportRequest { overwrite: true, ..import_request("alpha", "t2", 1, &[("other", 8192)]) };
    let second = hypervisor.begin_import(wish.clone()).await.expect("an import");
    write(&*second, "other", 0, pattern(2, 8192)).await.expect("write");
    assert_eq!(find(&hypervisor, "alpha").await.as_ref(), Some(&old), "until the commit the old one stands");
    let new = second.commit().await.expect("commit");
    assert_ne!((&old.native_id, &old.incarnation), (&new.native_id, &new.incarnation));
    let listing = hypervisor.inventory().await.expect("a listing");
    assert_eq!(listing.vms.iter().filter(|vm| vm.name == "alpha").collect::<Vec<_>>(), [&new]);
    assert_eq!(exported(&hypervisor, &new).await, vec![("other".to_owned(), pattern(2, 8192))]);
    let again = f.hypervisor().begin_import(ImportRequest { fence: 2, ..wish }).await.expect("the same import");
    assert_eq!(again.commit().await.expect("commit again"), new);
}

/// Of imports that race for a name exactly one wins; the others are told, and nothing of them is left to see.
pub async fn imports_of_one_name_have_one_winner(f: &impl HypervisorFixture) {
    let hypervisor = f.hypervisor();
    let mut sessions = Vec::new();
    for n in 0..6u8 {
        let wish = import_request("race", &format!("t{n}"), 1, &[("root", 4096)]);
        let session = hypervisor.begin_import(wish).await.expect("an import");
        write(&*session, "root", 0, pattern(n, 4096)).await.expect("write");
        sessions.push((n, session));
    }
    let tasks: Vec<_> =
        sessions.into_iter().map(|(n, s)| tokio::spawn(async move { (n, s.commit().await, s) })).collect();
    let mut winners = Vec::new();
    for task in tasks {
        let (n, result, session) = task.await.expect("no panic");
        match result {
            Ok(vm) => winners.push((n, vm)),
            Err(error) => {
                assert!(matches!(error, DriverError::Conflict(_)), "{error:?}");
                session.abort().await.expect("abort");
            }
        }
    }
    let [(n, vm)] = &winners[..] else { panic!("{} imports won", winners.len()) };
    let listing = hypervisor.inventory().await.expect("a listing");
    assert_eq!(listing.vms, std::slice::from_ref(vm));
    assert!(exported(&hypervisor, vm).await[0].1 == pattern(*n, 4096));
}

/// Names that would leave the machine, things that are not there, and disks that are asked for twice.
pub async fn import_refuses_bad_requests(f: &impl HypervisorFixture) {
    let hypervisor = f.hypervisor();
    for name in ["", ".", "..", "../x", "/etc/passwd", "a/b", ".hidden"] {
        let error = hypervisor.begin_import(import_request("new", "t1", 1, &[(name, 4096)])).await.err();
        assert!(matches!(error, Some(DriverError::Unsupported(_))), "{name:?}: {error:?}");
    }
    let twice = hypervisor.begin_import(import_request("new", "t1", 1, &[("a", 4096), ("a", 4096)])).await.err();
    assert!(matches!(twice, Some(DriverError::Conflict(_))), "{twice:?}");
    for store in ["nowhere", "../../..", "/"] {
        let wish = ImportRequest { datastore: Some(store.into()), ..import_request("new", "t1", 1, &[("a", 4096)]) };
        let error = hypervisor.begin_import(wish).await.err();
        assert!(matches!(error, Some(DriverError::NotFound { .. })), "{store}: {error:?}");
    }
    let session = hypervisor.begin_import(import_request("new", "t1", 1, &[("a", 4096)])).await.expect("an import");
    for name in ["b", "", "../a", "a/../a"] {
        let error = session.disk(name).await.err();
        assert!(matches!(error, Some(DriverError::NotFound { .. })), "{name:?}: {error:?}");
    }
    session.abort().await.expect("abort");
    assert!(hypervisor.inventory().await.expect("a listing").vms.is_empty());
}
