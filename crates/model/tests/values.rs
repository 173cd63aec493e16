//! The small values that everything else is made of: names, instants, secrets, scopes, roles, filters.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its values has to fail")]

use portolan_model::backup::{BackupStatus, CopyStatus, Origin, OriginKind, RestoreType};
use portolan_model::dialect::commissaire::HostStatus;
use portolan_model::dialect::vplus::MountState;
use portolan_model::mount::{QuotaMeasure, QuotaRule, QuotaScope, QuotaVerdict};
use portolan_model::query::{Direction, Filter, Page, Sort, Value};
use portolan_model::*;
use std::time::Duration;
use uuid::Uuid;

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

#[test]
fn names_are_trimmed_and_bounded_in_characters() {
    assert_eq!(Name::new("  wéb 01 ☃ ").unwrap().as_str(), "wéb 01 ☃");
    let longest = "☃".repeat(255);
    assert_eq!(Name::new(&longest).unwrap().as_str(), longest);
    assert_eq!(Name::new(format!("{longest}x")), Err(NameError::TooLong));
    assert_eq!(Name::new(" \t "), Err(NameError::Empty));
    assert_eq!(Name::new("a\nb"), Err(NameError::Control));
    assert_eq!(Name::new("a\u{7f}"), Err(NameError::Control));
    assert!(serde_json::from_str::<Name>("\"\"").is_err());
    assert_eq!(serde_json::to_string(&Name::new("a").unwrap()).unwrap(), "\"a\"");
}

#[test]
fn any_text_of_a_platform_becomes_a_valid_name() {
    for text in ["", " ", "\0\0", "a\nb", &"x".repeat(400), &format!("{}  y", "x".repeat(254)), "\u{202e}abc"] {
        let name = Name::lossy(text, "vm-1");
        assert_eq!(Name::new(name.as_str()).as_ref(), Ok(&name), "{text:?}");
    }
    assert_eq!(Name::lossy("", "vm-1").as_str(), "vm-1");
}

#[test]
fn scopes() {
    let (mine, theirs) = (TenantId::from_uuid(id(1)), TenantId::from_uuid(id(2)));
    let scopes = [Scope::All, Scope::Tenant(mine)];
    let owners = [None, Some(mine), Some(theirs)];
    let matrix: Vec<_> = scopes.iter().flat_map(|s| owners.map(|o| (s.can_read(o), s.can_write(o)))).collect();
    let (no, read, write) = ((false, false), (true, false), (true, true));
    assert_eq!(matrix, [write, write, write, read, write, no]);
    assert_eq!((Scope::All.tenant(), Scope::Tenant(mine).tenant()), (None, Some(mine)));
}

#[test]
fn roles() {
    let granted = |role: Role| Privilege::TABLE.iter().filter(|p| role.grants(p.0)).map(|p| p.1).collect::<Vec<_>>();
    assert_eq!(granted(Role::Administrator).len(), Privilege::TABLE.len());
    assert_eq!(
        granted(Role::Operator),
        ["INVENTORY_READ", "INVENTORY_WRITE", "BACKUP_READ", "BACKUP_WRITE", "RESTORE", "TASK_WRITE"]
    );
    assert_eq!(granted(Role::Viewer), ["INVENTORY_READ", "BACKUP_READ"]);
    let viewer = Caller { role: Role::Viewer, ..Caller::system() };
    assert!(viewer.require(Privilege::BackupRead).is_ok());
    let denied = viewer.require(Privilege::SecretRead).unwrap_err();
    assert_eq!(denied.to_string(), "the privilege SECRET_READ is needed");
}

