//! The tools: what each is called, what a client may think of it, and what it does.
//!
//! A tool's description is the documentation of its arguments' type: a model has nothing else to go by.

use std::{fmt::Write as _, sync::Arc};

use rmcp::{
    RoleServer,
    model::{CallToolRequestParams, Tool, ToolAnnotations},
    service::RequestContext,
};
use schemars::JsonSchema;

use super::{
    Server,
    arguments::{
        AddArguments, ArgumentError, Database, ListArguments, RemoveArguments, parse, schema,
    },
    confirmation::Target,
    progress::Progress,
    results::{Added, BackupList, Decision, Refusal, Reply, Shown},
};
use crate::{
    backups::Found,
    context::Context,
    qovery::{DatabaseId, Service},
    text,
};

/// One of the tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    List,
    Add,
    Remove,
}

impl Name {
    /// From the harmless to the destructive, as clients show them.
    pub(super) const ALL: [Self; 3] = [Self::List, Self::Add, Self::Remove];

    /// The tool that a client calls so.
    pub(super) fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::List => "list-database-backups",
            Self::Add => "add-backup-database",
            Self::Remove => "remove-database-backup",
        }
    }

    /// What logs and metrics call it.
    pub(super) fn operation(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }

    /// Whether it changes anything.
    pub(super) fn is_change(self) -> bool {
        self != Self::List
    }

    /// The tool, as a client lists it, where the newest `kept` backups stay.
    pub(super) fn definition(self, kept: usize) -> Tool {
        let hints = ToolAnnotations::new()
            .read_only(!self.is_change())
            .destructive(self == Self::Remove)
            .idempotent(self != Self::Add)
            .open_world(true);
        match self {
            Self::List => {
                self.describe::<ListArguments, BackupList>("List database backups", hints, kept)
            }
            Self::Add => {
                self.describe::<AddArguments, Added>("Add a backup to the database", hints, kept)
            }
            Self::Remove => {
                self.describe::<RemoveArguments, Decision>("Remove database backup", hints, kept)
            }
        }
    }

    fn describe<Arguments: JsonSchema, Output: JsonSchema>(
        self,
        title: &str,
        hints: ToolAnnotations,
        kept: usize,
    ) -> Tool {
        let (description, input) = schema::<Arguments>();
        let kept = match kept {
            0 => String::new(),
            1 => "the newest, ".to_owned(),
            kept => format!("the newest {kept}, "),
        };
        let description = description.replace("{kept}", &kept);
        let mut tool = Tool::new(self.as_str(), description, input)
            .with_title(title)
            .with_annotations(hints);
        tool.output_schema = Some(Arc::new(schema::<Output>().1));
        tool
    }
}

impl Server {
    /// Calls a tool.
    pub(super) async fn call(
        &self,
        tool: Name,
        request: CallToolRequestParams,
        context: &Context,
        peer: &RequestContext<RoleServer>,
    ) -> Result<Reply, Refusal> {
        if tool.is_change() {
            self.backups.allow_changes()?;
        }
        let arguments = request.arguments.unwrap_or_default();
        let definition = &self.tools[tool as usize];
        // Each on the heap: a call is no larger than it must be, and moved often.
        match tool {
            Name::List => Box::pin(self.list(parse(definition, arguments)?, context, peer)).await,
            Name::Add => Box::pin(self.add(parse(definition, arguments)?, context)).await,
            Name::Remove => {
                let answer = (request.request_state, request.input_responses);
                let arguments: RemoveArguments = parse(definition, arguments)?;
                let (database, backups) = arguments.target(self.limits())?;
                let database = self.id(database, context).await?;
                let target = Target { database, backups };
                Box::pin(self.remove_with_consent(target, answer, context, peer)).await
            }
        }
    }

