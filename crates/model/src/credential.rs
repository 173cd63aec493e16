//! Credentials, tokens, certificates and assignments.
//!
//! Whatever is secret is kept as the text that the server's key made of it (an *envelope*): nothing here can be
//! used without that key.

use crate::caller::Role;
use crate::dialect::orchestrator::AssignmentStatus;
use crate::id::*;
use crate::name::Name;
use crate::secret::Secret;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What someone proves to a host or a guest who they are with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Credential {
    /// Portolan's id, which the envelopes are bound to.
    pub id: CredentialId,
    /// Its name.
    pub name: Name,
    /// The tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// The user to log in as.
    pub user: String,
    /// The enveloped password; nothing for none.
    pub password: Option<Secret>,
    /// The enveloped private key; nothing for none.
    pub ssh_key: Option<Secret>,
    /// The enveloped secret of a key pair of a cloud's API; nothing for none.
    pub secret_key: Option<Secret>,
    /// Where the private key is on the server, instead of here; empty for nowhere.
    #[serde(default)]
    pub ssh_key_path: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed.
    pub changed: Timestamp,
}

/// A bearer token for scripts: an account's, never more than the account may do, and often less.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Portolan's id.
    pub id: ApiTokenId,
    /// What it is for, in its owner's words.
    pub name: Name,
    /// Whose it is.
    pub account: AccountId,
    /// Keyed hash of the token, in hexadecimal; the token itself is shown once and never kept.
    pub token_hash: String,
    /// What it may do at the most.
    pub role: Role,
    /// The tenant it is bound to; nothing for the account's.
    pub tenant: Option<TenantId>,
    /// When it ends; nothing for never.
    pub expires: Option<Timestamp>,
    /// When it was last used, to the hour or so.
    pub last_used: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
}

impl ApiToken {
    /// Whether the token is good at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

/// A user's hold on a cloud node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Portolan's id.
    pub id: AssignmentId,
    /// The number that a dialect shows for it, unique and never used again.
    pub number: i64,
    /// The node.
    pub vm: VmId,
    /// The node's name.
    pub vm_name: String,
    /// The cloud that it is of.
    pub platform: PlatformId,
    /// Whether it is taken.
    pub status: AssignmentStatus,
    /// Who holds it; empty for nobody.
    #[serde(default)]
    pub user: String,
    /// What it is used as; empty for nothing in particular.
    #[serde(default)]
    pub vm_type: String,
    /// The task that destroys the node after its user gave it back; nothing while nobody did.
    #[serde(default)]
    pub releasing: Option<TaskId>,
    /// The tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed hands.
    pub changed: Timestamp,
}

/// A certificate that Portolan trusts, or shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Portolan's id.
    pub id: CertificateId,
    /// A name for people.
    pub name: Name,
    /// The certificate in PEM.
    pub pem: String,
    /// SHA-256 of its DER form in hexadecimal, unique.
    pub fingerprint: String,
    /// Whose it is, as it says itself.
    pub subject: String,
    /// Who signed it, as it says itself.
    pub issuer: String,
    /// When it begins to hold.
    pub not_before: Timestamp,
    /// When it ceases to hold.
    pub not_after: Timestamp,
    /// When it was added.
    pub created: Timestamp,
}
