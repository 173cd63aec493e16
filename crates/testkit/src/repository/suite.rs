//! The suites.

use super::*;

/// Every rule of the object port.
pub async fn objects_conform(objects: &dyn ObjectStore) {
    let put = |key: &'static str, content: &'static [u8]| objects.put_new(key, Bytes::from_static(content));
    put("a/one", b"first").await.unwrap();
    assert!(matches!(put("a/one", b"other").await, Err(ObjectError::AlreadyExists)));
    assert_eq!(&objects.get("a/one", None).await.unwrap()[..], b"first");
    assert_eq!(&objects.get("a/one", Some(1..3)).await.unwrap()[..], b"ir");
    assert!(objects.get("a/one", Some(2..2)).await.unwrap().is_empty());
    assert!(matches!(objects.get("a/one", Some(0..6)).await, Err(ObjectError::OutOfRange)));
    assert!(matches!(objects.get("a/two", None).await, Err(ObjectError::NotFound)));
    assert!(matches!(objects.get("b/two", None).await, Err(ObjectError::NotFound)));
    assert!(matches!(objects.head("a/two").await, Err(ObjectError::NotFound)));
    assert_eq!(objects.head("a/one").await.unwrap(), 5);
    put("empty", b"").await.unwrap();
    assert_eq!(objects.head("empty").await.unwrap(), 0);

    let (content, tag) = objects.get_tagged("a/one").await.unwrap();
    assert_eq!(&content[..], b"first");
    let next = objects.replace("a/one", Bytes::from_static(b"second"), &tag).await.unwrap();
    assert!(matches!(objects.replace("a/one", Bytes::new(), &tag).await, Err(ObjectError::Changed)));
    assert!(matches!(objects.replace("a/two", Bytes::new(), &tag).await, Err(ObjectError::Changed)));
    assert_eq!(objects.get_tagged("a/one").await.unwrap(), (Bytes::from_static(b"second"), next));

    put("a/b/deep", b"x").await.unwrap();
    put("ab", b"y").await.unwrap();
    let keys = |prefix: &'static str| async move {
        objects.list(prefix).await.unwrap().into_iter().map(|o| o.key).collect::<Vec<_>>()
    };
    assert_eq!(keys("").await, ["a/b/deep", "a/one", "ab", "empty"]);
    assert_eq!(keys("a/").await, ["a/b/deep", "a/one"]);
    assert_eq!(keys("a/o").await, ["a/one"]);
    assert_eq!(keys("a").await, ["a/b/deep", "a/one", "ab"]);
    assert!(keys("none/").await.is_empty());
    assert_eq!(objects.list("a/one").await.unwrap()[0].bytes, 6);

    objects.delete("a/one").await.unwrap();
    assert!(matches!(objects.delete("a/one").await, Err(ObjectError::NotFound)));
    assert_eq!(keys("a/").await, ["a/b/deep"]);

    for key in ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".", ".tmp/x", "a/.hidden", "a b", "ä", "a\0b", "a\\b"] {
        assert!(matches!(objects.put_new(key, Bytes::new()).await, Err(ObjectError::InvalidKey(_))), "{key:?}");
        assert!(matches!(objects.get(key, None).await, Err(ObjectError::InvalidKey(_))), "{key:?}");
        assert!(matches!(objects.delete(key).await, Err(ObjectError::InvalidKey(_))), "{key:?}");
    }
    assert!(matches!(objects.list("../").await, Err(ObjectError::InvalidKey(_))));
}

/// Every rule of the repository port. `make` gives an empty repository each time.
pub async fn repository_conforms<F: RepositoryFixture>(make: impl AsyncFn() -> F) {
    full_and_incremental(&make().await).await;
    reads_only_what_it_must(&make().await).await;
    sizes_that_do_not_fit(&make().await).await;
    random_access(&make().await).await;
    sessions_resume(&make().await).await;
    sessions_are_fenced(&make().await).await;
    commits_repeat(&make().await).await;
    source_errors_fail(&make().await).await;
    cancelling_stops(&make().await).await;
    points_are_listed_and_deleted(&make().await).await;
    attachments_are_kept(&make().await).await;
    sound_data_verifies(&make().await).await;
    other_processes_are_seen(&make().await).await;
}