#[test]
fn instants_print_in_utc_with_milliseconds() {
    assert_eq!(Timestamp::from_millis(1_795_222_804_000).to_string(), "2026-11-21T01:00:04.000Z");
    assert_eq!(Timestamp::from_micros(-1).to_string(), "1969-12-31T23:59:59.999Z");
    assert_eq!(Timestamp::from_micros(-1).as_millis(), -1);
    assert!(Timestamp::MAX.to_string().starts_with("9999-12-30"));
    assert!(Timestamp::MIN.to_string().starts_with("-009999-01-02"));
    assert_eq!(Timestamp::from_millis(i64::MAX), Timestamp::MAX);
    assert_eq!(Timestamp::MAX + Duration::MAX, Timestamp::MAX);
    assert_eq!(Timestamp::MIN - Duration::MAX, Timestamp::MIN);
    assert_eq!(Timestamp::from_millis(1).since(Timestamp::from_millis(3)), Duration::ZERO);
    assert_eq!(Timestamp::MAX.since(Timestamp::MIN), Duration::from_micros(i64::MAX as u64));
    assert_eq!(serde_json::to_string(&Timestamp::from_micros(5)).unwrap(), "5");
}

#[test]
fn secrets_do_not_print() {
    let secret = Secret::new("hunter2");
    let credential = Credential {
        id: CredentialId::from_uuid(id(1)),
        name: Name::new("root").unwrap(),
        tenant: None,
        user: "root".into(),
        password: Some(secret.clone()),
        ssh_key: None,
        secret_key: Some(secret.clone()),
        ssh_key_path: String::new(),
        created: Timestamp::default(),
        changed: Timestamp::default(),
    };
    for text in [format!("{secret}"), format!("{secret:?}"), format!("{credential:?}"), format!("{credential:#?}")] {
        assert!(text.contains("***") && !text.contains("hunter2"), "{text}");
    }
    assert!(secret.matches("hunter2") && !secret.matches("hunter") && !secret.matches("hunter3"));
    assert_eq!(secret.reveal(), "hunter2");
}

#[test]
fn ids_of_different_kinds_print_what_they_are() {
    let vm = VmId::from_uuid(id(7));
    assert_eq!(vm.to_string(), "00000000-0000-0000-0000-000000000007");
    assert_eq!(format!("{vm:?}"), "VmId(00000000-0000-0000-0000-000000000007)");
    assert_eq!(vm.to_string().parse::<VmId>(), Ok(vm));
    assert!("7".parse::<VmId>().is_err());
}

#[test]
fn filters_combine() {
    let (a, b) = (Filter::eq("a", true), Filter::eq("b", "x"));
    assert_eq!(Filter::All.and(a.clone()), a);
    assert_eq!(a.clone().and(Filter::All), a);
    assert_eq!(a.clone().and(b.clone()), Filter::And(vec![a.clone(), b.clone()]));
    assert_eq!(a.clone().and(b.clone()).and(a.clone()), Filter::And(vec![a.clone(), b, a]));
    assert_eq!(Filter::any("n", [1i64, 2]), Filter::In("n".into(), vec![Value::Int(1), Value::Int(2)]));
    assert_eq!(Filter::eq("t", None::<&str>), Filter::Eq("t".into(), Value::Null));
    assert_eq!(Value::from(u64::MAX), Value::Int(i64::MAX));
    assert_eq!(Value::from(TaskState::Ready), Value::from("READY"));
    assert_eq!(Page::number(2, 40), Page { offset: 80, limit: Some(40) });
    assert_eq!(Page::number(u64::MAX, 40).offset, u64::MAX);
    assert_eq!((Page::default(), Page::first(1).limit), (Page::ALL, Some(1)));
    assert_eq!(Sort::newest().direction, Direction::Descending);
    assert_eq!(Sort::by("name").field.as_deref(), Some("name"));
}

fn sound<S: Lifecycle + std::fmt::Debug>() {
    for (state, ..) in S::TABLE {
        assert_eq!(S::MOVES.iter().filter(|row| row.0 == *state).count(), 1, "{state:?}");
        for (next, ..) in S::TABLE {
            let mut place = *state;
            let moved = S::advance(&mut place, *next);
            assert_eq!(moved.is_ok(), state.can_become(*next));
            assert_eq!(place, if moved.is_ok() { *next } else { *state });
        }
        assert!(!state.can_become(*state));
    }
}

