//! The upstream on one page: Qovery's HTTP API, as far as backups go.
//!
//! Here live the typed client, what it takes and gives, its credentials and its failures.
//! What must never live here: a rule about what may be removed, or a word of MCP or REST.
//!
//! | method | operation of Qovery's API |
//! |---|---|
//! | [`Client::list_backups`] | `listDatabaseBackup`, `GET /database/{databaseId}/backup` |
//! | [`Client::add_backup`] | `addBackupDatabase`, `POST /database/{databaseId}/backup` |
//! | [`Client::remove_backup`] | `removeDatabaseBackup`, `DELETE /database/{databaseId}/backup/{backupId}` |
//! | [`Client::organizations`] | `listOrganization`, `GET /organization` |
//! | [`Client::services`] | `listServicesByOrganizationId`, `GET /organization/{organizationId}/services` |
//! | [`Client::database`] | `getDatabase`, `GET /database/{databaseId}` |

mod base_url;
mod client;
mod credentials;
mod date;
mod error;
mod exchange;
mod model;

pub use base_url::{BaseUrl, BaseUrlError};
pub use client::{Answered, Client};
pub use credentials::{Credentials, CredentialsError, Scheme};
pub use error::{Error, Facts, Failure, Outcome, Unreachable, Unreadable};
pub use model::{
    Backup, BackupId, BackupMessage, BackupName, BackupPage, Database, DatabaseId, IdError,
    NewBackup, Organization, OrganizationId, Results, Service, Status, Text, TextError,
};
