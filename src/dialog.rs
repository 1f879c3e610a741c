//! The operating system's own dialog, for a person whose MCP client cannot show a question: zenity,
//! osascript or PowerShell.
//!
//! The text is an argument or a variable of the child, never a part of a script. Only what the child prints
//! means yes: zenity exits with 0 when its window is destroyed.
//!
//! What must never live here: what the question says, and what follows from the answer.

use std::{
    collections::HashMap, env, ffi::OsStr, ffi::OsString, io, path::PathBuf, process,
    time::Duration,
};

use tokio::{process::Command, sync::Mutex, time::timeout};

use crate::{limits::Limits, text};

/// A dialog that can be shown, by what the environment says.
#[derive(Debug)]
pub struct Dialog {
    system: System,
    program: PathBuf,
    /// The names of this program's variables, secrets among them. The child gets none of them.
    own_variables: Vec<OsString>,
    /// Held while a dialog is open.
    screen: Mutex<()>,
}

#[derive(Debug)]
enum System {
    /// Not kdialog: its Return key removes, and markup in a name can hide facts.
    Zenity,
    /// Not tried.
    Osascript,
    /// Not tried.
    PowerShell,
}

/// What became of a dialog.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The person clicked Remove.
    Remove,
    /// The person clicked Keep, or closed the dialog.
    Keep,
    /// The time was over before an answer.
    NoAnswer,
}

/// Why a person was not asked, in words for a person or a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another dialog stayed open.
    #[error("Another question is on the screen. Nothing was removed. Answer it, then call again.")]
    ScreenTaken,
    /// The dialog could not be started or shown, or something else than an answer ended it.
    #[error(
        "The dialog could not be shown, or was ended: {0}. Nothing was removed. Tell the person: this \
         server has to reach the screen (on Linux, the host passes it DISPLAY, XAUTHORITY, \
         WAYLAND_DISPLAY and XDG_RUNTIME_DIR), or the client to show questions (elicitation)."
    )]
    NotShown(String),
}

/// The lines of a text that are shown: a dialog does not scroll, and its buttons must stay on the screen.
const MAX_LINES: usize = 13;

/// Return and Escape keep.
const ZENITY: &str =
    "--question --no-markup --switch --extra-button=Keep --extra-button=Remove --width=640";

/// zenity's exit code after a click, a key or closing the window: by default it is 1, as without a display.
const ZENITY_ESC: i32 = 86;

/// Return and Escape keep: osascript then fails with error -128.
const OSASCRIPT: &str = r#"on run argv
    activate
    button returned of (display dialog (item 1 of argv) with title "Remove backups?" with icon caution ¬
        buttons {"Remove", "Keep"} default button "Keep" cancel button "Keep")
end run"#;

/// Yes and No, a warning sign, No is the default, above other windows. Yes is 6, No is 7.
const POWERSHELL: &str = "$clicked = (New-Object -ComObject WScript.Shell).Popup($env:DIALOG_TEXT, 0, \
    'Remove backups?', 4+48+256+4096); if ($clicked -eq 6) {'Remove'} elseif ($clicked -eq 7) {'Keep'}";

