"""What a host does with the sandbox, through whichever Python client it is given."""

import asyncio
import json
import time

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from served import ORDERS

UNKNOWN = "0de50000-0000-4000-8000-00000000ffff"
LIST, ADD, REMOVE = "list-database-backups", "add-backup-database", "remove-database-backup"
# In this order, and whether each only reads, destroys, and may be repeated.
TOOLS = [(LIST, True, False, True), (ADD, False, False, False), (REMOVE, False, True, True)]

# What the sandbox says after the structure, where somebody could take a change for real.
UNREAL = ["This is the sandbox: nothing in it is real."]
REMARKS = {LIST: [], ADD: UNREAL, REMOVE: UNREAL}

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
    text, *remarks = [block.text for block in result.content]
    expect(json.loads(text) == structure, f"{tool}: the text is not the structure")
    expect(remarks == REMARKS[tool], f"{tool}: after the structure it says {remarks}")
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


def hints(tool):
    a = tool.annotations
    return tool.name, a.read_only_hint, a.destructive_hint, a.idempotent_hint


async def work(client):
    """Lists, adds, removes and is refused. Gives the states that the new backup went through."""
    tools = [hints(tool) for tool in (await client.list_tools()).tools]
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
    text = await refused(client, LIST, databaseId="orders")
    expect("databaseId" in text, f"an id that is none: {text}")
    return states
