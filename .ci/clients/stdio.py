"""Works with the sandbox as a host would, through the Python client and in both protocol eras.

Usage: stdio.py <server>
"""

import asyncio
import sys
import tempfile
import time

from mcp import Client
from mcp.client.stdio import StdioServerParameters

from work import MODES, expect, work


async def host(command, mode, directory):
    faults = []

    async def heard(message):
        if isinstance(message, Exception):
            faults.append(message)

    # An empty directory has no .env file that the server would read.
    server = StdioServerParameters(command=command, args=["--sandbox", "--log=warn"], cwd=directory)
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
