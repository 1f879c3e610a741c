//! What the project tells its users is true of the program.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use qovery_backups_mcp::sandbox::Sandbox;
use reqwest::Url;
use serde_json::{Value, json};

use crate::{
    app::{TestApp, serve_sandbox},
    clients::{ADD, Era, LIST, REMOVE, orders},
    config::settings,
    connection::{Request, backups_of},
    expect::contains,
};

pub(crate) fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The pages that people read, by their paths.
fn pages() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [root.to_owned(), root.join("docs")].into_iter();
    let pages: BTreeMap<_, _> = files
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            let name = name.replace('\\', "/");
            (name.clone(), read(&name))
        })
        .collect();
    assert!(pages.len() > 5, "{:?}", pages.keys());
    pages
}

/// What stands between backticks in a text.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The fenced parts of a page in this language.
fn fenced<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let parts = page.split(&fence).skip(1);
    parts
        .map(|part| part.split("```").next().unwrap())
        .collect()
}

/// A page without its fenced parts.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

#[test]
fn the_readme_is_read_in_five_minutes() {
    let words = read("README.md").split_whitespace().count();
    assert!(words <= 1700, "{words} words");
}

/// The anchor of each heading, as GitHub makes it.
fn anchors(page: &str) -> Vec<String> {
    let prose = prose(page);
    let headings = prose.lines().filter_map(|line| line.split_once("# "));
    let headings = headings.filter(|(level, _)| level.bytes().all(|byte| byte == b'#'));
    let anchor = |heading: &str| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.replace(|c: char| !(c.is_alphanumeric() || "-_".contains(c)), "")
    };
    headings.map(|(_, heading)| anchor(heading)).collect()
}

#[test]
fn links_lead_somewhere_and_to_every_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages();
    let mut linked = BTreeSet::new();
    for (name, page) in &pages {
        let prose = prose(page);
        let links = prose.split("](").skip(1);
        for link in links.map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("https://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(name).parent().unwrap();
            let target = match path {
                "" => name.clone(),
                _ => normal(&folder.join(path)),
            };
            assert!(root.join(&target).exists(), "{name} links to {link}");
            if !anchor.is_empty() {
                let anchors = anchors(&pages[&target]);
                assert!(anchors.contains(&anchor.to_owned()), "{name}: {link}");
            }
            linked.insert((name.clone(), target));
        }
    }
    for page in pages.keys().filter(|page| page.starts_with("docs/")) {
        let link = ("README.md".to_owned(), page.clone());
        assert!(linked.contains(&link), "README.md does not link to {page}");
    }
}

