"""Records a session of Claude Code with the sandbox in a terminal, and draws its screens as README's picture. The
host, the server, its question and a person's keys are real. What the model says is scripted here.

Needs a network namespace of its own, in which the host reaches nothing else.

Usage: picture.py <server> <node> <directory of the hosts' packages> <new picture> [<picture that must ask the same>]
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from served import ORDERS
from work import ADD, LIST, REMOVE, expect

server, node, packages, picture, *before = (Path(path).absolute() for path in sys.argv[1:])

# As the host knows the server.
NAME = "qovery-backups"
# So high that nothing of a turn scrolls out, and not much higher.
COLUMNS, ROWS = 96, 30
KEPT = 10
ASKED = "Back up orders before I migrate, and keep the newest ten."
ASKED_MORE = "And the newest."
# What stands below the host's prompt.
PROMPT = "? for shortcuts"
# Where the question begins, and its last line.
QUESTION, ANSWERS = "requests your input", "Accept    Decline"


def script():
    """What the model says and calls, one answer after another. It is sent what the call gave."""
    listed = yield "I look at what orders has, and back it up.", LIST, {}
    new = yield "", ADD, {"name": "before-migration"}
    while new["condition"] == "in_progress":
        looked = yield "", LIST, {"backupId": new["id"]}
        (new,) = looked["backups"]
    good = [backup for backup in listed["backups"] if backup["condition"] == "finished"]
    old = [backup["id"] for backup in listed["backups"] if backup not in good[: KEPT - 1]]
    said = f"{new['name']} is {new['condition']}. I keep the newest {KEPT} good backups, and remove {len(old)}."
    removal = yield said, REMOVE, {"backupIds": old}
    gone = [backup["outcome"] for backup in removal["backups"]].count("removed")
    yield f"{gone} are removed, {removal['remaining']} remain.", None, {}
    refusal = yield "", REMOVE, {"backupId": new["id"]}
    yield " ".join(re.findall(r"[^.]+\.", refusal)[:2]), None, {}


def answer(messages):
    """The model's next answer: that of its script after what the calls gave so far."""
    played = script()
    said = next(played)
    for message, following in zip(messages, messages[1:]):
        if message["role"] == "assistant":
            said = played.send(given(following["content"]))
    return said


def given(content):
    """What a call gave, or None where the person said more."""
    results = [part for part in content if isinstance(part, dict) and part["type"] == "tool_result"]
    if not results:
        return None
    (result,) = results
    return result["content"] if result.get("is_error") else json.loads(result["content"])


def events(text, tool, arguments):
    """An answer of the model, as its API streams it."""
    # The host takes answers of one id for one.
    number = time.monotonic_ns()
    blocks = []
    if text:
        blocks.append(({"type": "text", "text": ""}, {"type": "text_delta", "text": text}))
    if tool:
        call = {"type": "tool_use", "id": f"toolu_{number}", "name": f"mcp__{NAME}__{tool}", "input": {}}
        arguments = json.dumps({"databaseId": ORDERS} | arguments)
        blocks.append((call, {"type": "input_json_delta", "partial_json": arguments}))
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": "scripted", "content": []}
    yield {"type": "message_start", "message": message | {"stop_reason": None, "stop_sequence": None, "usage": usage}}
    for index, (block, delta) in enumerate(blocks):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    end = {"stop_reason": "tool_use" if tool else "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": end, "usage": usage}
    yield {"type": "message_stop"}


