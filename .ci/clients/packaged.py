"""What the checks of packages share."""

import asyncio
import subprocess

from mcp import Client
from mcp.client.stdio import StdioServerParameters

from work import TOOLS, expect

PROGRAM = "qovery-backups-mcp"
KEY = "qov_test"


def one(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def run(*command, code=0, **options):
    """What a command says, errors last. It must end with this code."""
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(command, timeout=120, **pipes, **options)
    said = done.stdout + done.stderr
    expect(done.returncode == code, f"{' '.join(map(str, command))}: exit code {done.returncode}\n{said}")
    return said


def expect_tools(command, *arguments, directory, environment=None):
    """A server on standard input and output has the three tools. Its directory has no .env file."""

    async def names():
        words = [str(argument) for argument in arguments]
        server = StdioServerParameters(command=str(command), args=words, cwd=directory, env=environment)
        async with asyncio.timeout(60), Client(server, read_timeout_seconds=30) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    tools = asyncio.run(names())
    expect(tools == [name for name, *_ in TOOLS], f"{command}: the tools are {tools}")
