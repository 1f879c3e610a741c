//! The upstream: a typed client of the backup operations of Qovery's HTTP API, and its failures.
//!
//! A rule about what may be removed must never live here, nor anything of MCP or REST.
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
mod date;
mod error;
mod exchange;
mod model;

pub use crate::credentials::{Credentials, CredentialsError, Scheme, mask_keys};
pub use base_url::{BaseUrl, BaseUrlError};
pub use client::{Answered, Client};
pub(crate) use date::parse as parse_date;
pub(crate) use error::root_cause;
pub use error::{Error, Facts, Failure, Outcome};
pub(crate) use exchange::{build_http, read_body};
pub use model::{
    Backup, BackupId, BackupMessage, BackupName, BackupPage, Database, DatabaseId, IdError,
    NewBackup, Organization, Service, Status, Text, TextError,
};
