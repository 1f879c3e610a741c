//! The tools: what each is called, what a client may think of it, and what it does.
//!
//! A tool's description is the documentation of its arguments' type: a model has nothing else to go by.

use rmcp::{
    RoleServer,
    handler::server::tool::schema_for_output,
    model::{CallToolRequestParams, Tool, ToolAnnotations},
    service::RequestContext,
};
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::{
    Server,
    arguments::{AddArguments, ListArguments, RemoveArguments, parse, schema},
    results::{BackupList, Decision, Refusal, Reply},
};
use crate::{context::Context, qovery::Backup};

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

    /// The tool, as a client lists it.
    pub(super) fn definition(self) -> Tool {
        let hints = ToolAnnotations::new()
            .read_only(!self.is_change())
            .destructive(self == Self::Remove)
            .idempotent(self != Self::Add)
            .open_world(true);
        match self {
            Self::List => {
                self.describe::<ListArguments, BackupList>("List database backups", hints)
            }
            Self::Add => {
                self.describe::<AddArguments, Backup>("Add a backup to the database", hints)
            }
            Self::Remove => {
                self.describe::<RemoveArguments, Decision>("Remove database backup", hints)
            }
        }
    }

    fn describe<Arguments: JsonSchema, Output: JsonSchema + 'static>(
        self,
        title: &str,
        hints: ToolAnnotations,
    ) -> Tool {
        let (description, input) = schema::<Arguments>();
        let mut tool = Tool::new(self.as_str(), description, input)
            .with_title(title)
            .with_annotations(hints);
        tool.output_schema = Some(schema_for_output::<Output>());
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
        match tool {
            Name::List => self.list(parse(arguments)?, context).await,
            Name::Add => self.add(parse(arguments)?, context).await,
            Name::Remove => {
                let answer = (request.request_state, request.input_responses);
                self.remove_with_consent(parse(arguments)?, answer, context, peer)
                    .await
            }
        }
    }

    async fn list(&self, arguments: ListArguments, context: &Context) -> Result<Reply, Refusal> {
        let ListArguments {
            database_id,
            start_id,
            verbose,
        } = arguments;
        let answered = self.backups.list(context, database_id, start_id).await?;
        let whole = verbose.unwrap_or(false).then(|| answered.whole());
        let next_start_id = answered.value.next_start_id();
        let page = answered.value;
        let mut list = json!(BackupList {
            page,
            next_start_id,
        });
        if let Some(whole) = whole {
            let backups = list["results"].as_array_mut().into_iter().flatten();
            for (position, backup) in backups.enumerate() {
                add_status(backup, &whole["results"][position]);
            }
        }
        Reply::new(list)
    }

    async fn add(&self, arguments: AddArguments, context: &Context) -> Result<Reply, Refusal> {
        let database = arguments.database_id;
        let added = self.backups.add(context, database, arguments.backup()?);
        let added = added.await?;
        let remark = added.recovered.then_some(
            "Qovery's answer was lost, but the backup was found by listing: it is being made. \
             Do not repeat the call.",
        );
        let mut backup = json!(added.answered.value);
        add_status(&mut backup, &added.answered.whole());
        let reply = Reply::new(backup)?;
        Ok(reply.remark(remark).remark(self.unreal()))
    }
}

/// Adds to a backup what else Qovery says of its status.
fn add_status(backup: &mut Value, whole: &Value) {
    let known = backup.get_mut("status").and_then(Value::as_object_mut);
    let (Some(known), Some(whole)) = (known, whole["status"].as_object()) else {
        return;
    };
    for (name, value) in whole {
        known.entry(name.clone()).or_insert_with(|| value.clone());
    }
}
