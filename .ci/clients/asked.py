"""Removes backups of the sandbox through clients that are asked before it, or cannot be: in each protocol era that
they speak, over stdio and over HTTP. Without a cache these are the clients of the gate. With the cache of the
nightly they are FastMCP, version 1 of the TypeScript client, and releases of other languages and years.

Usage: asked.py <server> <node> <npm directory> [<cache>]
"""

import asyncio
import contextlib
import json
import sys
import tempfile
from pathlib import Path

from mcp import MCPError
from mcp_types import ElicitResult

import connect
import work
from connect import MODES
from served import ORDERS, Served
from work import REMOVE, expect

server, node, npm, *cache = sys.argv[1:]
TYPESCRIPT = Path(__file__).with_name("asked.mjs")
PYTHON = Path(__file__).with_name("asked_v1.py")

ERAS = ["legacy", "2026-07-28"]
YES = {"action": "accept", "content": {"remove": True}}
NO = {"action": "decline"}
# The setting --confirm, and the person's answer: None where the client declares no elicitation.
CASES = {
    "accepts": ("auto", YES),
    "does not tick the box": ("auto", {"action": "accept", "content": {"remove": False}}),
    "declines": ("auto", NO),
    "cancels": ("auto", {"action": "cancel"}),
    "cannot be asked": ("auto", None),
    "must be asked, and accepts": ("always", YES),
    "must be asked, and cannot": ("always", None),
    "need not be asked": ("never", NO),
}
# More programs at once only wait for each other, until a client's timeout is over.
slots = asyncio.Semaphore(3)

MISSING_CAPABILITY = -32021
FIELD = {"type": "boolean", "default": False}


async def removal(client, backup):
    """The outcome, the code of a protocol error, or a refusal; and its text."""
    try:
        result = await client.call_tool(REMOVE, {"databaseId": ORDERS, "backupId": backup})
    except MCPError as error:
        return error.error.code, error.error.message
    text = result.content[0].text
    if result.is_error:
        return "refused", text
    expect(json.loads(text) == result.structured_content, f"the text is not the structure: {text}")
    return result.structured_content["outcome"], text


async def listed(client):
    return [{"id": b["id"], "name": b["name"]} for b in await work.listed(client)]


def in_python(client):
    async def run(era, directory, cases):
        for case in cases:
            questions = []

            async def elicit(params):
                questions.append({"message": params.message, "schema": params.requested_schema})
                return ElicitResult(**case["answer"])

            answers = elicit if case["answer"] else None
            async with client(case["server"], era, directory, elicit=answers) as connected:
                before = await listed(connected)
                came, text = await removal(connected, case["backup"])
                yield {
                    "version": connected.protocol_version,
                    "came": came,
                    "text": text,
                    "before": before,
                    "after": await listed(connected),
                    "questions": questions,
                }

    return run


def program(*command):
    """A client that takes the cases, and prints the result of each, a line of JSON."""

    async def run(era, directory, cases):
        pipe = asyncio.subprocess.PIPE
        async with slots:
            process = await asyncio.create_subprocess_exec(
                *command, era, json.dumps(cases), stdout=pipe, stderr=pipe, cwd=directory
            )
            try:
                output, errors = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
        # The server's own lines are JSON, and its audit trail cannot be turned off.
        lines = errors.decode().splitlines()
        complaints = [line for line in lines if not line.startswith('{"timestamp"')]
        code = process.returncode
        expect(code == 0 and not complaints, "\n".join([f"{command}: exit code {code}", *complaints]))
        for line in output.splitlines():
            yield json.loads(line)

    return run


def typescript(package):
    return program(node, TYPESCRIPT, npm, package)


