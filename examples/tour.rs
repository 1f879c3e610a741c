//! An agent's whole session, for a person to read: `cargo run --example tour`.
//!
//! A real MCP client talks to the real server over an in-memory pipe; its upstream is the sandbox.

#![allow(
    clippy::print_stdout,
    reason = "nobody speaks a protocol over this standard output"
)]

use anyhow::{Context, bail};
use qovery_backups_mcp::{
    backups::{Backups, Policy},
    limits::Limits,
    mcp::{self, Seal},
    process::Process,
    qovery::{Client, Credentials},
    sandbox::Sandbox,
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

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let sandbox = Sandbox::start().await?;
    let qovery = Client::new(
        sandbox.base_url().parse()?,
        Credentials::parse(Sandbox::KEY)?,
        Process::new(Limits::default())?,
    );
    let backups = Backups::new(qovery, Policy::default());
    let server = mcp::Server::new(backups, Seal::random()?, true);
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
    let newest = agent.read().await?;
    agent.add().await?;
    agent.remove(&newest).await?;

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
        if let ElicitRequestParams::FormElicitationParams { message, .. } = question {
            for line in message.lines() {
                println!("    | {line}");
            }
            println!("    | [x] Remove it for good");
        }
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

    /// Reads every page. Gives the id of the newest backup.
    async fn read(&self) -> anyhow::Result<String> {
        heading("\"Which backups does orders have?\"");
        let mut arguments = json!({ "databaseId": Sandbox::ORDERS });
        let first = self.call("list-database-backups", &arguments).await?;
        show(&first);
        let newest = text(&first["results"][0]["id"]).to_owned();
        arguments["startId"] = first["next_start_id"].clone();
        let second = self.call("list-database-backups", &arguments).await?;
        show(&second);
        Ok(newest)
    }

    /// Adds a backup, and waits until it is made.
    async fn add(&self) -> anyhow::Result<()> {
        heading("\"Back up orders before I migrate.\"");
        let arguments = json!({
            "databaseId": Sandbox::ORDERS,
            "name": "before-migration-42",
            "message": "Asked for before the migration.",
        });
        let added = self.call("add-backup-database", &arguments).await?;
        println!("added {} {}", text(&added["id"]), text(&added["name"]));
        let list = json!({ "databaseId": Sandbox::ORDERS });
        let mut state = String::new();
        while state != "READY" {
            let page = self
                .result("list-database-backups", &list)
                .await?
                .structured_content;
            let page = page.context("a list has structured content")?;
            let now = text(&page["results"][0]["status"]["state"]);
            if now != state {
                println!("its state is {now}");
                now.clone_into(&mut state);
            }
        }
        Ok(())
    }

    async fn remove(&self, old: &str) -> anyhow::Result<()> {
        heading("\"Remove the newest backup of orders.\" It is protected:");
        let list = json!({ "databaseId": Sandbox::ORDERS });
        let page = self.call("list-database-backups", &list).await?;
        let newest = json!({ "databaseId": Sandbox::ORDERS, "backupId": page["results"][0]["id"] });
        self.refused("remove-database-backup", &newest).await?;

        heading("\"Then remove the one before it.\" The person is asked:");
        let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupId": old });
        let removed = self.call("remove-database-backup", &arguments).await?;
        let backup = &removed["backup"];
        println!(
            "removed {} {}; {} remain",
            text(&backup["id"]),
            text(&backup["name"]),
            removed["remaining"]
        );

        heading("An id that does not exist:");
        let unknown = json!({ "databaseId": "0de50000-0000-4000-8000-000000000404" });
        self.refused("list-database-backups", &unknown).await
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

/// The beginning of a page, and where the next one starts.
fn show(page: &Value) {
    let backups = page["results"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for backup in backups.iter().take(4) {
        println!(
            "{}  {}  {:<16} {}",
            text(&backup["id"]),
            text(&backup["created_at"]),
            text(&backup["status"]["state"]),
            text(&backup["name"])
        );
    }
    println!(
        "... {} on this page; next_start_id is {}",
        backups.len(),
        page["next_start_id"]
    );
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
