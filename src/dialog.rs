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
        let zenity = programs.find(|program| program.is_absolute() && program.is_file());
        let (system, program) = match os {
            _ if get("CI").is_some() => return Err("CI is set"),
            _ if get("SSH_CONNECTION").is_some() && !is_forwarded => {
                return Err("SSH_CONNECTION is set, and DISPLAY names no host");
            }
            "linux" if !has_screen => return Err("neither WAYLAND_DISPLAY nor DISPLAY is set"),
            "linux" => (System::Zenity, zenity.ok_or("no zenity is in PATH")?),
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
                .env("ZENITY_ESC", ZENITY_ESC.to_string()),
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
