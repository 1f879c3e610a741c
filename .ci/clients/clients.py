"""Works with the sandbox through real clients, in each way to begin that they have: over stdio, over HTTP, and
over HTTP with an access token. Each run has a server of its own.

Usage: clients.py <server> <node> <npm directory> <client>...
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import connect
from connect import MODES
from served import ORDERS, Served, list_over_mcp, request
from work import expect, work

server, node, npm, *names = sys.argv[1:]
TOKEN = "gate-access-token-0123456789abcdef"
TYPESCRIPT = Path(__file__).with_name("typescript.mjs")
# More processes at once only wait for each other, until a client's timeout is over.
slots = asyncio.Semaphore(4)


def in_python(client):
    async def run(where, mode, directory, token):
        async with client(where, mode, directory, token=token) as connected:
            await work(connected)
            return connected.protocol_version

    return run


def typescript(package):
    async def run(where, mode, directory, token):
        command = [node, TYPESCRIPT, npm, package, mode, json.dumps(where), *([token] if token else [])]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, cwd=directory)
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        expect(process.returncode == 0, f"exit code {process.returncode}\n{errors.decode()}")
        return json.loads(output)["version"]

    return run


CLIENTS = {
    "Python": (in_python(connect.python), MODES),
    "FastMCP": (in_python(connect.fastmcp), MODES),
    # The first version knows only the handshake.
    "TypeScript v1": (typescript("@modelcontextprotocol/sdk"), ["legacy"]),
    "TypeScript v2": (typescript("@modelcontextprotocol/client"), MODES),
}


async def session(name, mode, transport):
    """One client, with a server of its own. Returns the version that they speak."""
    client, _ = CLIENTS[name]
    token = TOKEN if transport == "HTTP with a token" else None
    async with slots, asyncio.timeout(60):
        # An empty directory has no .env file that the server would read.
        with tempfile.TemporaryDirectory() as directory:
            if transport == "stdio":
                version = await client([server, "--sandbox", "--confirm=never", "--log=warn"], mode, directory, None)
            else:
                environment = {"QOVERY_BACKUPS_ACCESS_TOKEN": f"gate:{token}"} if token else {}
                with Served(server, "--sandbox", "--confirm=never", **environment) as served:
                    version = await client(served.mcp, mode, directory, token)
    expect(version in MODES[mode], f"{name}, {mode}, over {transport}: it speaks {version}")
    return f"{mode}: {version}"


async def unauthorized():
    """Requests without a token, or with a wrong one, are refused on both ports."""
    with Served(server, "--sandbox", "--confirm=never", QOVERY_BACKUPS_ACCESS_TOKEN=f"gate:{TOKEN}") as served:
        rest = f"{served.rest}/v1/database/{ORDERS}/backup"
        for headers, expected in [
            ({}, 401),
            ({"Authorization": f"Bearer {TOKEN}x"}, 401),
            ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ]:
            answers = await list_over_mcp(served.mcp, **headers), await request(rest, headers=headers)
            for status, answered, _ in answers:
                expect(status == expected, f"{headers}: {status}")
                expect(status != 401 or answered["www-authenticate"].startswith("Bearer"), f"{answered}")
    print("a wrong token, and none: 401 on both ports")


async def main():
    async with asyncio.TaskGroup() as group:
        tasks = {
            (transport, name): [group.create_task(session(name, mode, transport)) for mode in CLIENTS[name][1]]
            for transport in ["stdio", "HTTP", "HTTP with a token"]
            for name in names
        }
    for (transport, name), sessions in tasks.items():
        print(f"{name} over {transport}: {'; '.join(task.result() for task in sessions)}")
    await unauthorized()


asyncio.run(main())
