"""Works with the sandbox over HTTP through four clients, in each protocol era that they speak: the
Python client, FastMCP's, and both versions of the TypeScript client. Each has a server of its own.

Usage: over_http.py <server> <node> <npm directory>
"""

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx2
from fastmcp import Client as FastClient
from fastmcp.client.transports import StreamableHttpTransport
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from served import ORDERS, Served, list_over_mcp, request
from work import MODES, expect, work

server, node, npm = sys.argv[1:]
TOKEN = "gate-access-token-0123456789abcdef"
TYPESCRIPT = Path(__file__).with_name("typescript.mjs")


async def python(url, mode, token):
    sessions = set()

    async def heard(response):
        if session := response.headers.get("mcp-session-id"):
            sessions.add(session)

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx2.AsyncClient(headers=headers, timeout=30, event_hooks={"response": [heard]}) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, read_timeout_seconds=10) as client:
            await work(client)
            version = client.protocol_version
    expect(len(sessions) < 2, f"one client had the sessions {sessions}")
    return version, bool(sessions)


async def fastmcp(url, mode, token):
    transport = StreamableHttpTransport(url, auth=token)
    async with FastClient(transport, mode=mode, timeout=10) as client:

        async def list_tools():
            return SimpleNamespace(tools=await client.list_tools())

        await work(SimpleNamespace(list_tools=list_tools, call_tool=client.call_tool_mcp))
        return client.protocol_version, bool(transport.get_session_id())


def typescript(generation):
    async def run(url, mode, token):
        command = [node, TYPESCRIPT, npm, generation, mode, url, *([token] if token else [])]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        expect(process.returncode == 0, f"TypeScript {generation}, {mode}: exit code {process.returncode}")
        result = json.loads(output)
        return result["version"], bool(result["session"])

    return run


CLIENTS = {
    "Python": (python, MODES),
    "FastMCP": (fastmcp, MODES),
    # The first version knows only the handshake.
    "TypeScript v1": (typescript("v1"), ["legacy"]),
    "TypeScript v2": (typescript("v2"), MODES),
}


async def host(name, mode, client, arguments, token):
    environment = {"QOVERY_BACKUPS_ACCESS_TOKEN": f"gate:{token}"} if token else {}
    with Served(server, "--sandbox", *arguments, **environment) as served:
        version, session = await client(served.mcp, mode, token)
    expect(version in MODES[mode], f"{name}, {mode}: it speaks {version}")
    due = "--sessions" in arguments and version in HANDSHAKE_PROTOCOL_VERSIONS
    expect(session == due, f"{name}, {mode}, {arguments}: session {session}")
    return f"{mode}: {version}{', a session' if session else ''}"


async def all_clients(what, arguments=(), token=None):
    """Every client in every mode, all at once."""
    async with asyncio.timeout(80), asyncio.TaskGroup() as group:
        tasks = {
            name: [group.create_task(host(name, mode, client, arguments, token)) for mode in modes]
            for name, (client, modes) in CLIENTS.items()
        }
    print(what)
    for name, hosts in tasks.items():
        print(f"  {name}: {'; '.join(task.result() for task in hosts)}")


async def strangers():
    """Whoever brings no token, or another one, is refused on both ports."""
    with Served(server, "--sandbox", QOVERY_BACKUPS_ACCESS_TOKEN=f"gate:{TOKEN}") as served:
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
    await all_clients("without sessions")
    await all_clients("with --sessions", arguments=["--sessions"])
    await all_clients("with an access token", token=TOKEN)
    await strangers()


asyncio.run(main())
