//! Holds `openapi.json` to the code. Where they differ, the test prints what the code says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::{
    BACKUP as BACKUP_PATH, BACKUPS as BACKUPS_PATH, DOCUMENT, NewBackup, Problem, operation,
};
use crate::{
    backups::{Error, Obstacle, Protection, RemovalPlan},
    qovery::{self, BackupPage, Failure, Scheme},
};

const DATABASE: &str = "0de50000-0000-4000-8000-000000000001";
const BACKUP: &str = "bac00000-0000-4000-8000-000000000027";

/// The document, and by its place in there what must be different.
struct Document {
    json: Value,
    corrections: BTreeMap<String, Value>,
}

impl Document {
    fn read() -> Self {
        Self {
            json: serde_json::from_str(DOCUMENT).unwrap(),
            corrections: BTreeMap::new(),
        }
    }

    /// Its operations, each with the name that the code has for it.
    fn operations(&self) -> Vec<(&'static str, Value)> {
        let mut operations = Vec::new();
        for (path, item) in self.json["paths"].as_object().unwrap() {
            for (method, details) in item.as_object().unwrap() {
                if method != "parameters" {
                    let method = method.to_uppercase().parse().unwrap();
                    operations.push((operation(&method, path), details.clone()));
                }
            }
        }
        operations
    }

    fn compare(&mut self, place: &str, expected: &Value) {
        if self.json.pointer(place) != Some(expected) {
            let place = place.to_owned();
            self.corrections.insert(place, expected.clone());
        }
    }

    #[track_caller]
    fn assert_correct(&self) {
        let corrections = serde_json::to_string_pretty(&self.corrections).unwrap();
        assert!(self.corrections.is_empty(), "to correct: {corrections}");
    }
}

#[test]
fn it_has_the_version_and_the_operations_of_the_code() {
    let mut document = Document::read();
    document.compare("/info/version", &json!(env!("CARGO_PKG_VERSION")));
    document.compare("/info/description", &json!(env!("CARGO_PKG_DESCRIPTION")));
    document.assert_correct();

    let paths = document.json["paths"].as_object().unwrap().keys();
    assert_eq!(paths.collect::<Vec<_>>(), [BACKUPS_PATH, BACKUP_PATH]);
    let operations = document.operations().into_iter();
    let operations = operations.map(|(name, details)| (name, details["operationId"].clone()));
    assert_eq!(
        operations.collect::<BTreeMap<_, _>>(),
        BTreeMap::from([
            ("add", json!("addBackupDatabase")),
            ("list", json!("listDatabaseBackup")),
            ("remove", json!("removeDatabaseBackup")),
        ])
    );
}

#[test]
fn it_has_the_schemas_of_the_code() {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    generator.subschema_for::<BackupPage>();
    generator.subschema_for::<NewBackup>();
    generator.subschema_for::<Problem>();
    let schemas = generator.take_definitions(true);
    let mut document = Document::read();
    for (name, schema) in &schemas {
        document.compare(&format!("/components/schemas/{name}"), schema);
    }
    document.assert_correct();
    let documented = document.json["components"]["schemas"].as_object().unwrap();
    assert!(documented.keys().eq(schemas.keys()), "{documented:?}");
}

#[test]
fn it_has_the_statuses_of_the_code() {
    let document = Document::read();
    for (operation, details) in document.operations() {
        let mut possible = BTreeSet::from([success(operation)]);
        let problems = problems(operation).into_iter();
        possible.extend(problems.map(|problem| json!(problem)["status"].to_string()));
        let documented = details["responses"].as_object().unwrap();
        assert!(documented.keys().eq(&possible), "{operation}: {possible:?}");
        for (status, response) in documented {
            let is_problem = response["$ref"] == "#/components/responses/Problem";
            assert_eq!(
                is_problem,
                *status != success(operation),
                "{operation} {status}"
            );
        }
    }
}

