"""Removes backups of the sandbox through version 1 of the Python client, with the answers of the cases, and prints
the result of each, a line of JSON, for asked.py to check.

Usage: asked_v1.py legacy <cases>
"""

import asyncio
import json
import sys
from datetime import timedelta

from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.types import ElicitResult

DATABASE = {"databaseId": "0de50000-0000-4000-8000-000000000001"}
TIMEOUT = timedelta(seconds=10)


async def listed(session):
    result = await session.call_tool("list-database-backups", DATABASE)
    return [{"id": b["id"], "name": b["name"]} for b in json.loads(result.content[0].text)["backups"]]


async def removal(session, backup):
    result = await session.call_tool("remove-database-backup", DATABASE | {"backupId": backup})
    text = result.content[0].text
    return {"came": "refused" if result.isError else json.loads(text)["outcome"], "text": text}


async def run(server, backup, answer):
    if isinstance(server, list):
        transport = stdio_client(StdioServerParameters(command=server[0], args=server[1:]))
    else:
        transport = streamablehttp_client(server)
    questions, faults = [], []

    async def elicit(_context, params):
        questions.append({"message": params.message, "schema": params.requestedSchema})
        return ElicitResult(**answer)

    async def on_message(message):
        if isinstance(message, Exception):
            faults.append(message)

    # Over HTTP there is a third: a function that returns the session's id.
    async with transport as (reading, writing, *_):
        callback = elicit if answer else None
        async with ClientSession(
            reading, writing, TIMEOUT, elicitation_callback=callback, message_handler=on_message
        ) as session:
            version = (await session.initialize()).protocolVersion
            # From here on it checks each result against the tool's schema.
            await session.list_tools()
            before = await listed(session)
            result = await removal(session, backup)
            after = await listed(session)
    if faults:
        sys.exit(f"the transport had errors: {faults}")
    seen = {"before": before, "after": after, "questions": questions}
    print(json.dumps({"version": version, **result, **seen}))


async def main():
    for case in json.loads(sys.argv[2]):
        await run(**case)


asyncio.run(main())
