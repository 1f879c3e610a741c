//! An agent's whole session, for a person to read: `cargo run --example tour`.
//!
//! A real MCP client talks to the real server over an in-memory pipe; its upstream is the sandbox.

#![allow(
    clippy::print_stdout,
    reason = "nobody speaks a protocol over this standard output"
)]

use std::sync::Arc;

use anyhow::{Context, bail};
use qovery_backups_mcp::{
    backups::{AuditLog, Backups, Confirm, Policy},
    limits::Limits,
    mcp::{self, Seal},
    qovery::{Client, Credentials},
    sandbox::Sandbox,
    secret::Reloadable,
    shutdown::Shutdown,
};
use rmcp::{
    ClientHandler, ErrorData, RoleClient, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResult, ClientConfig, ElicitRequestParams, ElicitResult,
        ElicitationAction, ElicitationCapability,
    },
    service::{RequestContext, RunningService},
};
use serde_json::{Value, json};

const LIST: &str = "list-database-backups";
const REMOVE: &str = "remove-database-backup";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let sandbox = Sandbox::start().await?;
    let (limits, shutdown) = (Arc::new(Limits::default()), Shutdown::default());
    let qovery = Client::new(
        sandbox.base_url().parse()?,
        Some(Reloadable::new(Credentials::parse(Sandbox::KEY)?, None)),
        Arc::clone(&limits),
        shutdown.clone(),
    );
    let backups = Backups::new(
        qovery,
        Policy {
            read_only: false,
            keep_latest: 1,
            confirm: Confirm::Auto,
            changes_per_hour: None,
            audit_log: AuditLog::Off,
        },
        Arc::clone(&limits),
        shutdown.clone(),
    );
    let server = mcp::Server::new(backups, Seal::random()?, limits, shutdown, None, true);
    let (near, far) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(async move {
        server
            .serve(far)
            .await?
            .waiting()
            .await
            .map_err(anyhow::Error::from)
    });
    let agent = Agent(Person.serve(near).await?);

    agent.meet().await?;
    let orders = agent.find().await?;
    agent.report(&orders).await?;
    agent.back_up(&orders).await?;
    agent.keep_the_newest_ten(&orders).await?;
    agent.remove_the_newest(&orders).await?;

    agent.0.cancel().await?;
    serving.await??;
    println!("\nThat was the sandbox: nothing in it was real.");
    Ok(())
}

/// Whoever sits in front of the agent. Reads each question, and says yes.
struct Person;

impl ClientHandler for Person {
    fn get_info(&self) -> ClientConfig {
        let mut info = ClientConfig::default();
        info.capabilities.elicitation = Some(ElicitationCapability::default());
        info
    }

    async fn create_elicitation(
        &self,
        question: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let question = json!(question);
        for line in question["message"].as_str().unwrap_or_default().lines() {
            println!("    | {line}");
        }
        let form = &question["requestedSchema"]["properties"];
        println!("    | [x] {}", form["remove"]["title"]);
        let yes = json!({ "remove": true });
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(yes))
    }
}

struct Agent(RunningService<RoleClient, Person>);

impl Agent {
    async fn meet(&self) -> anyhow::Result<()> {
        heading("The tools");
        for tool in self.0.list_all_tools().await? {
            let hints = tool.annotations.context("every tool has hints")?;
            println!("{}: {}", tool.name, tool.title.unwrap_or_default());
            println!(
                "    read-only {}, destructive {}, idempotent {}",
                hints.read_only_hint.unwrap_or_default(),
                hints.is_destructive(),
                hints.is_idempotent()
            );
        }
        Ok(())
    }

    /// Asks by a name, and is told the id.
    async fn find(&self) -> anyhow::Result<Value> {
        heading("\"How are the backups of orders?\"");
        let name = json!({ "databaseId": "orders" });
        self.refused(LIST, &name).await?;
        Ok(Sandbox::ORDERS.into())
    }

    async fn report(&self, database: &Value) -> anyhow::Result<()> {
        let list = self.call(LIST, &json!({ "databaseId": database })).await?;
        println!("{}", list["summary"]);
        for backup in backups(&list).iter().take(4) {
            println!("{backup}");
        }
        println!("... and {} more", backups(&list).len() - 4);
        Ok(())
    }

    /// Adds a backup, and waits until it is finished.
    async fn back_up(&self, database: &Value) -> anyhow::Result<()> {
        heading("\"Back up orders before I migrate, and tell me when it is safe.\"");
        let add = json!({ "databaseId": database, "name": "before-migration-42" });
        let added = self.call("add-backup-database", &add).await?;
        println!("{added}");
        let wait = json!({ "databaseId": database, "backupId": added["id"] });
        let list = self.call(LIST, &wait).await?;
        println!("{}", list["backups"][0]);
        Ok(())
    }

    async fn keep_the_newest_ten(&self, database: &Value) -> anyhow::Result<()> {
        heading("\"Keep the newest ten.\" The person is asked, once:");
        let list = self.call(LIST, &json!({ "databaseId": database })).await?;
        let old = backups(&list).iter().skip(10);
        let old: Vec<&Value> = old.map(|backup| &backup["id"]).collect();
        let remove = json!({ "databaseId": database, "backupIds": old });
        let removed = self.call(REMOVE, &remove).await?;
        println!(
            "{}: {} of them; {} remain",
            removed["outcome"],
            backups(&removed).len(),
            removed["remaining"]
        );
        Ok(())
    }

    async fn remove_the_newest(&self, database: &Value) -> anyhow::Result<()> {
        heading("\"Remove the newest one.\" It is protected:");
        let list = self.call(LIST, &json!({ "databaseId": database })).await?;
        let newest = &list["backups"][0]["id"];
        let remove = json!({ "databaseId": database, "backupId": newest });
        self.refused(REMOVE, &remove).await?;

        heading("An id that does not exist:");
        let unknown = json!({ "databaseId": "0de50000-0000-4000-8000-000000000404" });
        self.refused(LIST, &unknown).await
    }

    async fn call(&self, tool: &'static str, arguments: &Value) -> anyhow::Result<Value> {
        println!("> {tool} {arguments}");
        let result = self.result(tool, arguments).await?;
        if result.is_error == Some(true) {
            bail!("{tool} failed: {:?}", result.content);
        }
        result
            .structured_content
            .context("a result has structured content")
    }

    async fn refused(&self, tool: &'static str, arguments: &Value) -> anyhow::Result<()> {
        println!("> {tool} {arguments}");
        let result = self.result(tool, arguments).await?;
        if result.is_error != Some(true) {
            bail!("{tool} was not refused");
        }
        let content = result.content.first().and_then(|content| content.as_text());
        println!("{}", content.context("an error has a text")?.text);
        Ok(())
    }

    async fn result(
        &self,
        tool: &'static str,
        arguments: &Value,
    ) -> anyhow::Result<CallToolResult> {
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        let call = CallToolRequestParams::new(tool).with_arguments(arguments);
        Ok(self.0.call_tool(call).await?)
    }
}

fn heading(line: &str) {
    println!("\n== {line}");
}

fn backups(result: &Value) -> &[Value] {
    result["backups"].as_array().map_or(&[], Vec::as_slice)
}
