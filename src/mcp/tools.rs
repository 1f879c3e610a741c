//! The three tools: how clients see them, and what they do.
//!
//! A tool's description is the documentation of its arguments' type: a model has nothing else to go by.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use rmcp::model::{CallToolRequestParams, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde_json::json;

use super::{
    Request, Server,
    arguments::{
        AddArguments, ArgumentError, DatabaseArgument, ListArguments, RemoveArguments, parse,
        schema,
    },
    confirmation::Target,
    lists::{AllDatabases, BackupList, BackupView, DatabaseRef},
    results::{AddedBackup, Refusal, RemovalReport, Reply},
};
use crate::{
    backups::{Found, Listed},
    context::{Context, Deadline, Role},
    qovery::{DatabaseId, mask_keys},
    telemetry::Call,
    text,
};

pub(super) const LIST: &str = "list-database-backups";
pub(super) const ADD: &str = "add-backup-database";
pub(super) const REMOVE: &str = "remove-database-backup";

/// The operation's label in logs and metrics.
pub(super) fn operation(tool: &str) -> &'static str {
    match tool.replace('_', "-").as_str() {
        LIST => "list",
        ADD => "add",
        REMOVE => "remove",
        _ => "other",
    }
}

/// The tools in the order in which clients show them, where `keep_latest` backups stay.
///
/// A plain table: rmcp's `#[tool_router]` sorts by name, and takes neither a description with a setting
/// in it nor a plain schema nor arguments that have to be normalized.
pub(super) fn definitions(keep_latest: usize) -> [Tool; 3] {
    let kept = match keep_latest {
        0 | 1 => String::new(),
        number => format!("{number} "),
    };
    let hints = ToolAnnotations::new().open_world(true).destructive(false);
    let list = hints.clone().read_only(true).idempotent(true);
    let add = hints.read_only(false).idempotent(false);
    let remove = add.clone().destructive(true).idempotent(true);
    let (added, removal) = (schema::<AddedBackup>().1, schema::<RemovalReport>().1);
    [
        define::<ListArguments>(LIST, "List database backups", list, &kept, list_output()),
        define::<AddArguments>(ADD, "Add a backup to the database", add, &kept, added),
        define::<RemoveArguments>(REMOVE, "Remove database backup", remove, &kept, removal),
    ]
}

/// What holds for both answers, that about one database and that about all: hosts do not know `oneOf`.
fn list_output() -> JsonObject {
    let (mut output, other) = (schema::<BackupList>().1, schema::<AllDatabases>().1);
    let properties = other["properties"].as_object().into_iter().flatten();
    for (name, property) in properties {
        let known = &mut output["properties"][name];
        if known.is_null() {
            *known = property.clone();
        }
    }
    output.insert("required".to_owned(), json!(["now"]));
    output
}

fn define<Arguments: JsonSchema>(
    name: &'static str,
    title: &str,
    hints: ToolAnnotations,
    kept: &str,
    output: JsonObject,
) -> Tool {
    let (description, input) = schema::<Arguments>();
    Tool::new(name, description.replace("{kept}", kept), input)
        .with_title(title)
        .with_annotations(hints)
        .with_raw_output_schema(Arc::new(output))
}

impl Server {
    pub(super) async fn call(
        &self,
        params: CallToolRequestParams,
        context: &Context,
        request: &Request,
        entry: &Call<'_>,
    ) -> Result<Reply, Refusal> {
        let arguments = params.arguments.unwrap_or_default();
        let [list, add, remove] = &*self.tools;
        // Each on the heap: the future of a call is moved often, and is as large as the largest.
        // Some hosts allow no hyphen in a name.
        match params.name.replace('_', "-").as_str() {
            LIST => Box::pin(self.list(parse(list, arguments)?, context, request)).await,
            // Whatever else the call carries, such as the answer to a question of before.
            ADD | REMOVE if context.role != Role::All => Err(self.unknown_tool(context)),
            ADD => {
                self.backups.allow_changes()?;
                Box::pin(self.add(parse(add, arguments)?, context, request, entry)).await
            }
            REMOVE => {
                self.backups.allow_changes()?;
                let arguments: RemoveArguments = parse(remove, arguments)?;
                let (database, backups) = arguments.target(&self.limits)?;
                let database = self.resolve(database, context).await?;
                let ids: Vec<_> = backups.iter().map(ToString::to_string).collect();
                entry.about(database, Some(ids.join(" ")));
                let target = Target { database, backups };
                let answer = (params.request_state, params.input_responses);
                Box::pin(self.remove(target, answer, context, request)).await
            }
            _ => Err(self.unknown_tool(context)),
        }
    }

    async fn list(
        &self,
        arguments: ListArguments,
        context: &Context,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        if arguments.backup_id.is_some() && arguments.describe_filters().is_some() {
            let problem = "`createdBefore`, `createdAfter` and `condition` narrow a list; leave them out \
                           beside `backupId`";
            return Err(ArgumentError(problem.to_owned()).into());
        }
        let database = match arguments.database_id.clone() {
            None => return self.overview(arguments, context, request).await,
            Some(DatabaseArgument::Id(id) | DatabaseArgument::Enclosed(id)) => id,
            Some(name @ DatabaseArgument::Name(_)) => self.resolve(name, context).await?,
        };
        let until = Deadline::after(self.list_time(request));
        let mut list = if let Some(backup) = arguments.backup_id {
            let describe = |_| "It is still being made".to_owned();
            let listing = self.with_progress(request, context, None, describe, async |looks| {
                let backup = (database, backup);
                self.backups.watch(context, backup, until, &looks).await
            });
            BackupList::of_one(listing.await?, arguments.verbose.unwrap_or(false))
        } else {
            let listing = self.backups.list(context, database, until).await?;
            BackupList::new(listing, &arguments, &self.limits)
        };
        list.note = self.note(list.note);
        Reply::new(list)
    }

