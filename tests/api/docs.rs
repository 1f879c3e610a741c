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
    config::settings,
    helpers::{Era, TestApp},
    helpers_http::{Request, backups_of, serve_sandbox},
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
    assert!(words <= 1500, "{words} words");
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
                let there = anchors(&pages[&target]);
                assert!(
                    there.contains(&anchor.to_owned()),
                    "{name}: {link}: {there:?}"
                );
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
    let environment = [&entry["env"], &entry["environment"]];
    for (name, value) in environment
        .into_iter()
        .filter_map(Value::as_object)
        .flatten()
    {
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
    let written: Vec<Value> = fenced(&page, "json")
        .into_iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
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
    assert_eq!(
        installed,
        [
            (
                code["servers"]["qovery-backups"].clone(),
                Some(code["inputs"].clone())
            ),
            (sandbox.clone(), None),
            (cursor["mcpServers"]["qovery-backups"].clone(), None),
            (sandbox, None),
        ]
    );
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
                assert!(
                    row[2].starts_with(&format!("`{}`", setting.default)),
                    "{name}"
                );
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
    // The change log tells of what was, too.
    for (name, page) in pages.iter().filter(|(name, _)| *name != "CHANGELOG.md") {
        for code in code(&prose(page)).filter(|code| code.starts_with("--")) {
            let flag = code.split([' ', '=']).next().unwrap();
            assert!(flags.contains(flag), "{name} names {flag}");
        }
        for word in page.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
            let known = settings.iter().any(|setting| setting.variable == word);
            assert!(known || !word.starts_with("QOVERY_"), "{name}: {word}");
        }
    }
    for tool in [
        "list-database-backups",
        "add-backup-database",
        "remove-database-backup",
    ] {
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
            // What a host is told to launch stands at the end of its own command.
            let command = line
                .rsplit_once(" -- ")
                .map_or(line, |(_, command)| command);
            let options = match command.split_once(' ') {
                _ if line.starts_with("cargo run --release -- ") => command,
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
    let mut arguments = json!({ "databaseId": Sandbox::ORDERS });
    let listed = session.ok("list-database-backups", arguments.clone()).await;
    arguments["backupId"] = listed["backups"][5]["id"].clone();
    session.ok("remove-database-backup", arguments).await;
    let audit = std::fs::read_to_string(app.directory.path().join("audit")).unwrap();
    let members = |line: &str| -> Vec<String> {
        let line: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
        line.into_iter().map(|(name, _)| name).collect()
    };
    let documented = fenced(&page, "json").concat();
    assert_eq!(members(&documented), members(audit.lines().next().unwrap()));
}

/// The rooms of the map in `lib.rs`, from the ground up.
fn floors() -> Vec<String> {
    let map = read("src/lib.rs");
    let rows = map.lines().filter_map(|line| {
        let (names, _) = line.strip_prefix("//! | ")?.split_once(" | ")?;
        names.contains('`').then_some(names)
    });
    rows.flat_map(|names| names.split(", "))
        .map(|name| name.trim_matches(['[', ']', '`']).to_owned())
        .collect()
}

/// The rooms that a file imports from.
fn imports(code: &str) -> Vec<String> {
    let mut imported = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        let rest = &code[start + "crate::".len()..];
        let mut depth = 0;
        let mut name = String::new();
        let mut named = false;
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => named = false,
                c if c.is_alphanumeric() || c == '_' => {
                    if !named {
                        name.push(c);
                    }
                    continue;
                }
                _ => {}
            }
            if !name.is_empty() {
                imported.push(std::mem::take(&mut name));
                named = true;
            }
            if depth <= 0 {
                break;
            }
        }
    }
    imported
}

/// The invariants of the house that can be read off its source.
#[test]
fn every_line_is_in_its_room() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![source.clone()];
    let mut checked = 0;
    let floors = floors();
    assert!(floors.len() > 15, "{floors:?}");
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let room = path
                .strip_prefix(&source)
                .unwrap()
                .to_str()
                .unwrap()
                .replace('\\', "/");
            let code: String = std::fs::read_to_string(&path)
                .unwrap()
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            let is = |name: &str| room.starts_with(name);
            let has = |words: &[&str]| words.iter().any(|word| code.contains(word));
            let own = room.split(['/', '.']).next().unwrap();
            let floor = floors.iter().position(|floor| floor == own);
            for imported in imports(&code) {
                let below = floors.iter().position(|floor| *floor == imported);
                let fits = own == imported || (below.is_some() && below < floor);
                assert!(fits || ["main", "lib"].contains(&own), "{room}: {imported}");
            }
            if is("qovery") || is("backups") {
                assert!(!has(&["rmcp", "axum"]), "{room}");
            }
            if is("sandbox") {
                assert!(!has(&["crate::"]), "{room}");
            }
            if !is("config") {
                assert!(!has(&["env::var"]), "{room}");
            }
            if !is("program") {
                assert!(!has(&["stdout()"]), "{room}");
            }
            if is("rest") {
                assert!(!has(&["crate::mcp", "    mcp", "rmcp"]), "{room}");
            }
            let holds_secrets = [
                "qovery/credentials",
                "config/sources",
                "serve/http/access",
                "mcp/seal",
            ];
            if !holds_secrets.iter().any(|room| is(room)) {
                assert!(!has(&["expose_secret"]), "{room}");
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} files were read");
}
