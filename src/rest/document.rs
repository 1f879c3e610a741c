//! `/openapi.json`: the routes and their document (OpenAPI 3.1), built together from the same
//! handlers and types.

use aide::{
    axum::{
        ApiRouter,
        routing::{delete_with, get_with},
    },
    generate::in_context,
    openapi::{
        Contact, Header, HeaderStyle, Info, License, MediaType, OpenApi, ParameterSchemaOrContent,
        ReferenceOr, Response, SchemaObject, SecurityScheme, Server, StatusCode, Tag,
    },
    transform::{TransformOpenApi, TransformOperation},
};
use axum::Router;
use indexmap::IndexMap;
use schemars::{JsonSchema, generate::SchemaSettings, json_schema};
use serde_json::{Value, json};

use super::{Problem, Rest, add, list, problem::Details, remove};
use crate::{
    backups::{Error, Protection},
    qovery::{self, Backup, BackupPage, Failure, KeyKind},
};

const DATABASE: &str = "0de50000-0000-4000-8000-000000000001";
const BACKUP: &str = "bac00000-0000-4000-8000-000000000027";
const REQUEST: &str = "1f0a9c1e-6c8e-4d0f-8f0e-0d1c2b3a4f5e";

/// The routes of the operations, and the document that describes them.
pub(super) fn routes(authenticated: bool) -> (Router<Rest>, Vec<u8>) {
    in_context(|context| {
        let settings = SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into());
        context.schema = settings.into_generator();
    });
    let mut document = OpenApi::default();
    let router = ApiRouter::new()
        .api_route(
            "/v1/database/{databaseid}/backup",
            get_with(list, |operation| {
                let operation = operation
                    .id("listDatabaseBackup")
                    .summary("List database backups")
                    .description(
                        "A page of a database's backups, as Qovery answers it. A page with \
                         `page_size` backups may have a successor, which starts after its last one.",
                    );
                let page = json!({ "page": 1, "page_size": 20, "results": [backup()] });
                failing(answering::<BackupPage>(operation, 200, "The page.", &page), &[])
            })
            .post_with(add, |operation| {
                let operation = operation
                    .id("addBackupDatabase")
                    .summary("Add a backup to the database")
                    .description(
                        "Asks Qovery for a new backup, which is then made in the background. \
                         Every request makes another one: after an unknown outcome, list first.",
                    );
                let operation = answering::<Backup>(operation, 201, "The new backup.", &backup());
                failing(
                    located(operation),
                    &[Problem::unsupported_media_type(), Problem::body_too_large()],
                )
            }),
        )
        .api_route(
            "/v1/database/{databaseid}/backup/{backupid}",
            delete_with(remove, |operation| {
                let operation = operation
                    .id("removeDatabaseBackup")
                    .summary("Remove database backup")
                    .description(
                        "Removes a backup for good, unless it must stay: the newest ones, and \
                         the newest one that has not failed. Where the operator wants a person to \
                         confirm each removal, it is refused: nobody can be asked here.",
                    );
                let removed = Response {
                    description: "The backup was removed.".to_owned(),
                    ..Response::default()
                };
                let protected = BACKUP.parse().ok().map(|backup| {
                    let protection = Protection::Newest { keep_latest: 1 };
                    Problem::from(Error::Protected { backup, protection })
                });
                failing(responding(operation, 204, removed), protected.as_slice())
            }),
        )
        .finish_api_with(&mut document, |api| describe(api, authenticated));
    // It has text and numbers only, which always can be written.
    let document = serde_json::to_vec(&document).unwrap_or_default();
    (router, document)
}

