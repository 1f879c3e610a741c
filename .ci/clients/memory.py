"""Sends the server the bodies that become most in memory, and sees what it takes and what it keeps.

Usage: memory.py <server>
"""

import asyncio
import sys
from collections import Counter

from served import MIB, Served, SlowQovery, Usage, exchange, is_page, list_over_mcp, written, written_list

# As many calls as may be in flight at once, and as many bytes as a body may have.
CALLS = 512
LARGEST = 128 << 10
# What it missed, so that one run tells of all.
missed = []


def expect(condition, otherwise):
    if not condition:
        raise AssertionError(otherwise)


def tell(case, *figures):
    """Prints figures, and sees whether each is at most what it may be."""
    texts = [f"{value:.1f} {unit} {what}" for value, _, unit, what in figures]
    print(f"{case}: {', '.join(texts)}")
    missed.extend(
        f"{case}: {text}, and not at most {limit}"
        for text, (value, limit, *_) in zip(texts, figures)
        if value > limit
    )


async def warm(served, calls):
    """Makes it do what it does anyway, so many times at once, and gives what it takes then."""
    for status, _, body in await asyncio.gather(*(list_over_mcp(served.mcp) for _ in range(calls))):
        expect(is_page(status, body), f"{status}: {body[:300]}")
    return Usage(served.process)


async def refused(command):
    """Bodies of many small values are refused before they are read into a tree."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    times = 20
    for size in [MIB, LARGEST]:
        with Served(command, "--sandbox") as served:
            usage = await warm(served, 1)
            item = b'{"":0}'
            body = b"[" + (item + b",") * ((size - 8) // 7) + item + b"]"
            post = written(served.mcp, "POST", headers, body)
            before, processor = usage.begin(), usage.processor()
            for _ in range(times):
                status, _, answer = await exchange(served.mcp, post)
                expect(status == 413, f"{size} bytes: {status} {answer[:300]}")
            tell(
                f"{times} times {size >> 10} KiB of objects, refused",
                ((usage.most_memory() - before) / MIB, 8, "MiB", "more"),
                ((usage.processor() - processor) / times, 10, "ms", "of the processor each"),
                (await usage.kept(before) / MIB, 8, "MiB", "kept"),
            )


def nested(values, depth):
    """Objects in objects, that many values in all."""
    chain = {}
    for _ in range(depth - 1):
        chain = {"": chain}
    return [chain] * (values // (2 * depth + 1))


def largest(url, content):
    """A call that is let in, as it is sent: with this in its metadata, and then as long as may be."""

    def sent(padding):
        return written_list(url, {"gate/content": content, "gate/padding": "x" * padding})

    return sent(LARGEST - len(sent(0).partition(b"\r\n\r\n")[2]))


# Of the 4096 values that a body may have, the call's own take a few.
CONTENTS = {
    "one long string": [],
    "many objects": [{"": 0}] * 1330,
    "many objects in objects": nested(4000, depth=100),
}


async def in_flight(command):
    """As many calls as may be, each with the worst body that is let in."""
    for what, content in CONTENTS.items():
        qovery = SlowQovery(seconds=1)
        with Served(command, **await qovery.start()) as served:
            # As many as reach Qovery at once.
            usage = await warm(served, 64)
            call = largest(served.mcp, content)
            before = usage.begin()
            async with asyncio.timeout(60):
                answers = await asyncio.gather(*(exchange(served.mcp, call) for _ in range(CALLS)))
            most = usage.most_memory()
            kept = await usage.kept(before)
        outcomes = Counter("answered" if is_page(status, body) else status for status, _, body in answers)
        expect(outcomes.keys() <= {"answered", 503}, f"{what}: answers of {outcomes}")
        expect(outcomes["answered"] >= 64, f"{what}: only {outcomes['answered']} were let in")
        tell(
            f"{CALLS} calls at once with {what}, {outcomes['answered']} answered",
            (most / MIB, 256, "MiB", "in all"),
        )
        # An allocator keeps pages of which a part is in use.
        print(f"    {kept / MIB:.1f} MiB kept")


async def main(command):
    await refused(command)
    await in_flight(command)
    expect(not missed, "; ".join(missed))


asyncio.run(main(sys.argv[1]))
