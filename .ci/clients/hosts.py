"""Connects real hosts to the sandbox, over stdio and over HTTP with an access token: they must see its
three tools, offer them to a model, and call themselves what the documentation says. With a wrong token
they must not connect. Needs a network namespace of its own, in which a host reaches nothing else.

Usage: hosts.py <server> <node> <directory of the hosts' packages>
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from served import Served
from work import ADD, LIST, REMOVE, expect

server, node, packages = (Path(path).absolute() for path in sys.argv[1:])
TOKEN, WRONG = "gate-access-token-0123456789abcdef", "wrong-access-token-0123456789abcdef"
# A caller's own key, which Claude Code and Codex send beside the token.
KEY_HEADER, KEY = "X-Qovery-Api-Key", "qov_gate_0123456789abcdef"

# The names under which a host knows the server, and whether it is to connect. The last has a wrong token.
CONNECTED = {"stdio": True, "http": True, "stranger": False}
OFFERED = {(name, tool) for name in ["stdio", "http"] for tool in [LIST, ADD, REMOVE]}
# After which a host is killed, which gives it exit code -9.
SECONDS = 90
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class Host:
    """A host's program, with a home of its own and nothing of the gate's environment."""

    def __init__(self, command, directory, model):
        self.command = packages / "node_modules/.bin" / command
        self.directory = Path(directory)
        self.model = model
        self.environment = {
            "HOME": directory,
            "TMPDIR": directory,
            "PATH": f"{node.parent}:/usr/bin:/bin",
        }

    async def run(self, *arguments, code=0):
        """What it says, errors last. Its children end with it, at the latest with the namespace."""
        process = await asyncio.create_subprocess_exec(
            self.command,
            *arguments,
            cwd=self.directory,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        # So that what it said until then is not lost.
        late = asyncio.get_running_loop().call_later(SECONDS, os.killpg, process.pid, signal.SIGKILL)
        try:
            out, err = await process.communicate()
        finally:
            late.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        what = " ".join([self.command.name, *map(str, arguments)])
        self.said = ESCAPES.sub("", (out + err).decode())
        expect(process.returncode == code, f"{what}: exit code {process.returncode}\n{self.said}")
        return self.said

    async def lists(self):
        """Its list shows each server, and a tick where it has connected."""
        said = await self.run("mcp", "list")
        shown = {}
        for line in said.splitlines():
            if mark := re.search("[✓✔✗✘]", line):
                name = re.search("|".join(CONNECTED), line)
                shown[name[0]] = mark[0] in "✓✔"
        expect(shown == CONNECTED, f"{self.command.name} lists\n{said}")

    async def asks_model(self, *arguments):
        """A session that ends soon, since the model refuses whatever it is asked."""
        await self.run(*arguments, code=1)

    def write(self, path, content):
        file = self.directory / path
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content))


def first_json(text):
    return json.JSONDecoder().raw_decode(text)[0]


async def claude(host, stdio, remote):
    host.environment |= {
        "ANTHROPIC_BASE_URL": host.model,
        "ANTHROPIC_API_KEY": "none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # So that a session waits for its servers, and offers their tools without a search for them.
        "MCP_CONNECTION_NONBLOCKING": "false",
        "ENABLE_TOOL_SEARCH": "false",
    }
    await host.run("mcp", "add", "stdio", "--", *stdio)
    for name, (url, token) in remote.items():
        header = f"Authorization: Bearer {token}"
        headers = ["--header", header, "--header", f"{KEY_HEADER}: {KEY}"]
        await host.run("mcp", "add", "--transport", "http", name, url, *headers)
    await host.lists()
    await host.asks_model("-p", "Hello.")


async def gemini(host, stdio, remote):
    host.environment |= {"GOOGLE_GEMINI_BASE_URL": host.model, "GEMINI_API_KEY": "none"}
    servers = {"stdio": {"command": stdio[0], "args": stdio[1:]}}
    for name, (url, token) in remote.items():
        servers[name] = {"type": "http", "url": url, "headers": {"Authorization": f"Bearer {token}"}}
    settings = {
        # It connects to no server in an untrusted folder.
        "security": {"folderTrust": {"enabled": False}, "auth": {"selectedType": "gemini-api-key"}},
        "privacy": {"usageStatisticsEnabled": False},
        "mcpServers": servers,
    }
    host.write(".gemini/settings.json", settings)
    await host.lists()
    # Without approval, the model is offered no tool that needs it.
    await host.asks_model("--approval-mode", "yolo", "-m", "gemini-2.5-flash", "-p", "Hello.")


async def opencode(host, stdio, remote):
    host.environment |= {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"}
    servers = {"stdio": {"type": "local", "command": stdio}}
    for name, (url, token) in remote.items():
        headers = {"Authorization": f"Bearer {token}"}
        servers[name] = {"type": "remote", "url": url, "oauth": False, "headers": headers}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": host.model, "apiKey": "none"},
        "models": {"none": {}},
    }
    settings = {"model": "gate/none", "provider": {"gate": provider}, "mcp": servers}
    host.write(".config/opencode/opencode.json", settings)
    await host.lists()
    await host.asks_model("run", "Hello.")


async def codex(host, stdio, remote):
    """Its list only says what was written down: it connects when a session begins."""
    due = {"stdio": {"type": "stdio", "command": stdio[0], "args": stdio[1:]}}
    await host.run("mcp", "add", "stdio", "--", *stdio)
    for name, (url, token) in remote.items():
        variable = f"{name.upper()}_TOKEN"
        host.environment[variable] = token
        await host.run("mcp", "add", name, "--url", url, "--bearer-token-env-var", variable)
        due[name] = {"type": "streamable_http", "url": url, "bearer_token_env_var": variable}
    listed = first_json(await host.run("mcp", "list", "--json"))
    for name, fields in due.items():
        got = first_json(await host.run("mcp", "get", name, "--json"))["transport"]
        expect(fields.items() <= got.items(), f"Codex made {got} of {fields}")
        expect(got in [entry["transport"] for entry in listed], f"Codex lists {listed}")
    provider = f'model_providers.gate={{name="gate", base_url="{host.model}", wire_api="responses"}}'
    key = f'mcp_servers.http.http_headers={{"{KEY_HEADER}"="{KEY}"}}'
    options = ["--skip-git-repo-check", "-c", provider, "-c", "model_provider=gate", "-c", key]
    # A model that it does not know gets its tools in the plain way.
    await host.asks_model("exec", *options, "-m", "none", "Hello.")


# The package, its command, and what it announces: the revision, and how it can ask a person.
HOSTS = {
    "Claude Code": (claude, "@anthropic-ai/claude-code", "claude", "2026-07-28", ["form", "url"]),
    "Codex": (codex, "@openai/codex", "codex", "2025-06-18", ["form", "url"]),
    "Gemini CLI": (gemini, "@google/gemini-cli", "gemini", "2025-06-18", []),
    "OpenCode": (opencode, "opencode-ai", "opencode", "2025-11-25", []),
}


class Model:
    """Refuses every request, and knows which of the tools it was offered: in all, by each server's name."""

    def __init__(self):
        self.offered = set()

    async def start(self):
        self.listening = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        host, port = self.listening.sockets[0].getsockname()
        return f"http://{host}:{port}"

    async def answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
        request = json.loads(await reader.readexactly(int(length[1]))) if length else {}
        for name in named(request.get("tools", [])):
            self.offered |= {
                (server, tool)
                for server in CONNECTED
                for tool in [LIST, ADD, REMOVE]
                if server in name and name.replace("_", "-").endswith(tool)
            }
        body = b'{"error": {"message": "The model refuses."}}'
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()


