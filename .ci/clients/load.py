"""Loads the server, and abuses it: half-open connections, idle ones, and more calls than Qovery takes.

Usage: load.py <server>
"""

import asyncio
import itertools
import json
import resource
import statistics
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

from served import MIB, ORDERS, Served, SlowQovery, Usage, is_page, list_over_mcp, request

BACKUPS = f"/v1/database/{ORDERS}/backup"


def expect(condition, otherwise):
    if not condition:
        raise AssertionError(otherwise)


async def list_over_rest(url):
    return await request(url + BACKUPS)


def both_interfaces(served):
    """Calls of the two interfaces in turn."""
    while True:
        yield list_over_mcp(served.mcp)
        yield list_over_rest(served.rest)


async def succeeds(call):
    """How long the call takes, in seconds."""
    started = time.monotonic()
    async with asyncio.timeout(10):
        status, _, body = await call
    expect(is_page(status, body), f"{status}: {body[:300]}")
    return time.monotonic() - started


class Open(asyncio.Protocol):
    """A connection that sends what it is given, and then nothing more."""

    def __init__(self, sent):
        self.sent = sent
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.opened = time.monotonic()
        transport.write(self.sent)

    def connection_lost(self, error):
        self.closed.set_result(time.monotonic() - self.opened)


async def open_many(served, number, *sent):
    """That many connections, to both ports, that send each of these in turn."""
    loop = asyncio.get_running_loop()
    interfaces = [urlsplit(served.mcp), urlsplit(served.rest + BACKUPS)]

    def opening(index):
        interface = interfaces[index % 2]
        first = sent[index // 2 % len(sent)].replace(b"PATH", interface.path.encode())
        return loop.create_connection(lambda: Open(first), interface.hostname, interface.port)

    connections = []
    # The kernel holds only so many until the server accepts them.
    for start in range(0, number, 200):
        opened = await asyncio.gather(*map(opening, range(start, start + 200)))
        connections += [connection for _, connection in opened]
    return connections


async def all_closed(connections, seconds):
    """After how many seconds the first and the last was closed."""
    _, pending = await asyncio.wait([connection.closed for connection in connections], timeout=seconds)
    expect(not pending, f"{len(pending)} of {len(connections)} connections are open after {seconds} s more")
    times = [connection.closed.result() for connection in connections]
    return min(times), max(times)


async def half_open(command):
    """Calls go on while a thousand connections hold back the rest of a request."""
    silent = b""
    header = b"POST PATH HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Ty"
    body = header + b"pe: application/json\r\nContent-Length: 100\r\n\r\n{"
    with Served(command, "--sandbox") as served:
        connections = await open_many(served, 1000, silent, header, body)
        closing = asyncio.create_task(all_closed(connections, 20))
        times = []
        for call in both_interfaces(served):
            times.append(await succeeds(call))
            if closing.done():
                break
        first, last = await closing
        expect(first > 5, f"a connection was given only {first:.1f} s")
    print(
        f"half-open: {len(connections)} connections, closed after {first:.1f} to {last:.1f} s; "
        f"{len(times)} calls meanwhile, the slowest took {1000 * max(times):.0f} ms"
    )


async def idle(command):
    """Ten thousand connections that do nothing cost neither a call's time nor much memory."""
    with Served(command, "--sandbox") as served:
        calls = both_interfaces(served)
        for _ in range(20):
            await succeeds(next(calls))
        usage = Usage(served.process)
        before = usage.memory()
        connections = await open_many(served, 10_000, b"")
        times = [await succeeds(next(calls)) for _ in range(20)]
        grown = usage.memory() - before
        still_open = sum(not connection.closed.done() for connection in connections)
        middle, worst = (1000 * value for value in (statistics.median(times), max(times)))
        expect(worst < 100, f"a call took {worst:.0f} ms")
        expect(grown < 64 * MIB, f"the memory grew by {grown / MIB:.1f} MiB")
        _, last = await all_closed(connections, 30)
        kept = await usage.kept(before)
    print(
        f"idle: {len(connections)} connections, {still_open} of them open at once; calls took {middle:.1f} ms, "
        f"at worst {worst:.1f}; {grown / MIB:.1f} MiB more; all closed after {last:.1f} s; "
        f"{kept / MIB:.1f} MiB kept"
    )


async def outcome(interface, call):
    async with asyncio.timeout(60):
        status, headers, body = await call
    if is_page(status, body):
        return interface, "answered"
    expect(status == 503, f"{interface}: {status} {body[:300]}")
    expect(headers["content-type"] == "application/problem+json", f"{interface}: {headers}")
    expect(json.loads(body)["title"] == "Overloaded", f"{interface}: {body[:300]}")
    return interface, "turned away"


async def at_once(served, qovery):
    """Of two thousand calls at once, Qovery gets 64 at a time, and each is answered."""
    qovery.pages = 0
    started = time.monotonic()
    calls = zip(itertools.cycle(["MCP", "REST"]), itertools.islice(both_interfaces(served), 2000))
    results = await asyncio.gather(*itertools.starmap(outcome, calls), return_exceptions=True)
    seconds = time.monotonic() - started
    faults = [result for result in results if isinstance(result, Exception)]
    expect(not faults, f"{len(faults)} calls failed, as {faults[:5]!r}")
    outcomes = Counter(results)
    answered = sum(number for (_, how), number in outcomes.items() if how == "answered")
    expect(qovery.most == 64, f"{qovery.most} calls reached Qovery at once")
    expect(qovery.pages == answered, f"Qovery made {qovery.pages} pages for {answered} calls")
    tally = ", ".join(f"{interface} {how} {number}" for (interface, how), number in sorted(outcomes.items()))
    return f"{tally}, in {seconds:.1f} s; at most {qovery.most} at once"


async def concurrent(command):
    """The allocator may keep some of what such a load took for the next one, which then adds nothing."""
    qovery = SlowQovery(seconds=1)
    with Served(command, **await qovery.start()) as served:
        usage = Usage(served.process)
        kept = []
        for _ in range(3):
            before = usage.memory()
            told = await at_once(served, qovery)
            kept.append(await usage.kept(before))
            print(f"concurrent: {told}; {kept[-1] / MIB:.1f} MiB more kept")
    expect(kept[-1] <= 8 * MIB, f"the third load kept {kept[-1] / MIB:.1f} MiB more")


async def main(command):
    await half_open(command)
    await idle(command)
    await concurrent(command)


# The server takes over what this process may open.
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
asyncio.run(main(sys.argv[1]))