fn describe(api: TransformOpenApi<'_>, authenticated: bool) -> TransformOpenApi<'_> {
    let info = Info {
        title: "Qovery database backups".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        description: Some(env!("CARGO_PKG_DESCRIPTION").to_owned()),
        contact: Some(Contact {
            name: Some("The operator of this server".to_owned()),
            ..Contact::default()
        }),
        license: Some(License {
            name: "Apache License 2.0".to_owned(),
            identifier: Some("Apache-2.0".to_owned()),
            ..License::default()
        }),
        ..Info::default()
    };
    let api = api
        .info(info)
        .server(Server {
            url: "/".to_owned(),
            description: Some("This server".to_owned()),
            ..Server::default()
        })
        .tag(Tag {
            name: TAG.to_owned(),
            description: Some("The backups of one database".to_owned()),
            ..Tag::default()
        });
    if !authenticated {
        return api;
    }
    let scheme = SecurityScheme::Http {
        scheme: "bearer".to_owned(),
        bearer_format: None,
        description: Some("An access token of this server, from its operator".to_owned()),
        extensions: IndexMap::default(),
    };
    api.security_scheme("accessToken", scheme)
        .security_requirement("accessToken")
}

const TAG: &str = "backups";

fn backup() -> Value {
    json!({
        "id": BACKUP,
        "created_at": "2026-06-27T03:00:00Z",
        "updated_at": "2026-06-27T03:04:00Z",
        "name": "before the migration",
        "message": "Made by hand.",
        "status": { "state": "READY", "last_deployment_date": "2026-06-27T03:04:00Z" },
    })
}

fn content<T: JsonSchema>(media_type: &str, example: Value) -> (String, MediaType) {
    let schema = SchemaObject {
        json_schema: in_context(|context| context.schema.subschema_for::<T>()),
        external_docs: None,
        example: None,
    };
    let content = MediaType {
        schema: Some(schema),
        example: Some(example),
        ..MediaType::default()
    };
    (media_type.to_owned(), content)
}

fn responding(
    mut operation: TransformOperation<'_>,
    status: u16,
    response: Response,
) -> TransformOperation<'_> {
    let responses = operation.inner_mut().responses.get_or_insert_default();
    responses
        .responses
        .insert(StatusCode::Code(status), ReferenceOr::Item(response));
    operation
}

fn answering<'op, T: JsonSchema>(
    operation: TransformOperation<'op>,
    status: u16,
    description: &str,
    example: &Value,
) -> TransformOperation<'op> {
    let response = Response {
        description: description.to_owned(),
        content: [content::<T>("application/json", example.clone())].into(),
        ..Response::default()
    };
    responding(operation.tag(TAG), status, response)
}

/// Adds the header that says where the new backup is.
fn located(mut operation: TransformOperation<'_>) -> TransformOperation<'_> {
    let header = Header {
        description: Some("The path of the new backup".to_owned()),
        style: HeaderStyle::Simple,
        required: true,
        deprecated: None,
        format: ParameterSchemaOrContent::Schema(SchemaObject {
            json_schema: json_schema!({ "type": "string", "format": "uri-reference" }),
            external_docs: None,
            example: None,
        }),
        example: Some(format!("/v1/database/{DATABASE}/backup/{BACKUP}").into()),
        examples: IndexMap::default(),
        extensions: IndexMap::default(),
    };
    let responses = operation.inner_mut().responses.get_or_insert_default();
    if let Some(ReferenceOr::Item(created)) = responses.responses.get_mut(&StatusCode::Code(201)) {
        let name = "Location".to_owned();
        created.headers.insert(name, ReferenceOr::Item(header));
    }
    operation
}

/// A call that Qovery did not carry out.
fn failed(failure: Failure) -> Problem {
    Error::Qovery(qovery::Error::harmless(failure)).into()
}

/// Adds the failures that every operation has, and its own.
fn failing<'op>(
    mut operation: TransformOperation<'op>,
    own: &[Problem],
) -> TransformOperation<'op> {
    let common = [
        Problem::invalid("databaseid: must be a hyphenated UUID"),
        Problem::unauthenticated(),
        Error::ReadOnly.into(),
        failed(Failure::NotFound { message: None }),
        Problem::not_acceptable(),
        Problem::body_too_slow(),
        failed(Failure::Rejected {
            status: 409,
            message: None,
        }),
        failed(Failure::RateLimited { retry_after: None }),
        Problem::internal(),
        failed(Failure::Unauthorized(KeyKind::ApiToken)),
        Problem::overloaded(),
        failed(Failure::TimedOut),
    ];
    let mut problems: Vec<&Problem> = common.iter().chain(own).collect();
    problems.sort_by_key(|problem| problem.status());
    for problem in problems {
        let status = problem.status().as_u16();
        let response = Response {
            description: problem.title(),
            content: [content::<Details<'_>>(
                "application/problem+json",
                json!(problem.details(REQUEST)),
            )]
            .into(),
            ..Response::default()
        };
        operation = responding(operation, status, response);
    }
    operation.tag(TAG)
}
