//! Every setting in one definition, and the command line that follows from them.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, builder::ValueParser};

use crate::qovery::{BaseUrl, DatabaseId};

/// What there is to say of a setting. A flag wins over the environment, that over a `.env` file.
#[derive(Debug)]
pub struct Setting {
    /// Its variable.
    pub variable: &'static str,
    /// Its flag, without the dashes.
    pub flag: Option<&'static str>,
    /// What holds where nobody gives it; empty for nothing.
    pub default: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether it decides who gets to use the key, and for what. A `.env` that merely lies in the
    /// working directory sets no such thing for a key from elsewhere: it must not lead the key or a
    /// caller to another address, open the ports, loosen a rule, or pretend that the sandbox is
    /// Qovery. What it may set is how the log looks, and what lets the program do less or ask more.
    pub guards: bool,
    /// Whether it is for the command `http` alone.
    pub http: bool,
    /// Its help.
    pub help: &'static str,
}

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value, which the help calls so.
    Value(&'static str),
    /// Values with commas between them, or a repeated flag.
    List(&'static str),
    /// `true` or `false`; the flag alone means `true`.
    Switch,
    /// A secret. It has no flag, because a command line can be read by others.
    Secret,
    /// The path of a file that holds the secret of the same name.
    SecretFile,
}

/// Most settings, before they say what they are.
const SETTING: Setting = Setting {
    variable: "",
    flag: None,
    default: "",
    kind: Kind::Secret,
    guards: false,
    http: false,
    help: "",
};

/// All of our own variables begin so; any other with this beginning is a mistake.
pub(super) const PREFIX: &str = "QOVERY_BACKUPS_";

/// Every setting, in the order of the help.
pub static SETTINGS: &[Setting] = &[
    Setting {
        variable: "QOVERY_API_KEY",
        help: "An API token (qov_...), a policy token (sk-qov-01-...) or a JWT",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_API_KEY_FILE",
        kind: Kind::SecretFile,
        help: "A file that holds it, for mounted secrets",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_ACCESS_TOKEN",
        guards: true,
        http: true,
        help: "What callers of the HTTP ports send as `Authorization: Bearer <token>`: one token of \
               at least 16 characters, or one a line as name:token. Any address but a loopback one \
               needs it",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_ACCESS_TOKEN_FILE",
        kind: Kind::SecretFile,
        guards: true,
        http: true,
        help: "A file that holds them",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_STATE_KEY",
        guards: true,
        http: true,
        help: "What replicas of the HTTP server share, so that one can take the answer to another's \
               question: at least 32 characters; to change it, the new one above the old one",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_STATE_KEY_FILE",
        kind: Kind::SecretFile,
        guards: true,
        http: true,
        help: "A file that holds it",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_SANDBOX",
        flag: Some("sandbox"),
        default: "false",
        kind: Kind::Switch,
        guards: true,
        help: "Use an in-memory Qovery with sample databases: no account, no key, nothing is real",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_READ_ONLY",
        flag: Some("read-only"),
        default: "false",
        kind: Kind::Switch,
        help: "List only: refuse to add or remove backups",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_KEEP_LATEST",
        flag: Some("keep-latest"),
        default: "1",
        kind: Kind::Value("N"),
        guards: true,
        help: "How many of a database's newest backups are never removed; whatever the number, the \
               newest one that has not failed never is",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_CONFIRM",
        flag: Some("confirm"),
        default: "auto",
        kind: Kind::Value("WHEN"),
        guards: true,
        help: "Whether a person confirms each removal: auto (where the client can ask one), always \
               (and nothing is removed where it cannot) or never",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_CHANGES_PER_HOUR",
        flag: Some("changes-per-hour"),
        default: "60",
        kind: Kind::Value("N"),
        guards: true,
        help: "How many backups may be added and removed in any hour, by all callers together; 0 \
               for any number",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_AUDIT_LOG",
        flag: Some("audit-log"),
        default: "none",
        kind: Kind::Value("FILE"),
        guards: true,
        help: "A file to which each change is written, before it is made and after: one JSON object \
               a line",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_API_URL",
        flag: Some("api-url"),
        default: BaseUrl::QOVERY,
        kind: Kind::Value("URL"),
        guards: true,
        help: "Where Qovery's API is",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_ENV_FILE",
        flag: Some("env-file"),
        default: ".env",
        kind: Kind::Value("FILE"),
        help: "Read variables from this file instead of .env in the working directory",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_LOG",
        flag: Some("log"),
        // rmcp tells of every message at `info`.
        default: "info,rmcp=warn",
        kind: Kind::Value("FILTER"),
        help: "What to log to standard error: a level, or target=level, or several with commas",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_LOG_FORMAT",
        flag: Some("log-format"),
        default: "text",
        kind: Kind::Value("FORMAT"),
        help: "How a line of the log looks: text or json",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_MCP_ADDR",
        flag: Some("mcp-addr"),
        default: "127.0.0.1:9090",
        kind: Kind::Value("ADDRESS"),
        guards: true,
        http: true,
        help: "Where the command http serves MCP, at /mcp",
    },
    Setting {
        variable: "QOVERY_BACKUPS_REST_ADDR",
        flag: Some("rest-addr"),
        default: "127.0.0.1:8080",
        kind: Kind::Value("ADDRESS"),
        guards: true,
        http: true,
        help: "Where the command http serves the REST API",
    },
    Setting {
        variable: "QOVERY_BACKUPS_NO_REST",
        flag: Some("no-rest"),
        default: "false",
        kind: Kind::Switch,
        http: true,
        help: "Serve MCP only",
        ..SETTING
    },
    Setting {
        variable: "QOVERY_BACKUPS_ALLOWED_HOST",
        flag: Some("allowed-host"),
        default: "localhost,127.0.0.1,[::1]",
        kind: Kind::List("HOST"),
        guards: true,
        http: true,
        help: "A name under which callers reach the ports, repeatable: any port unless it names one",
    },
    Setting {
        variable: "QOVERY_BACKUPS_ALLOWED_ORIGIN",
        flag: Some("allowed-origin"),
        default: "none",
        kind: Kind::List("ORIGIN"),
        guards: true,
        http: true,
        help: "A web origin whose pages may call the ports, repeatable: scheme, host and port, which \
               may be *",
    },
    Setting {
        variable: "QOVERY_BACKUPS_PUBLIC_URL",
        flag: Some("public-url"),
        default: "none",
        kind: Kind::Value("URL"),
        guards: true,
        http: true,
        help: "Where callers reach the ports behind a proxy: what the log and the page at / print",
    },
    Setting {
        variable: "QOVERY_BACKUPS_SESSIONS",
        flag: Some("sessions"),
        default: "false",
        kind: Kind::Switch,
        http: true,
        help: "Keep sessions for MCP clients of the revisions before 2026-07-28",
        ..SETTING
    },
];

impl Setting {
    pub(super) fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::SecretFile)
    }

    /// Its flag as an argument of the command line. The environment is read elsewhere.
    fn argument(&self, flag: &'static str) -> Arg {
        let mut long_help = format!("{}\n\n[env: {}]", self.help, self.variable);
        if self.kind != Kind::Switch {
            let _ = write!(long_help, "\n[default: {}]", self.default);
        }
        let argument = Arg::new(self.variable)
            .long(flag)
            .global(!self.http)
            .value_parser(ValueParser::os_string())
            .help(self.help)
            .long_help(long_help);
        let argument = match self.kind {
            Kind::Switch => argument
                .value_name("BOOL")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
            Kind::List(name) => argument.value_name(name).action(ArgAction::Append),
            Kind::Value(name) => argument.value_name(name),
            Kind::Secret | Kind::SecretFile => argument.hide(true),
        };
        if self.http {
            argument.help_heading("Options of the command http")
        } else {
            argument
        }
    }
}

