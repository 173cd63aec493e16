//! Verification of what is no pack: configs, sessions and manifests, and what cannot be read without them.

use super::core::{Core, store_error};
use super::slots::{CONFIG, CONFIG_COPY};
use super::stored::{SessionState, StoredPoint, StoredSession, point_key};
use super::verify::object_damage;
use super::walk::{Blame, Fault};
use crate::format::config::Config;
use crate::object::ObjectError;
use crate::port::{Damage, RepoError, VerifyReport, VerifyScope};
use portolan_model::RecoveryPointId;
use std::sync::Arc;

/// The points to look at. What keeps one from being read goes to the report.
pub(super) async fn points_in_scope(
    core: &Arc<Core>,
    scope: VerifyScope,
    blame: &Blame,
    report: &mut VerifyReport,
) -> Result<Vec<StoredPoint>, RepoError> {
    let all = scope == VerifyScope::All;
    let ids: Vec<RecoveryPointId> = match scope {
        VerifyScope::Points(ids) => ids,
        VerifyScope::All => {
            let listed = core.objects.list("points/").await.map_err(store_error("list", "points/"))?;
            let mut ids = Vec::with_capacity(listed.len());
            for object in listed {
                match object.key.strip_prefix("points/").and_then(|id| id.parse().ok()) {
                    Some(id) if point_key(id) == object.key => ids.push(id),
                    _ => report.damage.push(object_damage(&object.key, "not a recovery point's name")),
                }
            }
            ids
        }
    };
    let mut points = Vec::with_capacity(ids.len());
    let mut lost = Vec::new();
    for id in ids {
        match core.stored_point(id).await {
            Ok(point) => points.push(point),
            // Deleted since it was listed, or nothing but a void.
            Err(RepoError::NotFound { .. }) if all => {}
            Err(e) => lost.push((id, blame.fault(&point_key(id), e)?)),
        }
    }
    if !lost.is_empty() {
        let sessions = read_sessions(core).await?;
        for (id, fault) in lost {
            report.damage.extend(lost_point(id, fault, &sessions));
        }
    }
    Ok(points)
}

/// What cannot be read without the manifest of a point: all of every disk. The session that made the point says
/// which disks those are.
fn lost_point(id: RecoveryPointId, (object, what): Fault, sessions: &[Session]) -> Vec<Damage> {
    let sessions = sessions.iter().filter_map(|session| session.opened.as_ref().ok());
    // A manifest is written in the first of these states, and as a rule the second one follows at once.
    let made =
        |s: &&StoredSession| s.point == id && matches!(s.state, SessionState::Committing | SessionState::Committed);
    let session = sessions.filter(made).max_by_key(|s| (s.state == SessionState::Committed, s.started));
    let damage = |disk, range| Damage { object: object.clone(), what: what.clone(), point: Some(id), disk, range };
    let disks: Vec<Damage> = session
        .into_iter()
        .flat_map(|session| &session.disks)
        .filter_map(|(name, disk)| Some((name, disk.finished.as_ref()?)))
        .map(|(name, disk)| damage(Some(name.clone()), Some(0..disk.stats.size_bytes)))
        .collect();
    if disks.is_empty() { vec![damage(None, None)] } else { disks }
}

/// A session's object.
struct Session {
    key: String,
    opened: Result<StoredSession, RepoError>,
}

async fn read_sessions(core: &Arc<Core>) -> Result<Vec<Session>, RepoError> {
    let mut sessions = Vec::new();
    for object in core.objects.list("sessions/").await.map_err(store_error("list", "sessions/"))? {
        let key = object.key;
        match core.objects.get(&key, None).await {
            Ok(bytes) => sessions.push(Session { opened: core.open_record(&key, &bytes), key }),
            Err(ObjectError::NotFound) => {}
            Err(e) => return Err(store_error("read", &key)(e)),
        }
    }
    Ok(sessions)
}

/// Checks that the sessions open. No recovery point needs one; a backup that is under way does.
pub(super) async fn check_sessions(
    core: &Arc<Core>,
    blame: &Blame,
    report: &mut VerifyReport,
) -> Result<(), RepoError> {
    for Session { key, opened } in read_sessions(core).await? {
        if let Err(e) = opened {
            let (_, what) = blame.fault(&key, e)?;
            report.damage.push(object_damage(&key, format!("{what}; no disk of a recovery point needs it")));
        }
    }
    Ok(())
}

/// Checks both copies of the config. While one is good nothing is lost; without any, everything is.
pub(super) async fn check_configs(
    core: &Arc<Core>,
    points: &[StoredPoint],
    report: &mut VerifyReport,
) -> Result<(), RepoError> {
    let mut faults: Vec<Fault> = Vec::new();
    for name in [CONFIG, CONFIG_COPY] {
        match core.objects.get(name, None).await {
            Ok(bytes) => faults.extend(Config::decode(&bytes).err().map(|e| (name.to_owned(), e.to_string()))),
            Err(ObjectError::NotFound) => faults.push((name.to_owned(), "it is missing".into())),
            Err(e) => return Err(store_error("read", name)(e)),
        }
    }
    if let [(object, what)] = &faults[..] {
        report.damage.push(object_damage(object, format!("{what}; no disk is affected: the other copy serves")));
        return Ok(());
    }
    for (object, what) in faults {
        // Open as it is now, the repository can be read; once closed, it cannot be opened again.
        let what = format!("{what}; without a good copy no key opens anything");
        let places = points.iter().flat_map(|point| {
            let disks = point.manifest.disks.iter();
            disks.map(|disk| Damage {
                object: object.clone(),
                what: what.clone(),
                point: Some(point.manifest.id),
                disk: Some(disk.name.clone()),
                range: Some(0..disk.stats.size_bytes),
            })
        });
        report.damage.push(object_damage(&object, what.clone()));
        report.damage.extend(places);
    }
    Ok(())
}