impl Dialog {
    /// Finds out whether a dialog can be shown. `os` is [`std::env::consts::OS`].
    ///
    /// # Errors
    ///
    /// The reason why it cannot, in a person's words.
    pub fn find(os: &str, environment: &HashMap<OsString, OsString>) -> Result<Self, &'static str> {
        let get = |name: &str| environment.get(OsStr::new(name)).filter(|v| !v.is_empty());
        let display = get("DISPLAY").map(|display| display.to_string_lossy());
        // Over SSH, the person's screen is an X display that is forwarded.
        let is_forwarded = os == "linux" && display.as_ref().is_some_and(|d| d.find(':') > Some(0));
        let has_screen = display.is_some() || get("WAYLAND_DISPLAY").is_some();
        let folders = get("PATH").into_iter().flat_map(env::split_paths);
        let mut programs = folders.map(|folder| folder.join("zenity"));
        let mut zenity = || programs.find(|program| program.is_absolute() && program.is_file());
        let (system, program) = match os {
            _ if get("CI").is_some() => return Err("CI is set"),
            _ if get("SSH_CONNECTION").is_some() && !is_forwarded => {
                return Err("SSH_CONNECTION is set, and DISPLAY names no host");
            }
            "linux" if !has_screen => return Err("neither WAYLAND_DISPLAY nor DISPLAY is set"),
            "linux" => (System::Zenity, zenity().ok_or("no zenity is in PATH")?),
            "macos" => (System::Osascript, "/usr/bin/osascript".into()),
            "windows" => (System::PowerShell, "powershell.exe".into()),
            _ => return Err("this operating system has no dialog"),
        };
        let is_own = |name: &&OsString| name.to_string_lossy().starts_with("QOVERY_");
        Ok(Self {
            system,
            program,
            own_variables: environment.keys().filter(is_own).cloned().collect(),
            screen: Mutex::default(),
        })
    }

    /// Shows a text until it is answered, for at most `time`. Dropping the future closes the dialog.
    ///
    /// # Errors
    ///
    /// When another dialog stays open, or this one cannot be shown.
    pub async fn ask(&self, text: &str, time: Duration, limits: &Limits) -> Result<Answer, Error> {
        let screen = timeout(limits.screen_wait, self.screen.lock()).await;
        let _screen = screen.map_err(|_| Error::ScreenTaken)?;
        let output = async { self.command(text)?.output().await };
        match timeout(time, output).await {
            Ok(Ok(output)) => answer(&output),
            Ok(Err(error)) => Err(Error::NotShown(error.to_string())),
            Err(_) => Ok(Answer::NoAnswer),
        }
    }

    fn command(&self, text: &str) -> io::Result<Command> {
        let text = shortened(text);
        let mut command = Command::new(&self.program);
        command.stdin(process::Stdio::null()).kill_on_drop(true);
        for name in &self.own_variables {
            command.env_remove(name);
        }
        match self.system {
            System::Zenity => command
                .args(ZENITY.split(' '))
                .args(["--title=Remove backups?", &format!("--text={text}")])
                .env("ZENITY_ESC", ZENITY_ESC.to_string())
                // Hosts pass no locale, and without one zenity refuses a text that is not ASCII.
                .env("LC_ALL", "C.UTF-8"),
            System::Osascript => {
                // A pipe holds the script, so that no task has to write it.
                let (input, mut script) = io::pipe()?;
                io::Write::write_all(&mut script, OSASCRIPT.as_bytes())?;
                command.args(["-", &text]).stdin(input)
            }
            System::PowerShell => command
                .args(["-NoProfile", "-NonInteractive", "-Command", POWERSHELL])
                .env("DIALOG_TEXT", format!("{text}\nYes removes.")),
        };
        Ok(command)
    }
}

/// Only the line `Remove` means yes. Keep takes a proof, too, that the dialog was shown.
fn answer(output: &process::Output) -> Result<Answer, Error> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let reason = format!("{} {stderr}", output.status);
    let is_closed = output.status.code() == Some(ZENITY_ESC) || stderr.contains("(-128)");
    match output.stdout.as_slice() {
        b"Remove\n" | b"Remove\r\n" => Ok(Answer::Remove),
        b"Keep\n" | b"Keep\r\n" => Ok(Answer::Keep),
        _ if is_closed => Ok(Answer::Keep),
        _ => Err(Error::NotShown(text::excerpt(reason.trim()))),
    }
}

