"""Loads the server, and abuses it: slow requests, idle connections, and more calls than it has places for.

Usage: load.py <server>
"""

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

from served import MIB, ORDERS, TOKENS, Served, SlowQovery, Usage, is_page, list_over_mcp, request
from work import expect

BACKUPS = f"/v1/database/{ORDERS}/backup"
# The limits of the server: connections, calls in flight, and those of one caller; and seconds for a body, and for
# a header or an idle connection.
CONNECTIONS, CALLS, OF_ONE_CALLER = 512, 64, 32
BODY, HEADER = 10, 75


def list_over_rest(url, **headers):
    return request(url + BACKUPS, headers=headers)


def both_interfaces(served, **headers):
    """Calls of the two interfaces in turn."""
    while True:
        yield list_over_mcp(served.mcp, **headers)
        yield list_over_rest(served.rest, **headers)


async def succeeds(call):
    """Waits for the call. Returns its duration in seconds."""
    started = time.monotonic()
    async with asyncio.timeout(10):
        status, _, body = await call
    expect(is_page(status, body), f"{status}: {body[:300]}")
    return time.monotonic() - started


class Open(asyncio.Protocol):
    """A connection that sends these bytes and then, if it drips, one byte each second."""

    def __init__(self, sent, drips):
        self.sent, self.drips = sent, drips
        self.loop = asyncio.get_running_loop()
        self.closed = self.loop.create_future()

    def connection_made(self, transport):
        self.opened, self.transport = time.monotonic(), transport
        transport.write(self.sent)
        if self.drips:
            self.loop.call_later(1, self.drip)

    def drip(self):
        if not self.closed.done():
            self.transport.write(b"x")
            self.loop.call_later(1, self.drip)

    def connection_lost(self, error):
        self.closed.set_result(time.monotonic() - self.opened)


async def open_many(served, number, sent, drips=False):
    """This number of connections, to both ports in turn, which send the same."""
    loop = asyncio.get_running_loop()
    interfaces = [urlsplit(served.mcp), urlsplit(served.rest + BACKUPS)]

    def opening(index):
        to = interfaces[index % 2]
        first = sent.replace(b"PATH", to.path.encode())
        return loop.create_connection(lambda: Open(first, drips), to.hostname, to.port)

    opened = await asyncio.gather(*map(opening, range(number)))
    return [connection for _, connection in opened]


async def all_closed(connections, seconds):
    """Waits until all are closed. Returns after how many seconds the first and the last was."""
    _, pending = await asyncio.wait([connection.closed for connection in connections], timeout=seconds)
    expect(not pending, f"{len(pending)} of {len(connections)} connections are open after {seconds} s more")
    times = [connection.closed.result() for connection in connections]
    return min(times), max(times)


async def slow_requests(command):
    """Calls go on while 400 connections hold back the rest of a request, each until its timeout."""
    header = b"POST PATH HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Ty"
    body = header + b"pe: application/json\r\nContent-Length: 10000\r\n\r\n{"
    cases = {
        "silent": (HEADER, b"", False),
        "half a header": (HEADER, header, False),
        "a dripping header": (HEADER, header, True),
        "a dripping body": (BODY, body, True),
    }
    with Served(command, "--sandbox") as served:
        closings = {}
        for what, (seconds, sent, drips) in cases.items():
            connections = await open_many(served, 100, sent, drips)
            closings[what] = asyncio.create_task(all_closed(connections, seconds + 10))
        times = []
        for call in both_interfaces(served):
            times.append(await succeeds(call))
            await asyncio.sleep(0.05)
            if all(closing.done() for closing in closings.values()):
                break
        for what, (seconds, *_) in cases.items():
            first, last = await closings[what]
            expect(first > seconds - 1, f"{what}: a connection was closed after {first:.1f} s, not {seconds}")
            print(f"slow: 100 connections with {what}, closed after {first:.1f} to {last:.1f} s")
    print(f"slow: {len(times)} calls meanwhile, the slowest took {1000 * max(times):.0f} ms")


