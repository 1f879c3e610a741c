"""Starts and stops the server's `http` command, measures its memory and time, and sends it requests without a
client library."""

import asyncio
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

ORDERS = "0de50000-0000-4000-8000-000000000001"
PROTOCOL = "2026-07-28"
MIB = 1 << 20
# Two callers, each with its quota: the server's environment, and what each sends.
TOKENS = SimpleNamespace(
    environment={"QOVERY_BACKUPS_ACCESS_TOKEN": "a:gate-access-token-a\nb:gate-access-token-b"},
    headers=[{"Authorization": f"Bearer gate-access-token-{name}"} for name in "ab"],
)


class Served:
    """A server that listens on loopback. Leaving the block sends SIGTERM, and checks that it exits with 0."""

    def __init__(self, command, *arguments, **environment):
        self.command = [command, "http", "--log-format", "json", *arguments]
        self.environment = os.environ | environment
        # So that a restart finds its old ports: at first the kernel chooses.
        self.mcp = self.rest = "http://127.0.0.1:0"
        # An empty directory has no .env file that the server would read.
        self.directory = tempfile.TemporaryDirectory()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, error, trace):
        if kind:
            self.process.kill()
        else:
            self.stop()
        self.directory.cleanup()

    def start(self):
        addresses = ["--mcp-addr", urlsplit(self.mcp).netloc, "--rest-addr", urlsplit(self.rest).netloc]
        self.process = subprocess.Popen(
            self.command + addresses,
            cwd=self.directory.name,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log, found = [], {}
        while len(found) < 2:
            line = self.process.stderr.readline()
            if not line:
                raise AssertionError(f"the server did not start:\n{''.join(self.log)}")
            self.log.append(line)
            if "listening on" in line:
                address = re.search(r"http://127\.0\.0\.1:\d+(/mcp)?", line)
                found["rest" if address[1] is None else "mcp"] = address[0]
        self.mcp, self.rest = found["mcp"], found["rest"]
        # A full pipe would lose lines, or block the server.
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def stop(self):
        self.process.terminate()
        try:
            code = self.process.wait(timeout=30)
        finally:
            self.process.kill()
        self.reader.join()
        if code != 0:
            raise AssertionError(f"the server exited with {code} after SIGTERM:\n{''.join(self.log[-20:])}")
        panics = [line for line in self.log if "panicked" in line]
        if panics:
            raise AssertionError(f"the server panicked:\n{''.join(panics)}")


class Usage:
    """Memory of a process in bytes, and its processor time in milliseconds (proc(5))."""

    def __init__(self, process):
        self.directory = Path(f"/proc/{process.pid}")

    def memory(self):
        return self._status("VmRSS")

    def most_memory(self):
        """The peak since `begin`."""
        return self._status("VmHWM")

    def begin(self):
        """Resets the peak. Returns the memory now."""
        self.directory.joinpath("clear_refs").write_text("5")
        return self.memory()

    def processor(self):
        """The time of all its threads together."""
        threads = self.directory.glob("task/*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6

    async def kept(self, before):
        """Growth since `before`, once it is small or ten seconds are over."""
        deadline = time.monotonic() + 10
        while (more := self.memory() - before) > 8 * MIB and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return more

    def _status(self, field):
        status = self.directory.joinpath("status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)[1]) << 10


async def request(url, method="GET", headers=None, body=b""):
    """The status, the headers and the body of an answer. Each request has a connection of its own."""
    return await exchange(url, written(url, method, headers, body))


async def list_over_mcp(url, **headers):
    """The answer to a call of the list, as `request` gives it."""
    return await exchange(url, written_list(url, **headers))


async def exchange(url, sent):
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(sent)
        return await read_answer(reader)
    finally:
        writer.close()


def written(url, method, headers, body):
    """A request as it is sent, after which the connection ends."""
    parts = urlsplit(url)
    headers = {"Host": parts.netloc, "Connection": "close"} | (headers or {})
    if body:
        headers["Content-Length"] = len(body)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {parts.path or '/'} HTTP/1.1\r\n{head}\r\n".encode() + body


def written_list(url, more_meta=None, **headers):
    """A call of the list over MCP, as it is sent."""
    return written_call(url, "list-database-backups", {"databaseId": ORDERS}, more_meta, **headers)


def written_call(url, tool, arguments, more_meta=None, **headers):
    """A call of a tool over MCP, as it is sent."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": PROTOCOL,
        "io.modelcontextprotocol/clientInfo": {"name": "gate", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    meta |= more_meta or {}
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": PROTOCOL,
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    } | headers
    return written(url, "POST", headers, json.dumps(message).encode())


async def read_answer(reader):
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    status = int(lines[0].split()[1])
    fields = (line.partition(":") for line in lines[1:-1])
    headers = {name.lower(): value.strip() for name, _, value in fields}
    # No Content: it has no length, either.
    length = 0 if status == 204 else int(headers["content-length"])
    return status, headers, await reader.readexactly(length)


def is_page(status, body):
    """Whether an answer, of either interface, is a page of backups."""
    if status != 200:
        return False
    answer = json.loads(body)
    return "results" in answer or "backups" in answer.get("result", {}).get("structuredContent", {})


class SlowQovery:
    """An upstream that answers each page after these seconds, and counts how many were requested at once."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.now = self.most = self.pages = 0

    async def start(self):
        """The environment of a server that is to use it."""
        self.listening = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        host, port = self.listening.sockets[0].getsockname()
        return {"QOVERY_API_URL": f"http://{host}:{port}", "QOVERY_API_KEY": "qov_test"}

    async def answer(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"/backup" in head:
                    self.now += 1
                    self.pages += 1
                    self.most = max(self.most, self.now)
                    await asyncio.sleep(self.seconds)
                    self.now -= 1
                body = self.body(head)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    def body(self, _head):
        return b'{"results":[],"page":1,"page_size":20}'