fn shortened(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    match lines.split_at_checked(MAX_LINES) {
        Some((shown, cut @ [_, ..])) => format!("{}\nand {} more", shown.join("\n"), cut.len()),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;

    const TEXT: &str = "--version & <b>Remove</b> $(id) \"x\"\nThis cannot be undone.";

    fn environment(variables: &[(&str, &str)]) -> HashMap<OsString, OsString> {
        let owned = |(name, value): &(&str, &str)| (name.into(), value.into());
        variables.iter().map(owned).collect()
    }

    /// The program, its arguments, and what it has of variables beside those that it inherits.
    fn command(dialog: &Dialog) -> Vec<String> {
        let lossy = |text: &OsStr| text.to_string_lossy().into_owned();
        let command = dialog.command(TEXT).unwrap();
        let command = command.as_std();
        let variables = command.get_envs().map(|(name, value)| match value {
            Some(value) => format!("{}={}", lossy(name), lossy(value)),
            None => format!("without {}", lossy(name)),
        });
        let program = [lossy(command.get_program())].into_iter();
        let arguments = command.get_args().map(lossy);
        program.chain(arguments).chain(variables).collect()
    }

    /// A dialog that runs the script whose path is the text, instead of showing it.
    fn shell() -> Dialog {
        Dialog {
            system: System::Osascript,
            program: "/bin/sh".into(),
            own_variables: Vec::new(),
            screen: Mutex::default(),
        }
    }

    #[test]
    fn the_text_is_one_argument_of_zenity() {
        let folder = tempfile::tempdir().unwrap();
        let zenity = folder.path().join("zenity");
        fs::write(&zenity, "").unwrap();
        let path = format!("relative:/nowhere:{}", folder.path().display());
        let variables = [("DISPLAY", ":0"), ("PATH", &path), ("QOVERY_API_KEY", "x")];
        let dialog = Dialog::find("linux", &environment(&variables)).unwrap();
        assert!(!format!("{dialog:?}").contains(":0"));
        assert_eq!(
            command(&dialog),
            [
                zenity.to_str().unwrap(),
                "--question",
                "--no-markup",
                "--switch",
                "--extra-button=Keep",
                "--extra-button=Remove",
                "--width=640",
                "--title=Remove backups?",
                &format!("--text={TEXT}"),
                "LC_ALL=C.UTF-8",
                "without QOVERY_API_KEY",
                "ZENITY_ESC=86",
            ]
        );
    }

    #[test]
    fn the_text_is_one_argument_of_osascript() {
        let dialog = Dialog::find("macos", &environment(&[("QOVERY_API_KEY", "x")])).unwrap();
        assert_eq!(
            command(&dialog),
            ["/usr/bin/osascript", "-", TEXT, "without QOVERY_API_KEY"]
        );
        assert_eq!(
            OSASCRIPT,
            "on run argv\n    activate\n    button returned of (display dialog (item 1 of argv) with \
             title \"Remove backups?\" with icon caution ¬\n        buttons {\"Remove\", \"Keep\"} \
             default button \"Keep\" cancel button \"Keep\")\nend run"
        );
    }

    #[test]
    fn the_text_is_a_variable_of_powershell() {
        let dialog = Dialog::find("windows", &environment(&[("QOVERY_API_KEY", "x")])).unwrap();
        let script = "$clicked = (New-Object -ComObject WScript.Shell).Popup($env:DIALOG_TEXT, 0, \
             'Remove backups?', 4+48+256+4096); if ($clicked -eq 6) {'Remove'} elseif ($clicked -eq 7) \
             {'Keep'}";
        assert_eq!(
            command(&dialog),
            [
                "powershell.exe",
                "-NoProfile",
                "-NonInteractive",
                "-Command",
                script,
                &format!("DIALOG_TEXT={TEXT}\nYes removes."),
                "without QOVERY_API_KEY",
            ]
        );
    }

    #[test]
    fn a_dialog_takes_a_screen_that_is_the_persons() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("zenity"), "").unwrap();
        let path = folder.path().to_str().unwrap();
        let remote = "SSH_CONNECTION names no host";
        for (os, variables, reason) in [
            ("linux", vec![("DISPLAY", ":0")], ""),
            ("linux", vec![("WAYLAND_DISPLAY", "wayland-0")], ""),
            ("linux", vec![("DISPLAY", ":0"), ("CI", "")], ""),
            ("linux", vec![], "neither WAYLAND_DISPLAY nor DISPLAY"),
            ("linux", vec![("DISPLAY", "")], "neither WAYLAND_DISPLAY"),
            ("linux", vec![("DISPLAY", ":0"), ("CI", "true")], "CI is"),
            ("linux", vec![("DISPLAY", ":0"), ("PATH", "/")], "no zenity"),
            ("linux", vec![("DISPLAY", ":0"), ("PATH", "")], "no zenity"),
            (
                "linux",
                vec![("DISPLAY", "localhost:10.0"), ("SSH_CONNECTION", "a")],
                "",
            ),
            (
                "linux",
                vec![("DISPLAY", ":0"), ("SSH_CONNECTION", "a")],
                remote,
            ),
            (
                "linux",
                vec![("DISPLAY", "x"), ("SSH_CONNECTION", "a")],
                remote,
            ),
            (
                "linux",
                vec![("WAYLAND_DISPLAY", "x"), ("SSH_CONNECTION", "a")],
                remote,
            ),
            ("macos", vec![], ""),
            (
                "macos",
                vec![("DISPLAY", "mac:0"), ("SSH_CONNECTION", "a")],
                remote,
            ),
            ("windows", vec![], ""),
            ("windows", vec![("CI", "1")], "CI is set"),
            ("freebsd", vec![("DISPLAY", ":0")], "operating system"),
        ] {
            let mut environment = environment(&variables);
            environment.entry("PATH".into()).or_insert(path.into());
            let found = Dialog::find(os, &environment).err();
            let fits = |found: &str| reason.split(' ').all(|word| found.contains(word));
            assert_eq!(
                found.is_none(),
                reason.is_empty(),
                "{os} {variables:?}: {found:?}"
            );
            assert!(found.is_none_or(fits), "{os} {variables:?}: {found:?}");
        }
    }

    #[test]
    fn only_the_line_remove_means_yes() {
        let remove: fn(&Result<Answer, Error>) -> bool = |it| matches!(it, Ok(Answer::Remove));
        let keep: fn(&Result<Answer, Error>) -> bool = |it| matches!(it, Ok(Answer::Keep));
        let error: fn(&Result<Answer, Error>) -> bool = |it| matches!(it, Err(Error::NotShown(_)));
        for (script, expected) in [
            // zenity 3.44 and 4.1: a click on either, Escape, no display, a destroyed window, killed.
            ("echo Remove; exit 86", remove),
            ("echo warning >&2; echo Remove; exit 1", remove),
            ("echo Keep; exit 86", keep),
            ("echo Keep; exit 1", keep),
            ("echo warning >&2; exit 86", keep),
            ("echo 'cannot open display: ' >&2; exit 1", error),
            ("echo unexpectedly destroyed >&2", error),
            ("kill -9 $$", error),
            // osascript: Keep.
            (
                "echo '62:260: execution error: User canceled. (-128)' >&2; exit 1",
                keep,
            ),
            // PowerShell.
            ("printf 'Remove\\r\\n'", remove),
            ("printf 'Keep\\r\\n'", keep),
            // No other text.
            ("printf Remove", error),
            ("echo remove", error),
            ("echo ' Remove'", error),
            ("echo; echo Remove", error),
            ("echo Remove; echo", error),
            ("echo Remove; echo Keep", error),
            ("echo Remove >&2", error),
            ("exit 0", error),
            ("exit 1", error),
        ] {
            let output = process::Command::new("sh").args(["-c", script]).output();
            let answer = answer(&output.unwrap());
            assert!(expected(&answer), "{script}: {answer:?}");
        }
    }

    #[test]
    fn a_reason_is_one_readable_line() {
        let output = process::Command::new("sh")
            .args([
                "-c",
                "printf '\\n\\033[1mcannot open\\ndisplay: :9\\n' >&2; exit 1",
            ])
            .output()
            .unwrap();
        let error = answer(&output).unwrap_err().to_string();
        let reason = "was ended: exit status: 1  [1mcannot open display: :9. Nothing was removed.";
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn at_most_thirteen_lines_are_shown() {
        let line = |line: usize| format!("line {line}");
        let texts =
            [0, 13, 14, 53].map(|lines| (1..=lines).map(line).collect::<Vec<_>>().join("\n"));
        assert_eq!(shortened(&texts[0]), texts[0]);
        assert_eq!(shortened(&texts[1]), texts[1]);
        assert!(shortened(&texts[2]).ends_with("\nline 13\nand 1 more"));
        assert!(shortened(&texts[3]).ends_with("\nline 13\nand 40 more"));
        assert_eq!(shortened(&texts[3]).lines().count(), 14);
    }

    #[tokio::test]
    async fn dialogs_open_one_after_the_other_and_close_with_the_call() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (open, yes, id) = (file("open"), file("yes"), file("id"));
        fs::write(&open, format!("echo $$ >{id}; exec sleep 600")).unwrap();
        fs::write(&yes, "grep -q 'on run argv' && echo Remove").unwrap();
        let dialog = Arc::new(shell());
        let limits = Limits::short();
        let hour = Duration::from_secs(3600);

        let first = tokio::spawn({
            let (dialog, limits) = (Arc::clone(&dialog), limits.clone());
            async move { dialog.ask(&open, hour, &limits).await }
        });
        let pid = until(|| fs::read_to_string(&id).ok().filter(|id| id.ends_with('\n'))).await;
        let second = dialog.ask(&yes, hour, &limits).await;
        assert!(matches!(second, Err(Error::ScreenTaken)), "{second:?}");

        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let cmdline = format!("/proc/{}/cmdline", pid.trim());
        until(|| {
            fs::read(&cmdline)
                .unwrap_or_default()
                .is_empty()
                .then_some(())
        })
        .await;
        assert_eq!(
            dialog.ask(&yes, hour, &limits).await.unwrap(),
            Answer::Remove
        );
    }

    #[tokio::test]
    async fn a_dialog_without_an_answer_means_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let late = folder.path().join("late");
        fs::write(&late, "echo Remove; exec sleep 600").unwrap();
        let (late, limits) = (late.to_str().unwrap(), Limits::short());
        let answer = shell().ask(late, Duration::from_millis(300), &limits).await;
        assert_eq!(answer.unwrap(), Answer::NoAnswer);
        let gone = Dialog {
            program: folder.path().join("gone"),
            ..shell()
        };
        let error = gone.ask("", limits.call, &limits).await.unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    /// Waits until a condition holds.
    async fn until<T>(condition: impl Fn() -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = condition() {
                    break found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), found).await.unwrap()
    }
}