#[test]
fn life_cycles_are_sound() {
    sound::<TaskState>();
    sound::<BackupStatus>();
    sound::<CopyStatus>();
    sound::<MountState>();
    sound::<HostStatus>();
    assert!(BackupStatus::Success.can_become(BackupStatus::SuccessRemoved));
    assert!(BackupStatus::SuccessRemoved.can_become(BackupStatus::Success));
    assert!(!BackupStatus::Failed.can_become(BackupStatus::Success));
    assert!(BackupStatus::Failed.is_terminal());
    assert!(!CopyStatus::Removed.can_become(CopyStatus::Failed));
}

#[test]
fn a_restore_ends_once() {
    let mut job = RestoreJob {
        id: RestoreJobId::from_uuid(id(1)),
        point: RecoveryPointId::from_uuid(id(2)),
        vm: VmId::from_uuid(id(3)),
        tenant: None,
        restore_type: RestoreType::RestoreAndImport,
        status: BackupStatus::Queued,
        status_info: String::new(),
        chain: ChainId::from_uuid(id(4)),
        target_name: "web01".into(),
        target_vm: None,
        created: Timestamp::default(),
        finished: None,
        queued_restore_ms: 0,
        restore_ms: 0,
        queued_import_ms: 0,
        import_ms: 0,
    };
    let now = Timestamp::from_millis(9);
    assert!(job.become_(BackupStatus::Success, "", now).is_err());
    job.become_(BackupStatus::InProgress, "", now).unwrap();
    assert_eq!(job.finished, None);
    job.become_(BackupStatus::Failed, "no space", now).unwrap();
    assert_eq!((job.status_info.as_str(), job.finished), ("no space", Some(now)));
    let failed = job.clone();
    let error = job.become_(BackupStatus::SuccessRemoved, "", now).unwrap_err();
    assert_eq!(error.to_string(), "a restore job cannot go from FAILED to SUCCESS_REMOVED");
    assert_eq!(job, failed);
}

#[test]
fn quotas_warn_before_they_refuse() {
    let rule = QuotaRule {
        measure: QuotaMeasure::NumberOfBackups,
        scope: QuotaScope::Total,
        hours: 24,
        soft: Some(2),
        hard: Some(3),
    };
    let verdicts: Vec<_> = (0..4).map(|used| rule.judge(used, 1)).collect();
    assert_eq!(verdicts, [QuotaVerdict::Free, QuotaVerdict::Free, QuotaVerdict::Warned, QuotaVerdict::Refused]);
    assert_eq!(rule.judge(u64::MAX, u64::MAX), QuotaVerdict::Refused);
}

#[test]
fn tokens_end_at_their_time() {
    let token = ApiToken {
        id: ApiTokenId::from_uuid(id(1)),
        name: Name::new("ci").unwrap(),
        account: AccountId::from_uuid(id(2)),
        token_hash: String::new(),
        role: Role::Viewer,
        tenant: None,
        expires: Some(Timestamp::from_millis(5)),
        last_used: None,
        created: Timestamp::default(),
    };
    assert!(token.is_valid(Timestamp::from_millis(4)) && !token.is_valid(Timestamp::from_millis(5)));
    assert!(ApiToken { expires: None, ..token }.is_valid(Timestamp::MAX));
}

#[test]
fn references_carry_the_id_and_the_name() {
    let reference = NameAndGuid::new(VmId::from_uuid(id(3)), "web01");
    assert_eq!((reference.guid, reference.name.as_str()), (id(3), "web01"));
    let origin = Origin { kind: OriginKind::User, id: None, name: "admin".into() };
    assert_eq!(serde_json::to_value(&origin).unwrap()["kind"], "USER");
}