/// The variables of these secrets, for the end of a command's help.
fn secrets(settings: impl Iterator<Item = &'static Setting>) -> String {
    let mut secrets =
        "Secrets have no flag, because a command line can be read by others:\n".to_owned();
    for setting in settings.filter(|setting| setting.is_secret()) {
        let _ = writeln!(secrets, "  {}\n      {}", setting.variable, setting.help);
    }
    secrets
}

/// The command line.
#[must_use]
pub fn command_line() -> Command {
    let arguments = |of_http_alone: bool| {
        let settings = SETTINGS
            .iter()
            .filter(move |setting| setting.http || !of_http_alone);
        settings.filter_map(|setting| Some(setting.argument(setting.flag?)))
    };
    let database = Arg::new("database")
        .long("database")
        .value_name("ID")
        .value_parser(|text: &str| text.parse::<DatabaseId>())
        .help(
            "Ask for this database's backups instead of the organizations: all that the policy of \
             a policy token may allow",
        );
    let command = Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "List, add and safely remove the backups of databases hosted on Qovery, from an AI \
             assistant.\n\nAn MCP host launches this program and talks to it over standard input \
             and output, or reaches it over HTTP. To see it work without a Qovery account, add \
             --sandbox.",
        )
        .after_help(format!(
            "{}\nA flag wins over its variable, and that over a .env file in the working directory.",
            secrets(SETTINGS.iter())
        ))
        .max_term_width(100)
        .args(arguments(false))
        .subcommands([
            Command::new("stdio")
                .about("Serve MCP on standard input and output: what a host launches (the default)")
                .after_help(secrets(SETTINGS.iter().filter(|setting| !setting.http))),
            Command::new("http")
                .about("Serve MCP over streamable HTTP, and the same operations as a REST API")
                .after_help(secrets(SETTINGS.iter()))
                .args(arguments(true)),
            Command::new("check")
                .about("Say whether this configuration would work; changes nothing")
                .after_help(secrets(SETTINGS.iter()))
                .arg(database)
                .args(arguments(true)),
        ]);
    #[cfg(debug_assertions)]
    let command = command.arg(
        Arg::new("short-limits")
            .long("short-limits")
            .action(ArgAction::SetTrue)
            .global(true)
            .hide(true),
    );
    command
}
