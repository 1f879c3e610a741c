"""Removes backups through a client that cannot show a question, while a person at the screen clicks in the
system's own dialog: a real zenity on Xvfb, and xdotool in the person's place.

Usage: dialog.py <server> [<a folder for pictures of the dialogs>]
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from served import ORDERS
from work import LIST, REMOVE, expect

server, *pictures = sys.argv[1:]

TITLE = "Remove backups?"
# zenity's buttons are at the right edge: from there and from the lower edge to their middle, in pixels.
BUTTONS = {"Remove": (50, 25), "Keep": (150, 25)}
# Leading hyphens, markup, escapes, and three scripts.
NAMES = [
    "--text=Nothing to do",
    "-- & <b>bold</b> &amp;",
    "\\n\\0 %s $(id)",
    "数据库备份",
    "نسخة احتياطية",
    "резервная копия",
]
OPTIONS = [
    "--question",
    "--no-markup",
    "--switch",
    "--extra-button=Keep",
    "--extra-button=Remove",
    "--width=640",
    f"--title={TITLE}",
]


class Screen:
    """An X server. Leaving the block stops it."""

    def __enter__(self):
        reads, writes = os.pipe()
        command = ["Xvfb", "-displayfd", str(writes), "-screen", "0", "1100x800x24", "-nolisten", "tcp"]
        self.process = subprocess.Popen(command, pass_fds=[writes], stderr=subprocess.DEVNULL)
        os.close(writes)
        with open(reads) as number:
            self.display = f":{number.readline().strip()}"
        expect(self.display != ":", "Xvfb did not start")
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=10)

    def xdotool(self, *arguments):
        command = ["xdotool", *map(str, arguments)]
        environment = os.environ | {"DISPLAY": self.display}
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True).stdout

    def dialog(self):
        """The window of the only dialog, once it is drawn."""
        search = ("search", "--onlyvisible", "--name", f"^{TITLE[:-1]}")
        (window,) = until(lambda: self.xdotool(*search).split(), "no dialog opened")
        return until(lambda: self.size(window)["HEIGHT"] > 50 and window, "the dialog was not drawn")

    def size(self, window):
        lines = self.xdotool("getwindowgeometry", "--shell", window).split()
        return {"HEIGHT": 0} | {name: int(value) for name, value in (line.split("=") for line in lines)}

    def click(self, button):
        window = self.dialog()
        size = self.size(window)
        right, lower = BUTTONS[button]
        self.xdotool("mousemove", "--window", window, size["WIDTH"] - right, size["HEIGHT"] - lower)
        self.xdotool("click", 1)

    def press(self, key):
        # Without a window manager, only this gives a window the keyboard.
        self.xdotool("windowfocus", "--sync", self.dialog())
        self.xdotool("key", key)

    def picture(self, name):
        if pictures:
            file = str(Path(pictures[0], f"{name}.png"))
            environment = os.environ | {"DISPLAY": self.display}
            subprocess.run(["import", "-window", self.dialog(), file], env=environment, check=True)


class Host:
    """A host that starts the server over stdio and can show no question."""

    def __init__(self, screen, *arguments, **environment):
        # The runner of a nightly sets CI, and a person may look on over SSH.
        inherited = {name: os.environ[name] for name in ["HOME", "PATH"]}
        self.directory = tempfile.TemporaryDirectory()
        self.log = open(Path(self.directory.name, "log"), "w+")
        self.process = subprocess.Popen(
            [server, "stdio", *arguments],
            cwd=self.directory.name,
            env=inherited | {"DISPLAY": screen.display} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=lambda: [self.lines.put(line) for line in self.process.stdout])
        self.reader.start()
        self.sent, self.answers = 0, {}

    def __enter__(self):
        client = {"name": "dialog", "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
        self.answer(self.send("initialize", params))
        self.notify("notifications/initialized")
        return self

    def __exit__(self, kind, *_):
        self.process.stdin.close()
        try:
            code = self.process.wait(timeout=30)
        finally:
            self.process.kill()
            self.reader.join()
            self.log.seek(0)
            log = self.log.read()
            self.log.close()
            self.directory.cleanup()
            if kind:
                print(log, file=sys.stderr)
        expect(kind or code == 0 and "panicked" not in log, f"exit code {code}:\n{log}")

    def notify(self, method, params=None, **more):
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}} | more
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def send(self, method, params):
        self.sent += 1
        self.notify(method, params, id=self.sent)
        return self.sent

    def answer(self, id, seconds=30):
        return until(lambda: self.read().get(id), "no answer", seconds)["result"]

    def read(self):
        """The answers that have come, by the ids of their requests."""
        with contextlib.suppress(queue.Empty):
            while True:
                message = json.loads(self.lines.get_nowait())
                self.answers[message.get("id")] = message
        return self.answers

    def backups(self):
        """The ids of all backups, the newest first."""
        params = {"name": LIST, "arguments": {"databaseId": ORDERS}}
        return [b["id"] for b in self.answer(self.send("tools/call", params))["structuredContent"]["backups"]]

    def remove(self, *ids):
        """Begins a removal."""
        some = {"backupId": ids[0]} if len(ids) == 1 else {"backupIds": ids}
        return self.send("tools/call", {"name": REMOVE, "arguments": {"databaseId": ORDERS} | some})

    def dialogs(self):
        """The processes of the open dialogs: children of the server that have not ended."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, parent = stat.read_text().rpartition(")")[2].split()[:2]
                if int(parent) == self.process.pid and state not in "ZX":
                    found.append(stat.parent)
        return found