/// A path without `..`.
fn normal(path: &Path) -> String {
    let mut parts = Vec::new();
    for part in path.iter().map(|part| part.to_str().unwrap()) {
        match part {
            ".." => drop(parts.pop().unwrap()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Sees that a host with this entry in its configuration gets the tools.
async fn launches(entry: &Value) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let texts = |value: &Value| value.as_array().unwrap().iter().map(text).collect();
    let mut command: Vec<String> = match &entry["command"] {
        Value::Array(_) => texts(&entry["command"]),
        command => vec![text(command)],
    };
    if entry["args"].is_array() {
        command.extend::<Vec<_>>(texts(&entry["args"]));
    }
    let program = Path::new(&command[0]);
    assert!(program.ends_with("qovery-backups-mcp"), "{entry}");
    let mut app = TestApp::new(&[]);
    app.file("key", "qov_0123456789abcdef");
    let environment = [&entry["env"], &entry["environment"]].into_iter();
    for (name, value) in environment.filter_map(Value::as_object).flatten() {
        let value = match text(value) {
            file if file == "KEYFILE" => "key".to_owned(),
            // As the host fills it in.
            placeholder if placeholder.starts_with("${") => "qov_0123456789abcdef".to_owned(),
            value => value,
        };
        app.variables.push((String::leak(name.clone()), value));
    }
    let arguments: Vec<&str> = command[1..].iter().map(String::as_str).collect();
    let mut session = app.session(Era::Handshake, &arguments).await;
    let answer = session.request("tools/list", json!({})).await;
    assert_eq!(answer["result"]["tools"].as_array().unwrap().len(), 3);
    assert!(session.finish().await.status.success());
}

/// The entries of a host's configuration that launch a program.
fn launched(configuration: &Value, entries: &mut Vec<Value>) {
    if configuration["command"].is_null() {
        let inner = configuration.as_object().into_iter().flatten();
        inner.for_each(|(_, inner)| launched(inner, entries));
    } else {
        entries.push(configuration.clone());
    }
}

#[tokio::test]
async fn the_configurations_of_hosts_launch_the_server() {
    let page = read("docs/hosts.md");
    let example = read("mcp-config.example.json");
    let mut entries = Vec::new();
    for text in fenced(&page, "json").into_iter().chain([&*example]) {
        launched(&serde_json::from_str(text).unwrap(), &mut entries);
    }
    assert_eq!(entries.len(), 5, "{entries:?}");
    for entry in entries {
        launches(&entry).await;
    }
}

#[test]
fn the_buttons_install_what_the_page_of_hosts_says() {
    let readme = read("README.md");
    let page = read("docs/hosts.md");
    let written = fenced(&page, "json").into_iter();
    let written = written.map(|text| serde_json::from_str(text).unwrap());
    let written: Vec<Value> = written.collect();
    let of = |member: &str| {
        written
            .iter()
            .find(|json| json[member].is_object())
            .unwrap()
    };
    let (code, cursor) = (of("servers"), of("mcpServers"));
    let sandbox = json!({ "command": "qovery-backups-mcp", "args": ["stdio", "--sandbox"] });
    let mut installed = Vec::new();
    for link in readme.split("](https://").skip(1) {
        let link = link.split(')').next().unwrap();
        let url = Url::parse(&format!("https://{link}")).unwrap();
        let parts: HashMap<_, _> = url.query_pairs().collect();
        let Some(config) = parts.get("config") else {
            continue;
        };
        assert_eq!(parts["name"], "qovery-backups");
        let inputs = parts
            .get("inputs")
            .map(|inputs| serde_json::from_str::<Value>(inputs).unwrap());
        let config = if url.host_str() == Some("cursor.com") {
            serde_json::from_slice(&STANDARD.decode(&**config).unwrap()).unwrap()
        } else {
            serde_json::from_str::<Value>(config).unwrap()
        };
        installed.push((config, inputs));
    }
    let cursor = cursor["mcpServers"]["qovery-backups"].clone();
    let (server, inputs) = (
        code["servers"]["qovery-backups"].clone(),
        code["inputs"].clone(),
    );
    let real = [(server, Some(inputs)), (cursor, None)];
    let [first, second] = real.map(|button| [button, (sandbox.clone(), None)]);
    assert_eq!(installed, [first, second].concat());
}

#[test]
fn the_tables_list_every_setting_as_it_is() {
    for (page, http) in [("README.md", false), ("docs/operating.md", true)] {
        let text = read(page);
        let rows = text
            .lines()
            .filter(|line| line.starts_with("| `QOVERY_"))
            .map(|line| line.split('|').skip(1).map(str::trim));
        let rows = rows.map(Iterator::collect::<Vec<_>>);
        let mut rows: Vec<_> = rows.filter(|row| row.len() == 5).collect();
        for setting in settings()
            .into_iter()
            .filter(|setting| setting.http == http)
        {
            let name = format!("`{}`", setting.variable);
            let row = rows.iter().position(|row| row[0] == name);
            let row = rows.remove(row.expect(&setting.variable));
            let flag = setting.flag.as_ref().map(|flag| format!("`--{flag}`"));
            assert_eq!(row[1], flag.as_deref().unwrap_or("none"), "{name}");
            if !setting.default.is_empty() {
                contains(row[2], [&format!("`{}`", setting.default)]);
            }
            assert!(row[3].len() > 10, "{name}");
        }
        assert_eq!(rows, [[""; 0]; 0], "{page}");
    }
}

#[tokio::test]
async fn the_help_and_the_pages_name_the_same_and_the_readme_every_tool() {
    let check = TestApp::new(&[]).run(&["check", "--help"]).await.stdout;
    let whole = TestApp::new(&[]).run(&["--help"]).await.stdout;
    let settings = settings();
    for setting in &settings {
        contains(&whole, [setting.variable.as_str()]);
    }
    let mut flags: BTreeSet<&str> = check
        .split_whitespace()
        .chain(whole.split_whitespace())
        .filter(|word| word.starts_with("--"))
        .map(|word| word.trim_end_matches(|c: char| !c.is_ascii_lowercase()))
        .map(|word| word.split(['[', '=']).next().unwrap())
        .collect();
    let pages = pages();
    let text: String = pages.values().map(String::as_str).collect();
    for flag in ["--help", "--version"] {
        assert!(flags.remove(flag), "{flag}");
    }
    for flag in &flags {
        assert!(text.contains(flag), "no page names {flag}");
    }
    // An option of a host, of which there is one.
    flags.insert("--header");
    // Others name the flags of other programs, too.
    let of_users = |name: &str| name == "README.md" || name.starts_with("docs/");
    for (name, page) in pages.iter().filter(|(name, _)| of_users(name)) {
        for code in code(&prose(page)).filter(|code| code.starts_with("--")) {
            let flag = code.split([' ', '=']).next().unwrap();
            assert!(flags.contains(flag), "{name} names {flag}");
        }
        for word in page.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
            let known = settings.iter().any(|setting| setting.variable == word);
            let is_other = !word.starts_with("QOVERY_") || word == "QOVERY_BACKUPS_";
            assert!(known || is_other, "{name}: {word}");
        }
    }
    for tool in [LIST, ADD, REMOVE] {
        let readme = &pages["README.md"];
        assert!(readme.contains(tool), "README.md does not name {tool}");
    }
}

/// Each is tried with `--help` behind it, which reads what stands before.
#[tokio::test]
async fn the_commands_in_the_pages_are_the_programs() {
    const PROGRAM: &str = "qovery-backups-mcp";
    let mut tried = BTreeSet::new();
    for page in pages().values() {
        let fenced = fenced(page, "sh").concat();
        let prose = prose(page);
        for line in fenced.lines().chain(code(&prose)) {
            // What a host launches stands at the end of its own command.
            let command = line
                .rsplit_once(" -- ")
                .map_or(line, |(_, command)| command);
            let options = match command.split_once(' ') {
                _ if line.starts_with("cargo run -- ") => command,
                Some((PROGRAM, options)) => options,
                _ if command == PROGRAM => "",
                _ => continue,
            };
            let options = options.replace("<id>", Sandbox::ORDERS);
            let mut options: Vec<&str> = options.split(' ').collect();
            options.retain(|option| !option.is_empty());
            options.push("--help");
            let end = TestApp::new(&[]).run(&options).await;
            assert!(end.status.success(), "{line}: {}", end.stderr);
            tried.insert(options.join(" "));
        }
        for example in page.split("cargo run --example ").skip(1) {
            let name = example.split([' ', '`', '\n']).next().unwrap();
            assert!(!read(&format!("examples/{name}.rs")).is_empty());
        }
    }
    for command in ["--help", "http --sandbox --help", "check --help"] {
        assert!(tried.contains(command), "{tried:?}");
    }
}

/// The lines of `curl` on the page of REST, in their order.
#[tokio::test]
async fn the_requests_in_the_page_of_rest_are_answered() {
    let server = serve_sandbox(&[]).await;
    let page = fenced(&read("docs/rest.md"), "sh").concat();
    let assigned = page.lines().find_map(|line| line.strip_prefix("BACKUPS="));
    let path = assigned.unwrap().strip_prefix("http://127.0.0.1:8080");
    assert_eq!(path, Some(&*backups_of(Sandbox::ORDERS)));
    let listed = server.rest(Request::get(path.unwrap())).await.json();
    let oldest = listed["results"][19]["id"].as_str().unwrap();
    let lines = page.lines().filter_map(|line| line.strip_prefix("curl "));
    let mut statuses = Vec::new();
    for line in lines {
        let line = line.replace("$BACKUPS", path.unwrap());
        let line = line.replace("BACKUP_ID", oldest);
        let (line, body) = line.split_once(" -d ").unwrap_or((&line, ""));
        let (line, header) = line.split_once(" -H ").unwrap_or((line, ""));
        let method = match line.strip_prefix("-X DELETE ") {
            Some(_) => "DELETE",
            None if body.is_empty() => "GET",
            None => "POST",
        };
        let target = line.trim_start_matches("-X DELETE ");
        let mut request = Request::new(method, target).body(body.trim_matches('\''));
        if !header.is_empty() {
            let content_type = header.trim_matches('\'').strip_prefix("Content-Type: ");
            request = request.header("Content-Type", content_type.unwrap());
        }
        statuses.push(server.rest(request).await.status);
    }
    assert_eq!(statuses, [200, 201, 204]);
}

/// The failures of the OpenAPI document, and the one that is of no operation.
#[test]
fn the_table_of_statuses_is_whole() {
    let document: Value = serde_json::from_str(&read("src/rest/openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    let responses = operations.filter_map(|operation| operation["responses"].as_object());
    let mut expected: BTreeSet<&str> = responses.flatten().map(|(status, _)| &**status).collect();
    expected.retain(|status| !status.starts_with('2'));
    expected.insert("405");
    let page = read("docs/rest.md");
    let (_, table) = page
        .split_once("| status | meaning |\n|---|---|\n")
        .unwrap();
    let rows = table.lines().take_while(|line| line.starts_with("| "));
    let rows: Vec<&str> = rows
        .map(|row| row[2..].split(' ').next().unwrap())
        .collect();
    assert_eq!(rows, expected.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn the_metrics_and_the_lines_on_record_are_as_the_page_says() {
    let page = read("docs/operating.md");
    let server = serve_sandbox(&[]).await;
    // Some are there once something was asked for.
    let listed = Request::get(&backups_of(Sandbox::ORDERS));
    assert_eq!(listed.send(server.rest).await.status, 200);
    let metrics = Request::get("/metrics").send(server.rest).await.text();
    let types = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let names: BTreeSet<_> = types.map(|line| line.split(' ').next().unwrap()).collect();
    let prose = prose(&page);
    let documented = code(&prose).filter(|code| code.starts_with("qovery_backups_"));
    assert_eq!(documented.collect::<BTreeSet<_>>(), names);

    let app = TestApp::new(&[]);
    let arguments = ["--sandbox", "--confirm", "never", "--audit-log", "audit"];
    let mut session = app.session(Era::Handshake, &arguments).await;
    let mut arguments = orders();
    let listed = session.ok(LIST, arguments.clone()).await;
    arguments["backupId"] = listed["backups"][5]["id"].clone();
    session.ok(REMOVE, arguments).await;
    let audit = std::fs::read_to_string(app.directory.path().join("audit")).unwrap();
    let members = |line: &str| -> Vec<String> {
        let line: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
        line.into_iter().map(|(name, _)| name).collect()
    };
    let documented = fenced(&page, "json").concat();
    assert_eq!(members(&documented), members(audit.lines().next().unwrap()));
}