    async fn overview(
        &self,
        arguments: ListArguments,
        context: &Context,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        if arguments.backup_id.is_some() || arguments.describe_filters().is_some() {
            let problem = "missing field `databaseId`; without it, the list is of all databases";
            return Err(ArgumentError(problem.to_owned()).into());
        }
        let bounds = (self.limits.overview, self.list_time(request));
        let describe = |read| format!("{read} databases read");
        let overview = self.with_progress(request, context, None, describe, async |count| {
            self.backups.overview(context, bounds, &count).await
        });
        let mut databases = AllDatabases::new(overview.await?);
        databases.note = self.note(databases.note);
        Reply::new(databases)
    }

    /// How long a list may take: a client that asks for progress waits longer.
    fn list_time(&self, request: &Request) -> Duration {
        match request.meta.get_progress_token() {
            Some(_) => self.limits.list_time_with_progress,
            None => self.limits.list_time,
        }
    }

    async fn add(
        &self,
        arguments: AddArguments,
        context: &Context,
        request: &Request,
        entry: &Call<'_>,
    ) -> Result<Reply, Refusal> {
        let (database, backup) = arguments.addition()?;
        let database = self.resolve(database, context).await?;
        entry.about(database, None);
        let added = self.backups.add(context, database, backup).await?;
        let lost = "Qovery's answer was lost, but the backup was found by listing: do not repeat \
                    the call. ";
        let lost = if added.recovered { lost } else { "" };
        let note = format!(
            "{lost}It is being made: call list-database-backups with its id as backupId until its \
             condition is no longer in_progress. Each call waits up to {} seconds.",
            self.list_time(request).as_secs()
        );
        let name = self.backups.name(context, database).await;
        Reply::new(AddedBackup {
            database: DatabaseRef::new(database, name.as_deref()),
            backup: BackupView::new(Listed::from(added.answered.value), None),
            note: Some(note),
        })
    }

    /// The id of a database. A name or an address is refused with the ids that it may mean.
    async fn resolve(
        &self,
        database: DatabaseArgument,
        context: &Context,
    ) -> Result<DatabaseId, Refusal> {
        let reason = match database {
            DatabaseArgument::Id(id) => return Ok(id),
            DatabaseArgument::Enclosed(id) => format!(
                "A change takes the id alone, and the id in this text is {id}. Nothing was changed."
            ),
            DatabaseArgument::Name(name) => match &*self.backups.find(context, &name).await {
                Ok(found) => candidates(&name, found),
                Err(error) => return Err(Refusal::in_band(error.kind(), error)),
            },
        };
        Err(Refusal::in_band("name_given", &reason))
    }
}

/// The databases that a name may mean.
fn candidates(name: &str, found: &Found) -> String {
    let name = mask_keys(&text::excerpt(name));
    let ask = "Nothing was done. Ask the person which one is meant, and call again with its id.";
    let mut text = match (found.databases.as_slice(), found.exactly) {
        ([], _) => {
            return format!(
                "No database that this API key can see is called \"{name}\" or nearly so. Nothing was \
                 done. Ask the person for its id: it is in the address of the database in the Qovery \
                 console, behind service/."
            );
        }
        ([_], true) => {
            format!("\"{name}\" is a name. Nothing was done yet: call again with the id.")
        }
        (_, true) => format!("\"{name}\" is the name of more than one database. {ask}"),
        (_, false) => format!("No database is called \"{name}\", but some nearly are. {ask}"),
    };
    for database in &found.databases {
        let (id, name) = (database.id, &database.name);
        let (project, environment) = (&database.project_name, &database.environment_name);
        let _ = write!(
            text,
            " {id}: \"{name}\" in project \"{project}\", environment \"{environment}\"."
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::limits::Limits;

    #[test]
    fn descriptions_and_schemas_state_the_limits() {
        let limits = Limits::default();
        let [list, _, remove] = definitions(1);
        let list = list.description.unwrap();
        let (wait, short_wait) = (limits.list_time_with_progress, limits.list_time);
        for words in [
            format!("Up to {} are shown", limits.listed),
            format!(
                "up to {} seconds, or {} ",
                wait.as_secs(),
                short_wait.as_secs()
            ),
        ] {
            assert!(list.contains(&words), "{list}");
        }
        let most = limits.batch_size;
        for (kept, words) in [
            (0, "the newest finished, the newest that may be good, and"),
            (1, "the newest finished, the newest that may be good, and"),
            (
                7,
                "the newest 7 finished, the newest 7 that may be good, and",
            ),
        ] {
            let [_, _, remove] = definitions(kept);
            let remove = remove.description.unwrap();
            assert!(
                remove.contains(&format!("backupIds for up to {most},")),
                "{remove}"
            );
            assert!(remove.contains(words), "{remove}");
        }
        let schema = json!(remove.input_schema);
        assert_eq!(schema["properties"]["backupIds"]["maxItems"], most);
    }
}