/// A full backup, increments with and without known changes, and a point that outlives its parent.
pub async fn full_and_incremental(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let first = sample_disk(1, 3 << 20);
    let (manifest, full) = back_up(&*repository, fixture.clock(), spec(1, 1, None), None, &first).await.unwrap();
    assert_eq!((manifest.id, manifest.vm, manifest.disks.len()), (point_id(1), vm(1), 1));
    assert_eq!(full.size_bytes, 3 << 20);
    assert_eq!(full.changed_bytes, full.new_bytes + full.deduplicated_bytes);
    assert!(full.stored_bytes > 0 && full.stored_bytes < full.size_bytes);
    assert_restores(&*repository, point_id(1), "root", &first).await;

    let mut second = first.clone();
    second[5 * CHUNK as usize + 7..][..9000].copy_from_slice(&noise(9, 9000));
    second[2 * CHUNK as usize..3 * CHUNK as usize].fill(0);
    let changed = vec![2 * CHUNK..3 * CHUNK, 5 * CHUNK + 7..5 * CHUNK + 9007];
    let (_, known) = back_up(&*repository, fixture.clock(), spec(2, 1, Some(1)), Some(changed), &second).await.unwrap();
    assert_eq!(known.changed_bytes, 2 * CHUNK);
    assert_eq!(known.new_bytes, CHUNK);
    assert!(known.read_bytes <= CHUNK);
    assert_restores(&*repository, point_id(2), "root", &second).await;
    let ranges = repository.changed(point_id(1), point_id(2), "root").await.unwrap();
    assert_eq!(ranges, [2 * CHUNK..3 * CHUNK, 5 * CHUNK..6 * CHUNK]);

    let mut third = second.clone();
    third[0..4].copy_from_slice(b"boot");
    let (_, unknown) = back_up(&*repository, fixture.clock(), spec(3, 1, Some(2)), None, &third).await.unwrap();
    assert_eq!((unknown.changed_bytes, unknown.new_bytes), (CHUNK, CHUNK));
    repository.delete(point_id(1)).await.unwrap();
    repository.delete(point_id(2)).await.unwrap();
    assert_restores(&*repository, point_id(3), "root", &third).await;

    // The same content again, without a parent: nothing is stored but the point.
    let (_, again) = back_up(&*repository, fixture.clock(), spec(4, 1, None), None, &third).await.unwrap();
    assert_eq!((again.new_bytes, again.stored_bytes), (0, 0));
    assert_eq!(again.deduplicated_bytes, again.changed_bytes);
    let gone = back_up(&*repository, fixture.clock(), spec(5, 1, Some(1)), None, &third).await;
    assert!(matches!(gone, Err(RepoError::ParentMissing(p)) if p == point_id(1)));
    let other = SessionSpec { vm: vm(2), ..spec(6, 1, Some(3)) };
    assert!(matches!(repository.begin(other).await, Err(RepoError::ParentMissing(_))));
}

/// Holes are never read; with known changes nothing else is.
pub async fn reads_only_what_it_must(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let mut data = vec![0; 200 << 20];
    data[70 << 20..][..300_000].copy_from_slice(&noise(3, 300_000));
    data[150 << 20..][..4096].copy_from_slice(&noise(4, 4096));
    let source = ProbeSource::new(data.clone());
    let session = repository.begin(spec(1, 1, None)).await.unwrap();
    let stats = session.disk(disk("root", None), source.clone(), &Unobserved).await.unwrap();
    session.commit(meta(fixture.clock())).await.unwrap();
    assert_eq!(stats.read_bytes, source.bytes_read());
    assert!(source.bytes_read() < 400_000, "{} bytes were read", source.bytes_read());

    data[150 << 20] ^= 1;
    let source = ProbeSource::new(data.clone());
    let session = repository.begin(spec(2, 1, Some(1))).await.unwrap();
    let changed = Some(vec![(150 << 20)..(150 << 20) + 1]);
    session.disk(disk("root", changed), source.clone(), &Unobserved).await.unwrap();
    session.commit(meta(fixture.clock())).await.unwrap();
    assert_eq!(*source.reads.lock().unwrap(), [150 << 20..(150 << 20) + 4096]);
    assert_restores(&*repository, point_id(2), "root", &data).await;
}

