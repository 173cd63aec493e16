//! The user that a login answers (section 1).

use super::{Enum, word};
use portolan_model::describe::Describe;
use portolan_model::dialect::vplus::UiPrivilege;
use portolan_model::{Account, Caller};
use serde::Serialize;
use utoipa::ToSchema;

/// How long a mounted backup stays when its request does not say, in milliseconds: a day.
const UNMOUNT_AFTER_MS: i64 = 86_400_000;

/// The user of a session.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionInfo {
    /// The account's guid.
    guid: String,
    /// The login name.
    login: String,
    /// Shown in greetings.
    first_name: String,
    /// Shown in greetings.
    last_name: String,
    /// IANA zone that dates are shown in.
    ui_time_zone: String,
    /// The language of texts.
    ui_language: Enum,
    /// Milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_successful_login: Option<i64>,
    /// Milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failed_login: Option<i64>,
    /// What the user may do, in the words that clients look for.
    privileges: Vec<Enum>,
    /// Settings of the user's.
    app_user_settings: AppUserSettings,
}

/// Settings of a user's.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppUserSettings {
    /// Milliseconds after which a mounted backup goes by itself.
    unmount_period_for_mounted_backups: i64,
}

/// The user behind a session.
pub(crate) fn session_info(account: &Account, caller: &Caller) -> SessionInfo {
    let privileges =
        UiPrivilege::TABLE.iter().map(|row| row.0).filter(|p| caller.may(p.stands_for())).map(word).collect();
    SessionInfo {
        guid: account.id.to_string(),
        login: account.login.to_string(),
        first_name: account.login.to_string(),
        last_name: String::new(),
        ui_time_zone: account.time_zone.clone(),
        ui_language: Enum { name: "EN".into(), description: "English".into() },
        last_successful_login: account.last_login.map(|t| t.as_millis()),
        last_failed_login: account.last_failed_login.map(|t| t.as_millis()),
        privileges,
        app_user_settings: AppUserSettings { unmount_period_for_mounted_backups: UNMOUNT_AFTER_MS },
    }
}