    async fn list(
        &self,
        arguments: ListArguments,
        context: &Context,
        peer: &RequestContext<RoleServer>,
    ) -> Result<Reply, Refusal> {
        let database = match arguments.database_id {
            Database::Id(id) | Database::Address(id) => id,
            name @ Database::Name(_) => self.id(name, context).await?,
        };
        let verbose = arguments.verbose.unwrap_or(false);
        let (to_result, listing): (fn(_) -> _, _) = match (arguments.backup_id, arguments.start_id)
        {
            (None, start_id) => {
                let listing = self.backups.list(context, database, start_id, verbose);
                (BackupList::of, listing.await?)
            }
            (Some(backup), None) => {
                let told = |_| "It is still being made".to_owned();
                let progress = Progress::begin(peer, context, None, told);
                let looked = progress.count();
                let backup = (database, backup);
                let listing = self.backups.watch(context, backup, verbose, &looked).await;
                drop(looked);
                progress.end().await;
                (BackupList::of_one, listing?)
            }
            (Some(_), Some(_)) => {
                return Err(ArgumentError::new(
                    "`startId` is given beside `backupId`; leave one of them out",
                )
                .into());
            }
        };
        let mut list: BackupList = to_result(listing);
        list.note = self.noted(list.note);
        Reply::new(list)
    }

    async fn add(&self, arguments: AddArguments, context: &Context) -> Result<Reply, Refusal> {
        let (database, backup) = arguments.addition()?;
        let database = self.id(database, context).await?;
        let added = self.backups.add(context, database, backup).await?;
        let lost = "Qovery's answer was lost, but the backup was found by listing: do not repeat \
                    the call.";
        let next = "It is being made: call list-database-backups with its id as backupId until its \
                    condition is no longer in_progress.";
        let note = if added.recovered {
            format!("{lost} {next}")
        } else {
            next.to_owned()
        };
        let note = self.noted(Some(note));
        let backup = Shown::of(added.answered.value.into());
        Reply::new(Added { backup, note })
    }

    /// The id of a database. For a name or an address, the call is refused with the ids that it may mean.
    async fn id(&self, database: Database, context: &Context) -> Result<DatabaseId, Refusal> {
        match database {
            Database::Id(id) => Ok(id),
            Database::Address(id) => {
                let reason = format!(
                    "This takes an id, not an address. The id in the address is {id}. Nothing was \
                     changed."
                );
                Err(Refusal::in_band("name_given", &reason))
            }
            Database::Name(name) => {
                let found = self.backups.find(context, &name).await?;
                Err(Refusal::in_band("name_given", &names(&name, &found)))
            }
        }
    }
}

/// What a name may mean.
fn names(name: &str, found: &Found) -> String {
    /// More would not help to choose.
    const MOST: usize = 10;

    let name = text::excerpt(name);
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
        (_, true) => format!(
            "\"{name}\" is the name of more than one database. Nothing was done. Ask the person which \
             one is meant, and call again with its id."
        ),
        (_, false) => format!(
            "No database is called \"{name}\", but some nearly are. Nothing was done. Ask the person \
             which one is meant, and call again with its id."
        ),
    };
    for database in found.databases.iter().take(MOST) {
        let Service {
            id,
            name,
            project_name,
            environment_name,
            ..
        } = database;
        let _ = write!(
            text,
            " {id}: \"{name}\" in project \"{project_name}\", environment \"{environment_name}\"."
        );
    }
    let more = found.databases.len().saturating_sub(MOST);
    if more > 0 {
        let _ = write!(text, " And {more} more.");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::limits::Limits;

    #[test]
    fn descriptions_and_schemas_give_the_limits_that_hold() {
        let limits = Limits::default();
        let description = |name: Name, kept| name.definition(kept).description.unwrap();
        let list = description(Name::List, 1);
        let wait = limits.poll_intervals.iter().sum::<Duration>().as_secs();
        assert!(
            list.contains(&format!("has up to {}:", limits.listed)),
            "{list}"
        );
        assert!(list.contains(&format!("up to {wait} seconds")), "{list}");
        let most = limits.batch_size;
        for (kept, words) in [
            (
                0,
                "whatever the arguments: the newest that has not failed, and",
            ),
            (
                1,
                "whatever the arguments: the newest, the newest that has not failed, and",
            ),
            (
                7,
                "whatever the arguments: the newest 7, the newest that has not failed, and",
            ),
        ] {
            let remove = description(Name::Remove, kept);
            assert!(
                remove.contains(&format!("backupIds for up to {most},")),
                "{remove}"
            );
            assert!(remove.contains(words), "{remove}");
        }
        let schema = json!(Name::Remove.definition(1).input_schema);
        assert_eq!(schema["properties"]["backupIds"]["maxItems"], most);
    }
}
