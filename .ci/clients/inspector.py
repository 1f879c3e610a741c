"""Checks what the MCP Inspector's command line gets from the sandbox, in both protocol eras.

Usage: inspector.py <server> <node> <the Inspector's script>
"""

import json
import subprocess
import sys
import tempfile

server, node, inspector = sys.argv[1:]
ORDERS = "0de50000-0000-4000-8000-000000000001"
TOOLS = ["list-database-backups", "add-backup-database", "remove-database-backup"]


def expect(condition, otherwise):
    if not condition:
        sys.exit(f"inspector: {otherwise}")


def inspect(era, *arguments):
    command = [node, inspector, "--cli", "--protocol-era", era, "--format", "json", *arguments]
    # An empty directory has no .env file that the server would read.
    with tempfile.TemporaryDirectory() as empty:
        command += ["--cwd", empty, "--", server, "--sandbox"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=40).stdout
    return json.loads(output)["result"]


for era in ["legacy", "modern"]:
    # With --strict it fails where another client could not read a tool's schema.
    listed = inspect(era, "--method", "tools/list", "--strict")
    names = [tool["name"] for tool in listed["tools"]]
    expect(names == TOOLS, f"{era}: the tools are {names}")

    call = ["--method", "tools/call", "--tool-name", TOOLS[0], "--tool-arg", f"databaseId={ORDERS}"]
    result = inspect(era, *call)
    expect(not result.get("isError"), f"{era}: {result['content']}")
    backups = result["structuredContent"]["backups"]
    expect(len(backups) == 27, f"{era}: {len(backups)} backups")
    expect(
        json.loads(result["content"][0]["text"]) == result["structuredContent"],
        f"{era}: the text is not the structure",
    )
    # Only a result of the modern era carries who answered.
    expect(("_meta" in result) == (era == "modern"), f"{era}: {result.get('_meta')}")
    print(f"{era}: {', '.join(names)}; {len(backups)} backups")