/// Sizes that are no whole number of chunks, and disks that grow and shrink between points.
pub async fn sizes_that_do_not_fit(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let mut n = 0;
    let mut parent: Option<u128> = None;
    let mut last: Vec<u8> = Vec::new();
    let sizes =
        [0, 1, 511, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 77, 3 * CHUNK + 5, 3 * CHUNK, 2 * CHUNK - 9, 0, 999];
    for size in sizes {
        for known in [false, true] {
            n += 1;
            let mut data = noise(n as u64 % 3, size as usize);
            let shared = last.len().min(data.len());
            // What both have stays the same, so that no range needs to name it.
            data[..shared].copy_from_slice(&last[..shared]);
            let changed = known.then(Vec::new);
            back_up(&*repository, fixture.clock(), spec(n, 1, parent), changed, &data).await.unwrap();
            assert_restores(&*repository, point_id(n), "root", &data).await;
            (last, parent) = (data, Some(n));
        }
    }
    let report = repository.verify(VerifyScope::All, VerifyDepth::Data, &Unobserved).await.unwrap();
    assert_eq!(report.damage, []);
}

/// Reads anywhere, extents, and requests past the end.
pub async fn random_access(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let data = sample_disk(5, (3 << 20) + 12345);
    back_up(&*repository, fixture.clock(), spec(1, 1, None), None, &data).await.unwrap();
    let source = repository.open_disk(point_id(1), "root").await.unwrap();
    let size = source.size();
    assert_eq!(size, data.len() as u64);
    let ranges: Vec<_> = [0..1, 0..size, CHUNK - 1..CHUNK + 1, size - 3..size, 77_777..1_234_567, 5..5].into();
    let read = source.read_many(&ranges).await.unwrap();
    for (range, bytes) in ranges.iter().zip(read) {
        assert!(bytes == data[range.start as usize..range.end as usize], "{range:?}");
        let one = source.read_at(range.start, (range.end - range.start) as usize).await.unwrap();
        assert!(one == bytes, "{range:?}");
    }
    let past = source.read_at(size - 1, 2).await;
    assert!(matches!(past, Err(BlockError::OutOfRange { .. })));
    let extents = source.extents(10..size - 10).await.unwrap();
    assert_eq!((extents[0].offset, extents.last().unwrap().end()), (10, size - 10));
    assert!(extents.windows(2).all(|w| w[0].end() == w[1].offset && w[0].kind != w[1].kind));
    for hole in extents.iter().filter(|e| e.kind == ExtentKind::Hole) {
        assert!(data[hole.offset as usize..hole.end() as usize].iter().all(|b| *b == 0));
    }
    assert!(matches!(repository.open_disk(point_id(1), "none").await, Err(RepoError::NotFound { what: "disk", .. })));
    assert!(matches!(repository.open_disk(point_id(9), "root").await, Err(RepoError::NotFound { .. })));
}