class Model(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not any(tool["name"].endswith(REMOVE) for tool in request.get("tools", [])):
            # What the host asks besides, such as for a title.
            self.send_error(400)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in events(*answer(request["messages"])):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def model():
    """Serves the model on loopback, and gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


class Terminal:
    """A terminal in which one program runs. Leaving the block ends it."""

    def __init__(self, directory, command, environment):
        self.directory = directory
        self.environment = environment
        # The program is not to adapt to tmux, which only keeps the screen.
        self.command = shlex.join(["env", "-u", "TMUX", "TERM=xterm-256color", *command])

    def __enter__(self):
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        keep = [";", "set-option", "remain-on-exit", "on"]
        self.tmux("-f", "/dev/null", "new-session", "-d", *size, self.command, *keep)
        self.process = int(self.tmux("display-message", "-p", "#{pane_pid}"))
        return self

    def __exit__(self, *_):
        """Waits for the program, which writes into its home until then."""
        os.kill(self.process, signal.SIGTERM)
        self.until(lambda: self.tmux("display-message", "-p", "#{pane_dead}").strip() == "1", "does not end")
        self.tmux("kill-server")

    def tmux(self, *arguments):
        command = ["tmux", "-S", "tmux", *arguments]
        options = {"cwd": self.directory, "env": self.environment, "stdout": subprocess.PIPE, "text": True}
        return subprocess.run(command, check=True, **options).stdout

    def screen(self, *options):
        return self.tmux("capture-pane", "-p", *options)

    def until(self, condition, otherwise, seconds=40):
        deadline = time.monotonic() + seconds
        while not condition():
            expect(time.monotonic() < deadline, f"The terminal {otherwise}:\n{self.screen()}")
            time.sleep(0.1)

    def shows(self, *texts):
        """The screen with its colours, once it shows these one after another."""
        self.until(lambda: self.has(*texts), f"does not show {texts}")
        return self.screen("-e")

    def has(self, *texts):
        return re.search(".*".join(map(re.escape, texts)), self.screen(), re.DOTALL)

    def types(self, text):
        self.tmux("send-keys", "-l", text)
        self.shows(text)
        self.tmux("send-keys", "Enter")

    def presses(self, key, *texts):
        """Presses a key until it shows these: the host does not hear one that comes at once."""
        pressed = 0

        def shown():
            nonlocal pressed
            if self.has(*texts):
                return True
            if time.monotonic() > pressed + 3:
                self.tmux("send-keys", key)
                pressed = time.monotonic()
            return False

        self.until(shown, f"does not show {texts} after {key}")


def record():
    """The screen with the question, and the last one."""
    with tempfile.TemporaryDirectory() as home, model() as url:
        entry = {"command": str(server), "args": ["stdio", "--sandbox"]}
        settings = {
            "hasCompletedOnboarding": True,
            # The 16 colours that are the terminal's own, so that the picture can have others on a light page.
            "theme": "dark-ansi",
            "customApiKeyResponses": {"approved": ["none"], "rejected": []},
            "projects": {home: {"hasTrustDialogAccepted": True, "mcpServers": {NAME: entry}}},
        }
        Path(home, ".claude.json").write_text(json.dumps(settings))
        environment = {
            "HOME": home,
            "TMPDIR": home,
            "PATH": f"{node.parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "none",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            # So that the model is offered their tools without a search for them.
            "ENABLE_TOOL_SEARCH": "false",
        }
        claude = str(packages / "node_modules/.bin/claude")
        # The person has allowed the tools for good, so that the host asks nothing by itself.
        options = ["--model", "scripted", "--permission-mode", "default", "--allowedTools", f"mcp__{NAME}"]
        with Terminal(home, [claude, *options], environment) as terminal:
            terminal.shows("❯", PROMPT)
            # A session begins before its servers are connected.
            terminal.types("/mcp")
            terminal.shows(f"✔ {NAME}", "3 tools")
            terminal.presses("Escape", PROMPT)
            terminal.types(ASKED)
            question = terminal.shows(QUESTION, "This cannot be undone.", "for good: ☐", ANSWERS, "Esc to cancel")
            terminal.presses("Space", "for good: ☒")
            terminal.presses("Down", f"❯ {ANSWERS}")
            terminal.presses("Enter", f"are removed, {KEPT} remain.", "done")
            terminal.types(ASKED_MORE)
            return question, terminal.shows(ASKED_MORE, "is protected: ", "Nothing was removed.", "done")


# How a cell looks: the codes of its colours, and of how it is written.
Look = namedtuple("Look", ["text", "ground", "style"])
PLAIN = Look("39", "49", frozenset())


def rows(screen):
    """The rows of a screen, each as runs of one look: the column, the text, the look."""
    look = PLAIN
    for line in screen.splitlines():
        column, runs = 0, []
        for part in re.split(r"(\x1b\[[\d;]*m)", line):
            if part.startswith("\x1b"):
                look = changed(look, part[2:-1].split(";"))
            elif part:
                runs.append((column, part, look))
                column += len(part)
        yield runs


def changed(look, codes):
    for code in codes:
        if code in ["", "0"]:
            look = PLAIN
        elif re.fullmatch(r"(3|9)\d", code):
            look = look._replace(text=code)
        elif re.fullmatch(r"(4|10)\d", code):
            look = look._replace(ground=code)
        else:
            look = look._replace(style=look.style | {code})
    return look


def cut(screen, first, last):
    """The rows from the one with the first text to the next one with the last."""
    cut = []
    for runs in rows(screen):
        text = plain(runs)
        if cut or first in text:
            cut.append(runs)
        if cut and last in text:
            return cut
    raise AssertionError(f"No rows from {first} to {last}:\n{screen}")


def plain(runs):
    return "".join(text for _, text, _ in runs)


# In pixels.
SIZE, WIDTH, HEIGHT = 14, 8.5, 19
MARGIN, BAR = 16, 44
# By the code of a terminal: on a dark page, and on a light one.
COLOURS = {
    "37": ("#b1bac4", "#454c54"),
    "39": ("#e6edf3", "#1f2328"),
    "49": ("#0d1117", "#ffffff"),
    "91": ("#ff7b72", "#cf222e"),
    "92": ("#56d364", "#1a7f37"),
    "93": ("#e3b341", "#8a5a00"),
    "94": ("#79c0ff", "#0969da"),
    "97": ("#ffffff", "#000000"),
    "100": ("#2a313c", "#e4e8ed"),
}
FRAME = ("#3d444d", "#d0d7de")
STYLES = {"1": "font-weight:bold", "2": "fill-opacity:.85", "3": "font-style:italic"}
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"


def draw(title, panels):
    """The picture: a panel below another, each of rows."""
    body, top = [], 0
    width = COLUMNS * WIDTH + 2 * MARGIN
    for panel in panels:
        bar = BAR if top == 0 else MARGIN
        height = bar + len(panel) * HEIGHT + MARGIN
        frame = f'<rect class="c49 frame" x=".5" y="{top + 0.5}" width="{width - 1}" height="{height - 1}" rx="8"/>'
        body.append(frame)
        if top == 0:
            body.append(f'<text class="c37" x="{width / 2}" y="{BAR - 19}" text-anchor="middle">{escape(title)}</text>')
        for number, runs in enumerate(panel):
            if plain(runs).strip():
                body += drawn(runs, top + bar + number * HEIGHT)
        top += height + 10
    style = [f"text{{font:{SIZE}px {FONTS}}}", *colours(0), *(f".s{code}{{{rule}}}" for code, rule in STYLES.items())]
    style.append(f"@media(prefers-color-scheme:light){{{''.join(colours(1))}}}")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {top - 10:g}">'
    return "\n".join([head, "<style>", *style, "</style>", *body, "</svg>", ""])


def colours(page):
    """The rules of a dark page, or of a light one."""
    yield f".frame{{stroke:{FRAME[page]}}}"
    for code, pair in COLOURS.items():
        yield f".c{code}{{fill:{pair[page]}}}"


def drawn(runs, top):
    """A row, as a group of texts on their grounds. Each text has the width of its cells, whatever the font."""
    yield "<g>"
    for column, text, look in runs:
        expect(not any(unicodedata.east_asian_width(c) in "WF" for c in text), f"{text} has characters of two cells")
        known = look.text in COLOURS and look.ground in COLOURS and look.style <= STYLES.keys()
        expect(known or text.isspace(), f"{text} looks like {look}, which the picture cannot show")
        if look.ground != PLAIN.ground:
            place = f'x="{MARGIN + column * WIDTH:g}" y="{top}" width="{len(text) * WIDTH:g}" height="{HEIGHT}"'
            yield f'<rect class="c{look.ground}" {place}/>'
        # Where a program aligns by spaces, these are no part of a text.
        for word in re.finditer(r"\S+( \S+)*", text):
            classes = " ".join([f"c{look.text}", *(f"s{code}" for code in sorted(look.style))])
            place = f'x="{MARGIN + (column + word.start()) * WIDTH:g}" y="{top + SIZE}"'
            length = f'textLength="{len(word[0]) * WIDTH:g}" lengthAdjust="spacingAndGlyphs"'
            yield f'<text class="{classes}" {place} {length}>{escape(word[0])}</text>'
    yield "</g>"


def asks(svg):
    """The question in a picture, line by line. Its dates are of the day of the record."""
    groups = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}g")
    lines = [" ".join("".join(group.itertext()).split()) for group in groups]
    (begin,) = (number for number, line in enumerate(lines) if QUESTION in line)
    end = lines.index(ANSWERS.replace("    ", " "), begin)
    return [re.sub(r"\d{4}-\d\d-\d\d", "DATE", line) for line in lines[begin : end + 1] if line]


def main():
    question, end = record()
    version = json.loads((packages / "node_modules/@anthropic-ai/claude-code/package.json").read_text())["version"]
    title = f"Claude Code {version} with the sandbox. What the model says is scripted."
    svg = draw(title, [cut(question, ASKED, "Esc to cancel"), cut(end, "are removed, ", "Nothing was removed.")])
    picture.write_text(svg)
    asked = asks(svg)
    print("\n".join(asked))
    for other in before:
        shown = asks(other.read_text())
        expect(shown == asked, f"{other.name} shows another question, so put {picture} in its place:\n{shown}")


main()