class Qovery(BaseHTTPRequestHandler):
    """An upstream with more backups than the sandbox, and with names that are to hide something."""

    backups = []

    @classmethod
    def start(cls, number):
        """The environment of a server that is to use it."""
        date = "2026-{:02}-{:02}T01:00:00Z"
        cls.backups = [
            {
                "id": f"bac00000-0000-4000-8000-{at:012}",
                "created_at": date.format(3 + at // 28, 1 + at % 28),
                "name": NAMES[at % len(NAMES)],
                "message": "",
                "status": {"state": "READY"},
            }
            for at in range(number)
        ]
        listening = ThreadingHTTPServer(("127.0.0.1", 0), cls)
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        return {"QOVERY_API_URL": f"http://127.0.0.1:{listening.server_port}", "QOVERY_API_KEY": "qov_test"}

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path.endswith("/backup"):
            ids = [None, *(backup["id"] for backup in self.backups)]
            (last,) = parse_qs(url.query).get("startId", [None])
            start = ids.index(last)
            self.reply(200, {"page": 1, "page_size": 20, "results": self.backups[start : start + 20]})
        else:
            self.reply(200, {"id": url.path.rpartition("/")[2], "name": NAMES[1]})

    def do_DELETE(self):
        self.backups[:] = [b for b in self.backups if not self.path.endswith(b["id"])]
        self.reply(204, None)

    def reply(self, status, answer):
        text = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def until(condition, otherwise, seconds=15):
    """What a condition returns, once it is true."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        expect(time.monotonic() < deadline, f"{otherwise} in {seconds} seconds")
        time.sleep(0.05)
    return result


def arguments(dialog):
    return dialog.joinpath("cmdline").read_text().split("\0")[:-1]


def removed(host, id, before, gone, seconds=30):
    """Checks that a removal was confirmed in the dialog, and removed these."""
    result = host.answer(id, seconds)
    expect(not result.get("isError"), f"refused: {result['content']}")
    structure = result["structuredContent"]
    expect((structure["outcome"], structure["consent"]) == ("removed", "accepted"), structure)
    expect(host.backups() == [backup for backup in before if backup not in gone], "not these are gone")


def kept(host, id, before, consent=None, says="", seconds=30):
    """Checks that nothing was removed: by a person's no, or with an error that says why and what to do."""
    result = host.answer(id, seconds)
    text = result["content"][0]["text"]
    came = None if result.get("isError") else result["structuredContent"]["consent"]
    expect(came == consent, f"{came} and not {consent}: {text}")
    expect("Nothing was removed" in text and says in text, f"it says: {text}")
    expect(host.backups() == before, "something was removed")
    until(lambda: not host.dialogs(), "the dialog was not gone")
    return text


def clicked(screen):
    """What a person can do in a dialog, and what follows."""
    failed = "could not be shown, or was ended"
    for name, act, consent, says in [
        ("Remove", lambda _: screen.click("Remove"), "accepted", ""),
        ("Keep", lambda _: screen.click("Keep"), "declined", ""),
        ("Return", lambda _: screen.press("Return"), "declined", ""),
        ("Escape", lambda _: screen.press("Escape"), "declined", ""),
        ("window destroyed", lambda _: screen.xdotool("windowclose", screen.dialog()), None, failed),
        ("X client killed", lambda _: screen.xdotool("windowkill", screen.dialog()), None, failed),
        ("zenity killed", lambda dialog: os.kill(int(dialog.name), 9), None, failed),
    ]:
        with Host(screen, "--sandbox") as host:
            before = host.backups()
            call = host.remove(before[-1])
            screen.dialog()
            (dialog,) = host.dialogs()
            act(dialog)
            if consent == "accepted":
                removed(host, call, before, before[-1:])
            else:
                kept(host, call, before, consent, says)
        print(f"{name}: {consent or 'an error, nothing removed'}")


def shows_all(screen):
    """The dialog of 50 backups, with names that are to hide something, has all facts and its buttons, and the
    child has none of the server's variables."""
    environment = Qovery.start(53)
    with Host(screen, **environment) as host:
        before = host.backups()
        gone = before[3:]
        call = host.remove(*gone)
        screen.dialog()
        (dialog,) = host.dialogs()
        *options, text = arguments(dialog)
        expect(options[1:] == OPTIONS, options)
        lines = text.removeprefix("--text=").split("\n")
        expect(len(lines) == 14 and lines[-1] == "and 40 more", f"{len(lines)} lines: {lines[-1]}")
        expect(lines[0].startswith("Remove 50 backups from 2026-03-01"), lines[0])
        expect(all(name in text for name in NAMES), text)
        inherited = dialog.joinpath("environ").read_text()
        expect("QOVERY_" not in inherited, "the child has the server's variables")
        expect(os.readlink(dialog / "fd/0") == os.devnull, "the child has a standard input")
        screen.picture("fifty")
        screen.click("Remove")
        removed(host, call, before, gone)
    print("50 backups: 13 lines and the rest counted")


def cancelled(screen):
    with Host(screen, "--sandbox") as host:
        before = host.backups()
        call = host.remove(before[-1])
        screen.dialog()
        host.notify("notifications/cancelled", {"requestId": call})
        until(lambda: not host.dialogs(), "the dialog of a cancelled call stayed open")
        expect(host.backups() == before, "something was removed")
        # The screen is free again.
        call = host.remove(before[-2])
        screen.click("Remove")
        removed(host, call, before, before[-2:-1])
    print("cancelled: the dialog is gone")


def ended(screen):
    """A host that goes while a dialog is open takes it with it."""
    with Host(screen, "--sandbox") as host:
        host.remove(host.backups()[-1])
        screen.dialog()
        (dialog,) = host.dialogs()
        host.process.stdin.close()
        host.process.wait(timeout=30)
        until(lambda: not dialog.exists(), "the dialog of a server that ended stayed open")
    print("host ended: the dialog is gone")


def two_at_once(screen):
    with Host(screen, "--sandbox") as host:
        before = host.backups()
        calls = [host.remove(backup) for backup in before[-2:]]
        for _ in calls:
            screen.dialog()
            expect(len(host.dialogs()) == 1, "two dialogs are open")
            (dialog,) = host.dialogs()
            screen.click("Remove")
            until(lambda: not dialog.exists(), "the dialog stayed open")
        removed(host, calls[0], before, before[-2:])
        removed(host, calls[1], before, before[-2:])
    print("two calls at once: one dialog after the other")


def unanswered(screen):
    """Without a click the dialog is closed after 50 s, and another call waits for 20 s at most."""
    with Host(screen, "--sandbox") as host:
        before, begin = host.backups(), time.monotonic()
        calls = [host.remove(backup) for backup in before[-2:]]
        screen.dialog()
        times = []
        for _ in calls:
            answered = set(host.answers)
            until(lambda: host.read() and set(host.answers) - answered, "a call was not answered", 60)
            times.append(time.monotonic() - begin)
        texts = [host.answer(call)["content"][0]["text"] for call in calls]
        expect(sum("question is on the screen" in text for text in texts) == 1, texts)
        expect(all("Nothing was removed" in text for text in texts), texts)
        expect(19 < times[0] < 30 and 49 < times[1] < 60, f"after {times} seconds")
        expect(host.backups() == before, "something was removed")
        expect(not host.dialogs(), "the dialog is open")
    print(f"no click: a second call is refused after {times[0]:.0f} s, the first ends after {times[1]:.0f} s")


def no_screen():
    """The screen is there when the server starts, and not when it is needed."""
    with Screen() as screen, Host(screen, "--sandbox") as host:
        before = host.backups()
        screen.stop()
        text = kept(host, host.remove(before[-1]), before, None, "cannot open display")
        expect("XAUTHORITY" in text and "elicitation" in text, f"no remedy: {text}")
    print(f"no display any more: {text}")


with Screen() as screen:
    clicked(screen)
    shows_all(screen)
    cancelled(screen)
    ended(screen)
    two_at_once(screen)
    unanswered(screen)
no_screen()