/// Another process goes on where one ended: finished disks are not read again, stored chunks not stored.
pub async fn sessions_resume(fixture: &dyn RepositoryFixture) {
    let (first, second) = (sample_disk(1, 2 << 20), sample_disk(2, 2 << 20));
    let stats = {
        let repository = fixture.open().await;
        let session = repository.begin(spec(1, 1, None)).await.unwrap();
        let source = Arc::new(MemorySource::new(first.clone()));
        session.attach("vm.json", Bytes::from_static(b"{}")).await.unwrap();
        let stats = session.disk(disk("a", None), source, &Unobserved).await.unwrap();
        let summary = session.seal().await.unwrap();
        assert_eq!(summary.disks, [("a".to_owned(), stats)]);
        stats
    };
    let repository = fixture.open().await;
    let session = repository.begin(spec(1, 2, None)).await.unwrap();
    let source = ProbeSource::new(first.clone());
    assert_eq!(session.disk(disk("a", None), source.clone(), &Unobserved).await.unwrap(), stats);
    assert_eq!(source.bytes_read(), 0);
    let failing = ProbeSource::failing(second.clone(), 1 << 20..2 << 20);
    let failed = session.disk(disk("b", None), failing, &Unobserved).await;
    assert!(matches!(failed, Err(RepoError::Source { disk, .. }) if disk == "b"));
    drop(session);
    let repository = fixture.open().await;
    let session = repository.begin(spec(1, 3, None)).await.unwrap();
    let refused = session.commit(meta(fixture.clock())).await;
    assert!(matches!(refused, Err(RepoError::Conflict(_))), "a disk is missing");
    session.disk(disk("b", None), Arc::new(MemorySource::new(second.clone())), &Unobserved).await.unwrap();
    let manifest = session.commit(meta(fixture.clock())).await.unwrap();
    assert_eq!(manifest.attachments, ["vm.json"]);
    assert_restores(&*repository, point_id(1), "a", &first).await;
    assert_restores(&*repository, point_id(1), "b", &second).await;
}

/// A newer fence takes over; the older attempt can do nothing more.
pub async fn sessions_are_fenced(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let data = sample_disk(1, 1 << 20);
    let source = || Arc::new(MemorySource::new(data.clone()));
    let old = repository.begin(spec(1, 5, None)).await.unwrap();
    old.disk(disk("a", None), source(), &Unobserved).await.unwrap();
    let new = fixture.open().await.begin(spec(1, 6, None)).await.unwrap();
    assert!(matches!(old.disk(disk("b", None), source(), &Unobserved).await, Err(RepoError::Fenced)));
    assert!(matches!(old.attach("x", Bytes::new()).await, Err(RepoError::Fenced)));
    assert!(matches!(old.seal().await, Err(RepoError::Fenced)));
    assert!(matches!(old.commit(meta(fixture.clock())).await, Err(RepoError::Fenced)));
    assert!(matches!(old.abort().await, Err(RepoError::Fenced)));
    assert!(matches!(repository.begin(spec(1, 5, None)).await, Err(RepoError::Fenced)));
    assert!(matches!(repository.point(point_id(1)).await, Err(RepoError::NotFound { .. })));
    new.commit(meta(fixture.clock())).await.unwrap();
    assert!(matches!(old.commit(meta(fixture.clock())).await, Err(RepoError::Fenced)));
    assert_restores(&*repository, point_id(1), "a", &data).await;
}

/// A commit that is repeated says the same; an aborted session stays without a point, and can begin anew.
pub async fn commits_repeat(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let data = sample_disk(1, 1 << 20);
    let session = repository.begin(spec(1, 1, None)).await.unwrap();
    session.disk(disk("root", None), Arc::new(MemorySource::new(data.clone())), &Unobserved).await.unwrap();
    let manifest = session.commit(meta(fixture.clock())).await.unwrap();
    fixture.clock().advance(Duration::from_secs(60));
    assert_eq!(session.commit(meta(fixture.clock())).await.unwrap(), manifest);
    let again = fixture.open().await.begin(spec(1, 2, None)).await.unwrap();
    assert_eq!(again.commit(meta(fixture.clock())).await.unwrap(), manifest);
    again.abort().await.unwrap();
    assert_eq!(repository.point(point_id(1)).await.unwrap(), manifest);
    let thief = SessionSpec { id: Uuid::from_u128(77), ..spec(1, 1, None) };
    let thief = repository.begin(thief).await.unwrap();
    assert!(matches!(thief.commit(meta(fixture.clock())).await, Err(RepoError::Conflict(_))));
    repository.delete(point_id(1)).await.unwrap();
    assert!(matches!(again.commit(meta(fixture.clock())).await, Err(RepoError::NotFound { .. })));

    let session = repository.begin(spec(2, 1, None)).await.unwrap();
    session.disk(disk("root", None), Arc::new(MemorySource::new(data.clone())), &Unobserved).await.unwrap();
    session.abort().await.unwrap();
    assert!(matches!(session.commit(meta(fixture.clock())).await, Err(RepoError::Conflict(_))));
    assert!(repository.points(PointFilter::default()).await.unwrap().is_empty());
    let (_, stats) = back_up(&*repository, fixture.clock(), spec(2, 2, None), None, &data).await.unwrap();
    assert_eq!(stats.new_bytes, 0, "the chunks of the aborted session are still there");
}

