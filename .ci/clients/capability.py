"""Checks that the server's tools are those of the capability file: names, order and hints.

Usage: capability.py <server> <capability file>
"""

import asyncio
import sys
import tempfile

import yaml
from mcp import Client
from mcp.client.stdio import StdioServerParameters


def specified(path):
    with open(path, encoding="utf-8") as file:
        exposes = yaml.safe_load(file)["capability"]["exposes"]
    (adapter,) = [adapter for adapter in exposes if adapter["type"] == "mcp"]
    return [
        (tool["name"], {hint: tool["hints"][hint] for hint in ("readOnly", "destructive", "idempotent")})
        for tool in adapter["tools"]
    ]


async def served(command):
    # An empty directory has no .env file that the server would read.
    with tempfile.TemporaryDirectory() as directory:
        server = StdioServerParameters(command=command, args=["--sandbox"], cwd=directory)
        async with asyncio.timeout(30), Client(server, read_timeout_seconds=10) as client:
            tools = (await client.list_tools()).tools
    return [
        (
            tool.name,
            {
                "readOnly": tool.annotations.read_only_hint,
                "destructive": tool.annotations.destructive_hint,
                "idempotent": tool.annotations.idempotent_hint,
            },
        )
        for tool in tools
    ]


expected = specified(sys.argv[2])
actual = asyncio.run(served(sys.argv[1]))
if not expected or actual != expected:
    sys.exit(f"The capability file has\n  {expected}\nand the server\n  {actual}")
print(f"{len(expected)} tools, with their hints: {', '.join(name for name, _ in expected)}")