async def idle(command):
    """As many idle connections as there may be cost little. The next connection waits until one of them ends."""
    with Served(command, "--sandbox") as served:
        calls = both_interfaces(served)
        for _ in range(20):
            await succeeds(next(calls))
        usage = Usage(served.process)
        before = usage.memory()
        # Connections of the calls before may not have ended yet: one place is left for each call.
        connections = await open_many(served, CONNECTIONS - 1, b"")
        times = [await succeeds(next(calls)) for _ in range(20)]
        grown = usage.memory() - before
        connections += await open_many(served, 1, b"")
        waiting = asyncio.create_task(list_over_mcp(served.mcp))
        done, _ = await asyncio.wait([waiting], timeout=2)
        expect(not done, f"a connection beyond {CONNECTIONS} did not wait")
        for connection in connections[:2]:
            connection.transport.close()
        await succeeds(waiting)
        for connection in connections:
            connection.transport.close()
        middle, worst = (1000 * value for value in (statistics.median(times), max(times)))
        expect(worst < 100, f"a call took {worst:.0f} ms")
        expect(grown < 16 * MIB, f"the memory grew by {grown / MIB:.1f} MiB")
        kept = await usage.kept(before)
    print(
        f"idle: {len(connections)} connections; calls took {middle:.1f} ms, at worst {worst:.1f}; the next "
        f"connection waited; {grown / MIB:.1f} MiB more; {kept / MIB:.1f} MiB kept"
    )


async def outcome(call):
    async with asyncio.timeout(60):
        status, headers, body = await call
    if is_page(status, body):
        return "answered"
    expect(status == 503, f"{status} {body[:300]}")
    expect(headers["content-type"] == "application/problem+json", f"{headers}")
    expect(json.loads(body)["title"] == "Overloaded", f"{body[:300]}")
    return "refused"


async def at_once(served, qovery, callers, number):
    """Sends this number of calls at once. Returns how many reached Qovery at once, and a summary."""
    qovery.pages = qovery.most = 0
    started = time.monotonic()
    streams = [both_interfaces(served, **caller) for caller in callers]
    calls = itertools.islice(itertools.chain.from_iterable(zip(*streams)), number)
    results = await asyncio.gather(*map(outcome, calls), return_exceptions=True)
    seconds = time.monotonic() - started
    faults = [result for result in results if isinstance(result, Exception)]
    expect(not faults, f"{len(faults)} calls failed, as {faults[:5]!r}")
    outcomes = Counter(results)
    expect(qovery.pages == outcomes["answered"], f"Qovery made {qovery.pages} pages for {outcomes}")
    return qovery.most, f"{dict(outcomes)} in {seconds:.1f} s; at most {qovery.most} at once"


async def concurrent(command):
    """Calls beyond the limits are refused. What the allocator keeps of one load serves the next."""
    qovery = SlowQovery(seconds=1)
    with Served(command, **TOKENS.environment, **await qovery.start()) as served:
        usage = Usage(served.process)
        most, summary = await at_once(served, qovery, TOKENS.headers[:1], 400)
        print(f"concurrent: one caller: {summary}")
        expect(most == OF_ONE_CALLER, f"{most} calls of one caller reached Qovery at once")
        for _ in range(3):
            before = usage.memory()
            most, summary = await at_once(served, qovery, TOKENS.headers, 2000)
            kept = await usage.kept(before)
            print(f"concurrent: two callers: {summary}; {kept / MIB:.1f} MiB more kept")
            expect(most == CALLS, f"{most} calls reached Qovery at once")
    expect(kept <= 8 * MIB, f"the third load kept {kept / MIB:.1f} MiB more")


async def main(command):
    await slow_requests(command)
    await idle(command)
    await concurrent(command)


asyncio.run(main(sys.argv[1]))
