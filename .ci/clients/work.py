"""What a host does with the sandbox, through a Python client."""

import json
import time

from served import ORDERS

UNKNOWN = "0de50000-0000-4000-8000-00000000ffff"
LIST, ADD, REMOVE = "list-database-backups", "add-backup-database", "remove-database-backup"
# In this order, and whether each only reads, destroys, and may be repeated.
TOOLS = [(LIST, True, False, True), (ADD, False, False, False), (REMOVE, False, True, True)]

# The sandbox says so in each list.
UNREAL = "This is the sandbox: nothing in it is real."


def expect(condition, otherwise):
    if not condition:
        raise AssertionError(otherwise)


async def call(client, tool, **arguments):
    """The structure that a tool gives. The client itself checks it against the tool's schema."""
    result = await client.call_tool(tool, arguments)
    expect(not result.is_error, f"{tool}: {result.content}")
    structure = result.structured_content
    (content,) = result.content
    expect(json.loads(content.text) == structure, f"{tool}: the text is not the structure")
    if tool == LIST:
        expect(structure["note"].endswith(UNREAL), f"{tool}: it says {structure['note']}")
    return structure


async def refused(client, tool, **arguments):
    """The text of a refusal that a model can read: a result, and not an error of the protocol."""
    result = await client.call_tool(tool, arguments)
    expect(result.is_error, f"{tool} was not refused: {result.content}")
    expect(result.structured_content is None, f"{tool}: an error has a structure")
    (content,) = result.content
    return content.text


async def listed(client):
    """All backups, the newest first."""
    listed = await call(client, LIST, databaseId=ORDERS)
    expect(listed["complete"], "the list is not whole")
    return listed["backups"]


async def ids(client):
    return [backup["id"] for backup in await listed(client)]


async def becomes_finished(client, backup):
    """Waits for the backup as the tools say, and gives the conditions in which it was seen."""
    seen = [backup["condition"]]
    deadline = time.monotonic() + 25
    while backup["condition"] == "in_progress":
        expect(time.monotonic() < deadline, f"the backup did not become finished: {seen}")
        (backup,) = (await call(client, LIST, databaseId=ORDERS, backupId=backup["id"]))["backups"]
        seen.append(backup["condition"])
    expect(backup["condition"] == "finished", f"it became {backup}")
    return seen


def hints(tool):
    a = tool.annotations
    return tool.name, a.read_only_hint, a.destructive_hint, a.idempotent_hint


async def work(client):
    """Lists, adds, removes and is refused. Gives the conditions that the new backup went through."""
    tools = [hints(tool) for tool in (await client.list_tools()).tools]
    expect(tools == TOOLS, f"the tools are {tools}")

    before = await ids(client)
    expect(len(set(before)) == len(before) == 27, f"listed: {before}")

    added = await call(client, ADD, databaseId=ORDERS, name="gate", message="Made by the gate.")
    expect(added["id"] not in before and added["name"] == "gate", f"what was added is {added}")
    seen = await becomes_finished(client, added)
    expect(len(seen) > 1, f"a new backup was finished at once: {seen}")
    expect(await ids(client) == [added["id"], *before], "the new backup is not the newest")

    text = await refused(client, REMOVE, databaseId=ORDERS, backupId=added["id"])
    expect("is protected" in text, f"the newest: {text}")
    expect(added["id"] in await ids(client), "the newest was removed")

    oldest = before[-2:]
    removal = await call(client, REMOVE, databaseId=ORDERS, backupIds=oldest)
    gone = [backup["id"] for backup in removal["backups"] if backup["outcome"] == "removed"]
    expect(gone == oldest and removal["remaining"] == 26, f"removed: {removal}")
    expect(await ids(client) == [added["id"], *before[:-2]], "other backups than the oldest are gone")

    text = await refused(client, LIST, databaseId=UNKNOWN)
    expect("404" in text, f"an unknown database: {text}")
    text = await refused(client, LIST, databaseId="orders")
    expect(ORDERS in text, f"a name: {text}")
    return seen