/// A source that cannot be read fails the disk, and the session cannot be committed without it.
pub async fn source_errors_fail(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let data = noise(1, 2 << 20);
    for at in [0, 1_000_000, (2 << 20) - 1] {
        let session = repository.begin(spec(1, 1, None)).await.unwrap();
        let source = ProbeSource::failing(data.clone(), at..at + 1);
        let failed = session.disk(disk("root", None), source, &Unobserved).await;
        assert!(matches!(failed, Err(RepoError::Source { disk, .. }) if disk == "root"));
        assert!(matches!(session.commit(meta(fixture.clock())).await, Err(RepoError::Conflict(_))));
    }
    assert!(repository.points(PointFilter::default()).await.unwrap().is_empty());
    back_up(&*repository, fixture.clock(), spec(1, 1, None), None, &data).await.unwrap();
    assert_restores(&*repository, point_id(1), "root", &data).await;
}

/// An observer stops reading, verifying and restoring.
pub async fn cancelling_stops(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let data = noise(1, 1 << 20);
    let stopped = Stopper(AtomicBool::new(true));
    let session = repository.begin(spec(1, 1, None)).await.unwrap();
    let source = Arc::new(MemorySource::new(data.clone()));
    assert!(matches!(session.disk(disk("root", None), source, &stopped).await, Err(RepoError::Cancelled)));
    back_up(&*repository, fixture.clock(), spec(1, 1, None), None, &data).await.unwrap();
    let verified = repository.verify(VerifyScope::All, VerifyDepth::Data, &stopped).await;
    assert!(matches!(verified, Err(RepoError::Cancelled)));
    let source = repository.open_disk(point_id(1), "root").await.unwrap();
    let sink = MemorySink::new(source.size());
    assert!(matches!(copy_disk(&*source, &sink, &stopped).await, Err(RepoError::Cancelled)));
    let small = MemorySink::new(source.size() - 1);
    assert!(matches!(copy_disk(&*source, &small, &Unobserved).await, Err(RepoError::Sink { .. })));
}

/// Lists are in order and filtered; locked points stay.
pub async fn points_are_listed_and_deleted(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let tenant = TenantId::from_uuid(Uuid::from_u128(5));
    for n in [3, 1, 2] {
        fixture.clock().advance(Duration::from_secs(10));
        let session = repository.begin(SessionSpec { vm: vm(n % 2), ..spec(n, 1, None) }).await.unwrap();
        let locked_until = (n == 2).then(|| fixture.clock().now() + Duration::from_secs(100));
        let meta = PointMeta { tenant: (n == 1).then_some(tenant), locked_until, ..meta(fixture.clock()) };
        session.commit(meta).await.unwrap();
    }
    let ids = |points: Vec<PointManifest>| points.iter().map(|p| p.id).collect::<Vec<_>>();
    let all = repository.points(PointFilter::default()).await.unwrap();
    assert_eq!(ids(all), [point_id(3), point_id(1), point_id(2)]);
    let of_vm = repository.points(PointFilter { vm: Some(vm(0)), tenant: None }).await.unwrap();
    assert_eq!(ids(of_vm), [point_id(2)]);
    let of_tenant = repository.points(PointFilter { vm: None, tenant: Some(tenant) }).await.unwrap();
    assert_eq!(ids(of_tenant), [point_id(1)]);

    repository.delete(point_id(1)).await.unwrap();
    assert!(matches!(repository.delete(point_id(1)).await, Err(RepoError::NotFound { .. })));
    assert!(matches!(repository.delete(point_id(2)).await, Err(RepoError::Locked { .. })));
    fixture.clock().advance(Duration::from_secs(101));
    repository.delete(point_id(2)).await.unwrap();
    assert_eq!(ids(repository.points(PointFilter::default()).await.unwrap()), [point_id(3)]);
}

