"""Works with the sandbox as a host would, through the Python client and in both protocol eras.

Usage: stdio.py <server>
"""

import asyncio
import json
import sys
import tempfile
import time

from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

ORDERS = "0de50000-0000-4000-8000-000000000001"
UNKNOWN = "0de50000-0000-4000-8000-00000000ffff"
LIST, ADD, REMOVE = TOOLS = ["list-database-backups", "add-backup-database", "remove-database-backup"]

STATELESS = ["2026-07-28"]
# How the client begins, and which versions it may then speak. `auto` asks `server/discover` first,
# and would fall back to the handshake; a version sends its first request without either.
MODES = {"legacy": HANDSHAKE_PROTOCOL_VERSIONS, "auto": STATELESS, "2026-07-28": STATELESS}


def expect(condition, otherwise):
    if not condition:
        raise AssertionError(otherwise)


async def call(client, tool, **arguments):
    """The structure that a tool gives. The client itself checks it against the tool's schema."""
    result = await client.call_tool(tool, arguments)
    expect(not result.is_error, f"{tool}: {result.content}")
    structure = result.structured_content
    expect(json.loads(result.content[0].text) == structure, f"{tool}: the text is not the structure")
    return structure


async def refused(client, tool, **arguments):
    """The text of a refusal that a model can read: a result, and not an error of the protocol."""
    result = await client.call_tool(tool, arguments)
    expect(result.is_error, f"{tool} was not refused: {result.content}")
    expect(result.structured_content is None, f"{tool}: an error has a structure")
    (content,) = result.content
    return content.text


async def pages(client):
    """Every page of the backups, read as the tool's description says."""
    pages = [await call(client, LIST, databaseId=ORDERS)]
    while start := pages[-1]["next_start_id"]:
        expect(len(pages) < 10, "the pages do not end")
        pages.append(await call(client, LIST, databaseId=ORDERS, startId=start))
    return [page["results"] for page in pages]


async def ids(client):
    return [backup["id"] for page in await pages(client) for backup in page]


async def becomes_ready(client, backup):
    """Lists until the backup is ready, and gives the states that it went through."""
    states = [backup["status"]["state"]]
    deadline = time.monotonic() + 15
    while states[-1] != "READY":
        expect(time.monotonic() < deadline, f"the backup did not become ready: {states}")
        await asyncio.sleep(0.2)
        page = await call(client, LIST, databaseId=ORDERS)
        (state,) = [b["status"]["state"] for b in page["results"] if b["id"] == backup["id"]]
        if state != states[-1]:
            states.append(state)
    return states


async def work(client):
    tools = [tool.name for tool in (await client.list_tools()).tools]
    expect(tools == TOOLS, f"the tools are {tools}")

    sizes = [len(page) for page in await pages(client)]
    expect(sizes == [20, 7], f"the pages hold {sizes}")
    before = await ids(client)
    expect(len(set(before)) == 27, "a backup is on two pages")

    added = await call(client, ADD, databaseId=ORDERS, name="gate", message="Made by the gate.")
    expect(added["id"] not in before and added["name"] == "gate", f"what was added is {added}")
    states = await becomes_ready(client, added)
    expect(len(states) > 1, f"a new backup was ready at once: {states}")
    expect(await ids(client) == [added["id"], *before], "the new backup is not the newest")

    text = await refused(client, REMOVE, databaseId=ORDERS, backupId=added["id"])
    expect("is protected" in text, f"the newest: {text}")
    expect(added["id"] in await ids(client), "the newest was removed")

    oldest = before[-1]
    removal = await call(client, REMOVE, databaseId=ORDERS, backupId=oldest)
    expect(removal["backup"]["id"] == oldest and removal["remaining"] == 27, f"removed: {removal}")
    expect(await ids(client) == [added["id"], *before[:-1]], "other backups than the oldest are gone")

    text = await refused(client, LIST, databaseId=UNKNOWN)
    expect("404" in text, f"an unknown database: {text}")
    return states


async def host(command, mode, directory):
    faults = []

    async def heard(message):
        if isinstance(message, Exception):
            faults.append(message)

    # An empty directory has no .env file that the server would read.
    server = StdioServerParameters(command=command, args=["--sandbox"], cwd=directory)
    async with Client(server, mode=mode, read_timeout_seconds=10, message_handler=heard) as client:
        version = client.protocol_version
        expect(version in MODES[mode], f"the client speaks {version}")
        states = await work(client)
        info = client.server_info
        leaving = time.monotonic()
    left = time.monotonic() - leaving
    # After two seconds the client kills.
    expect(left < 2, f"the server did not leave by itself, but after {left:.1f} s")
    expect(not faults, f"standard output carried something else: {faults}")
    print(f"{mode}: {version}, {info.name if info else 'anonymous'}, {' → '.join(states)}, left in {left:.2f} s")


async def main(command):
    for mode in MODES:
        with tempfile.TemporaryDirectory() as directory:
            async with asyncio.timeout(50):
                await host(command, mode, directory)


asyncio.run(main(sys.argv[1]))