CLIENTS = {
    "Python": (in_python(connect.python), ERAS),
    "TypeScript v2": (typescript("@modelcontextprotocol/client"), ERAS),
}
# Four clients and eras, two transports, eight cases. Written down, so that none is skipped unnoticed.
COMBINATIONS = 64
# Released before elicitation was.
CANNOT_BE_ASKED = ["TypeScript 1.12.1", "mcp-go 0.31.0"]
if cache:
    (cache,) = map(Path, cache)
    # What Java logs below a warning is no complaint.
    java = ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{cache}/java:{cache}/java/*", "Asked"]
    # Most begin with the handshake.
    CLIENTS = {
        "FastMCP": (in_python(connect.fastmcp), ERAS),
        "TypeScript v1": (typescript("@modelcontextprotocol/sdk"), ["legacy"]),
        **{f"TypeScript {of}": (typescript(f"sdk-{of}"), ["legacy"]) for of in ["1.12.1", "1.18.2", "1.22.0", "1.26.0"]},
        **{
            f"Python {of}": (program(cache / f"python-{of}/bin/python", PYTHON), ["legacy"])
            for of in ["1.10.1", "1.15.0", "1.30.0"]
        },
        "go-sdk 0.8.0": (program(cache / "go-old/gosdk"), ["legacy"]),
        "go-sdk 1.8.0": (program(cache / "go-new/gosdk"), ["2026-07-28"]),
        "mcp-go 0.31.0": (program(cache / "go-old/mcpgo"), ["legacy"]),
        "mcp-go 1.2.1": (program(cache / "go-new/mcpgo"), ["2026-07-28"]),
        "Java 2.1.0": (program(*java), ["legacy"]),
    }
    CASES = {what: CASES[what] for what in ["accepts", "declines", "cannot be asked"]}
    # 13 clients and eras that can be asked, with three cases, and two that cannot, with one, over two transports.
    COMBINATIONS = 82


def due(era, transport, confirm, answer):
    """The expected number of questions, and the expected result."""
    # Over HTTP a question needs 2026-07-28: before it, a question is a request of the server, and needs a session.
    reachable = answer and (era != "legacy" or transport != "HTTP")
    if reachable and confirm != "never":
        return 1, "removed" if answer == YES else "not_removed"
    if confirm == "always":
        return 0, "refused" if era == "legacy" else MISSING_CAPABILITY
    return 0, "removed"


def judge(result, backup, questions, came):
    expect(result["came"] == came, f"{result['came']} and not {came}: {result['text']}")
    names = {b["id"]: b["name"] for b in result["before"]}
    expect(backup in names, "the backup was not there before")
    left = [b for b in result["before"] if came != "removed" or b["id"] != backup]
    expect(result["after"] == left, f"it left {result['after']}")
    if came != "removed":
        expect("Nothing was removed." in result["text"], f"it says {result['text']}")
    if came == "not_removed":
        # Only the host knows whether a person saw the question.
        expect("The host " in result["text"], f"it says {result['text']}")
    if came in ("refused", MISSING_CAPABILITY):
        expect("a person has to confirm" in result["text"], f"it says {result['text']}")
    expect(len(result["questions"]) == questions, f"it asked {result['questions']}")
    for question in result["questions"]:
        for part in [f'"{names[backup]}"', "This cannot be undone."]:
            expect(part in question["message"], f"{part} is not in {question['message']}")
        form = question["schema"]["properties"]
        expect(list(form) == ["remove"] and FIELD.items() <= form["remove"].items(), f"the form is {form}")


async def host(name, era, transport, client):
    """Runs the cases, each with a connection and a backup of its own."""
    running = []
    todo = {what: case for what, case in CASES.items() if name not in CANNOT_BE_ASKED or case[1] is None}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        servers = {}
        for confirm in {confirm for confirm, _ in todo.values()}:
            arguments = ["--sandbox", "--confirm", confirm]
            if transport == "stdio":
                servers[confirm] = [server, "--log=error", "--log-format=json", *arguments]
            else:
                served = stack.enter_context(Served(server, *arguments))
                servers[confirm] = served.mcp
                running.append(served)
        cases = [
            {"server": servers[confirm], "answer": answer, "backup": f"bac00000-0000-4000-8000-{number:012}"}
            for number, (confirm, answer) in enumerate(todo.values(), 1)
        ]
        results = [result async for result in client(era, directory, cases)]

    where = f"{name}, {era}, over {transport}"
    expect(len(results) == len(todo), f"{where}: {len(results)} results")
    for case, result, (what, (confirm, answer)) in zip(cases, results, todo.items()):
        try:
            expect(result["version"] in MODES[era], f"it speaks {result['version']}")
            judge(result, case["backup"], *due(era, transport, confirm, answer))
        except AssertionError as error:
            raise AssertionError(f"{where}: {what}: {error}") from None
    if running:
        # Since 2026-07-28, a question is the answer to a call, which is then repeated.
        asked = sum(len(result["questions"]) for result in results) if era != "legacy" else 0
        calls = sum('"input_required"' in line for served in running for line in served.log)
        expect(calls == asked, f"{where}: {calls} calls were answered with a question, and not {asked}")
    return results


async def main():
    combinations = 0
    for transport in ["stdio", "HTTP"]:
        async with asyncio.timeout(80), asyncio.TaskGroup() as group:
            tasks = {
                name: [group.create_task(host(name, era, transport, client)) for era in eras]
                for name, (client, eras) in CLIENTS.items()
            }
        print(f"over {transport}")
        for name, hosts in tasks.items():
            done = [task.result() for task in hosts]
            combinations += sum(map(len, done))
            each = (
                f"{results[0]['version']}: {sum(len(result['questions']) for result in results)} questions"
                for results in done
            )
            print(f"  {name}: {'; '.join(each)}")
    expect(combinations == COMBINATIONS, f"{combinations} combinations, and not {COMBINATIONS}")
    print(f"{combinations} combinations")


asyncio.run(main())
