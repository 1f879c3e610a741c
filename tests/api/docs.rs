//! What the project tells its users is true of the program.

use std::path::Path;

use qovery_backups_mcp::config::SETTINGS;
use serde_json::{Value, json};

use crate::helpers::{Era, TestApp};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[tokio::test]
async fn the_example_for_hosts_launches_the_server() {
    let config: Value = serde_json::from_str(&read("mcp-config.example.json")).unwrap();
    let server = &config["mcpServers"]["qovery-backups"];
    let command = Path::new(server["command"].as_str().unwrap());
    assert!(command.ends_with("qovery-backups-mcp"), "{command:?}");
    let arguments: Vec<&str> = server["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect();
    let mut app = TestApp::new(&[]);
    for (name, value) in server["env"].as_object().unwrap() {
        let name: &'static str = String::leak(name.clone());
        app.variables
            .push((name, value.as_str().unwrap().to_owned()));
    }
    let mut session = app.session(Era::Handshake, &arguments).await;
    let answer = session.request("tools/list", json!({})).await;
    assert_eq!(answer["result"]["tools"].as_array().unwrap().len(), 3);
    assert!(session.finish().await.status.success());
}

#[test]
fn the_readme_lists_every_setting_as_it_is() {
    let readme = read("README.md");
    let rows = readme
        .lines()
        .filter(|line| line.starts_with("| `QOVERY_"))
        .map(|line| line.split('|').skip(1).map(str::trim));
    let rows = rows.map(Iterator::collect::<Vec<_>>);
    let mut rows: Vec<_> = rows.filter(|row| row.len() == 5).collect();
    for setting in SETTINGS {
        let name = format!("`{}`", setting.variable);
        let row = rows.iter().position(|row| row[0] == name);
        let row = rows.remove(row.expect(setting.variable));
        let flag = setting.flag.map(|flag| format!("`--{flag}`"));
        assert_eq!(row[1], flag.as_deref().unwrap_or("none"), "{name}");
        if !setting.default.is_empty() {
            assert!(
                row[2].starts_with(&format!("`{}`", setting.default)),
                "{name}"
            );
        }
        assert!(row[3].len() > 10, "{name}");
    }
    assert_eq!(rows, [[""; 0]; 0]);
}

#[tokio::test]
async fn the_help_names_every_setting_and_the_readme_every_flag_and_tool() {
    let help = TestApp::new(&[]).run(&["check", "--help"]).await.stdout;
    let whole = TestApp::new(&[]).run(&["--help"]).await.stdout;
    for setting in SETTINGS {
        assert!(whole.contains(setting.variable), "{whole}");
        let words = setting.help.split_whitespace().next().unwrap();
        assert!(whole.contains(words), "{whole}");
    }
    let readme = read("README.md");
    let flags = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"));
    for flag in flags.map(|word| word.split(['[', '=']).next().unwrap()) {
        assert!(readme.contains(flag), "README.md does not name {flag}");
    }
    for tool in [
        "list-database-backups",
        "add-backup-database",
        "remove-database-backup",
    ] {
        assert!(readme.contains(tool), "README.md does not name {tool}");
    }
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