/// Attachments come back as they were, the last of a name.
pub async fn attachments_are_kept(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let session = repository.begin(spec(1, 1, None)).await.unwrap();
    session.attach("vm.json", Bytes::from_static(b"old")).await.unwrap();
    session.seal().await.unwrap();
    session.attach("vm.json", Bytes::from_static(b"new")).await.unwrap();
    session.attach("empty", Bytes::new()).await.unwrap();
    let zeros = Bytes::from(vec![0; 300_000]);
    session.attach("nvram", zeros.clone()).await.unwrap();
    let manifest = session.commit(meta(fixture.clock())).await.unwrap();
    assert_eq!(manifest.attachments, ["empty", "nvram", "vm.json"]);
    let repository = fixture.open().await;
    assert_eq!(&repository.attachment(point_id(1), "vm.json").await.unwrap()[..], b"new");
    assert!(repository.attachment(point_id(1), "empty").await.unwrap().is_empty());
    assert_eq!(repository.attachment(point_id(1), "nvram").await.unwrap(), zeros);
    let none = repository.attachment(point_id(1), "none").await;
    assert!(matches!(none, Err(RepoError::NotFound { what: "attachment", .. })));
}

/// Verification of sound data finds nothing at any depth, and usage adds up.
pub async fn sound_data_verifies(fixture: &dyn RepositoryFixture) {
    let repository = fixture.open().await;
    let data = sample_disk(1, 2 << 20);
    back_up(&*repository, fixture.clock(), spec(1, 1, None), None, &data).await.unwrap();
    back_up(&*repository, fixture.clock(), spec(2, 1, None), None, &data).await.unwrap();
    for depth in [VerifyDepth::Structure, VerifyDepth::Pack, VerifyDepth::Data] {
        let scopes = [(VerifyScope::All, 2), (VerifyScope::Points(vec![point_id(2)]), 1)];
        for (scope, points) in scopes {
            let report = repository.verify(scope, depth, &Unobserved).await.unwrap();
            assert_eq!(report.damage, []);
            assert_eq!((report.points, report.disks), (points, points));
            assert!(report.chunks > 0);
            assert_eq!(report.read_bytes > 0, depth > VerifyDepth::Structure);
        }
    }
    let missing = VerifyScope::Points(vec![point_id(7)]);
    let report = repository.verify(missing, VerifyDepth::Structure, &Unobserved).await.unwrap();
    assert_eq!(report.damage[0].point, Some(point_id(7)));
    let usage = repository.usage().await.unwrap();
    assert_eq!(usage.points, 2);
    assert!(usage.unique_bytes > 0 && usage.unique_bytes <= usage.logical_bytes / 2);
    assert!(usage.stored_bytes > 0);
}

/// A repository that stays open sees what other processes write.
pub async fn other_processes_are_seen(fixture: &dyn RepositoryFixture) {
    let (here, there) = (fixture.open().await, fixture.open().await);
    let data = sample_disk(1, 2 << 20);
    back_up(&*there, fixture.clock(), spec(1, 1, None), None, &data).await.unwrap();
    assert_restores(&*here, point_id(1), "root", &data).await;
    let (_, stats) = back_up(&*here, fixture.clock(), spec(2, 1, None), None, &data).await.unwrap();
    assert_eq!(stats.new_bytes, 0);
    there.delete(point_id(1)).await.unwrap();
    let left = here.points(PointFilter::default()).await.unwrap();
    assert_eq!(left.iter().map(|p| p.id).collect::<Vec<_>>(), [point_id(2)]);
}