def named(value, within=""):
    """The names of tools, wherever a host puts them. Codex' are within their server's."""
    if isinstance(value, dict):
        if isinstance(value.get("name"), str):
            within += "/" + value["name"]
            yield within
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from named(inner, within)


class Relay:
    """Passes bytes on between a host and the server, and keeps what the host sent, by connection."""

    def __init__(self, url):
        self.url = urlsplit(url)
        self.sent = []

    async def start(self):
        self.listening = await asyncio.start_server(self.connection, "127.0.0.1", 0)
        host, port = self.listening.sockets[0].getsockname()
        return self.url._replace(netloc=f"{host}:{port}").geturl()

    async def connection(self, reader, writer):
        kept = bytearray()
        self.sent.append(kept)
        from_server, to_server = await asyncio.open_connection(self.url.hostname, self.url.port)
        await asyncio.gather(pass_on(reader, to_server, kept), pass_on(from_server, writer, bytearray()))


async def pass_on(reader, writer, kept):
    try:
        while data := await reader.read(1 << 16):
            kept += data
            writer.write(data)
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


def announced(sent, version):
    """The revisions, and the ways to ask a person, in what a host of this version sent."""
    begun = set()
    for line in sent.split("\n"):
        if not line.startswith("{"):
            continue
        # Over HTTP, the next request follows on the same line.
        message = first_json(line)
        params = message.get("params", {})
        fields = ["protocolVersion", "clientInfo", "capabilities"]
        if message["method"] != "initialize":
            params = params.get("_meta", {})
            fields = [f"io.modelcontextprotocol/{field}" for field in [*fields[:2], "clientCapabilities"]]
        revision, info, capabilities = (params.get(field) for field in fields)
        # Where Gemini CLI only tests a connection, it calls itself something else.
        if info and info["version"] == version:
            begun.add((revision, tuple(capabilities.get("elicitation", {}))))
    return begun


async def connect(name, host, package, command, revision, ways):
    version = json.loads((packages / "node_modules" / package / "package.json").read_text())["version"]
    model = Model()
    token = {"QOVERY_BACKUPS_ACCESS_TOKEN": f"gate:{TOKEN}"}
    arguments = ["--sandbox", "--caller-keys"]
    with tempfile.TemporaryDirectory() as directory, Served(server, *arguments, **token) as served:
        relay = Relay(served.mcp)
        remote = {"http": (await relay.start(), TOKEN), "stranger": (served.mcp, WRONG)}
        sent = Path(directory, "sent")
        stdio = ["sh", "-c", 'tee -a "$0" | "$@"', str(sent), str(server), "stdio", "--sandbox"]
        program = Host(command, directory, await model.start())
        await host(program, stdio, remote)
        offered = sorted(model.offered)
        expect(model.offered == OFFERED, f"{name} offers the model {offered}, and says\n{program.said}")
        sent = {"stdio": sent.read_text(), "HTTP": "\n".join(kept.decode() for kept in relay.sent)}
    refused = [line for line in served.log if '"unauthenticated"' in line]
    expect(refused, f"{name} did not try the wrong token")
    if host in (claude, codex):
        expect(f"{KEY_HEADER}: {KEY}".lower() in sent["HTTP"].lower(), f"{name} sent no key over HTTP")
    for transport, text in sent.items():
        begun = announced(text, version)
        expect(begun == {(revision, tuple(ways))}, f"{name} {version} over {transport} announces {begun}")
    asks = f"elicitation ({', '.join(ways)})" if ways else "no elicitation"
    return f"{name} {version}: three tools; over {' and '.join(sent)} it announces {revision}, {asks}"


async def main():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(connect(name, *host)) for name, host in HOSTS.items()]
    for task in tasks:
        print(task.result())


asyncio.run(main())