fn success(operation: &str) -> String {
    match operation {
        "list" => "200".to_owned(),
        "add" => "201".to_owned(),
        _ => "204".to_owned(),
    }
}

/// One problem, at least, of each status that an operation can fail with.
fn problems(operation: &str) -> Vec<Problem> {
    let mut problems = vec![
        Problem::forbidden_host(),
        Problem::forbidden_origin(),
        Problem::forbidden_role(),
        Problem::unauthenticated(),
        Problem::overloaded(),
        Problem::body_too_large(),
        Problem::body_too_slow(),
        Problem::invalid("databaseid: must be a hyphenated UUID"),
        Problem::internal(),
    ];
    if operation == "add" {
        problems.push(Problem::unsupported_media_type());
    }
    let errors = errors().into_iter();
    let errors = errors.filter(|error| operations_failing_with(error).contains(&operation));
    problems.extend(errors.map(Problem::from));
    problems
}

fn operations_failing_with(error: &Error) -> &'static [&'static str] {
    match error {
        Error::Qovery(_) => &["list", "add", "remove"],
        Error::ReadOnly | Error::Busy { .. } | Error::LimitReached { .. } | Error::Unaudited => {
            &["add", "remove"]
        }
        Error::Obstructed { .. } | Error::ListIncomplete { .. } | Error::Unconfirmed(_) => {
            &["remove"]
        }
        // REST asks no person, looks up neither a database by its name nor one backup, and removes one
        // backup at a time.
        Error::Changed { .. }
        | Error::NotListed { .. }
        | Error::LookupDenied
        | Error::TooMany { .. } => &[],
    }
}

fn errors() -> Vec<Error> {
    let (database, backup) = (DATABASE.parse().unwrap(), BACKUP.parse().unwrap());
    let protection = Protection::Newest { keep: 1 };
    let details = json!({ "id": BACKUP, "created_at": "2026-06-27T03:00:00Z" });
    let details: qovery::Backup = serde_json::from_value(details).unwrap();
    let removal = RemovalPlan {
        database,
        backups: vec![details.into()],
        remaining: 0,
        finished: Vec::new(),
        newest_finished: None,
        newest: None,
    };
    let obstructed = |obstacle| Error::Obstructed {
        database,
        wanted: 1,
        obstacles: vec![(backup, obstacle)],
    };
    let own = [
        Error::ReadOnly,
        obstructed(Obstacle::NotListed),
        obstructed(Obstacle::Protected(protection)),
        Error::ListIncomplete { database },
        Error::Unconfirmed(Box::new(removal)),
        Error::Busy { database },
        Error::LimitReached {
            an_hour: 60.try_into().unwrap(),
            left: 0,
            under_way: 0,
            wanted: 1,
            pause: Duration::from_secs(60),
            at: chrono::DateTime::UNIX_EPOCH,
        },
        Error::Unaudited,
    ];
    let failures = failures().into_iter().map(qovery::Error::harmless);
    own.into_iter().chain(failures.map(Error::from)).collect()
}

fn failures() -> Vec<Failure> {
    let answered = |status| Failure::Answered {
        status,
        message: None,
        retry_after: None,
    };
    let statuses = [409, 400, 403, 404, 429, 503, 302, 202];
    let others = [
        Failure::Unauthorized(Scheme::Token),
        Failure::Unauthorized(Scheme::Policy),
        Failure::CallerUnauthorized(Scheme::Token),
        Failure::KeyMissing,
        Failure::Cancelled,
        Failure::Unreadable,
        Failure::TooLarge,
        Failure::TimedOut,
        Failure::Interrupted(any_error()),
        Failure::Unreachable {
            source: any_error(),
        },
        Failure::Overloaded,
        Failure::Setup(Box::new(any_error())),
    ];
    statuses.into_iter().map(answered).chain(others).collect()
}

fn any_error() -> reqwest::Error {
    let response = axum::http::Response::builder().status(500).body("");
    let response = reqwest::Response::from(response.unwrap());
    response.error_for_status().unwrap_err()
}
