"""Sends the server the bodies, and lets Qovery send it the lists, that need the most memory.

Usage: memory.py <server>
"""

import asyncio
import json
import sys

from served import (
    MIB,
    ORDERS,
    TOKENS,
    Served,
    SlowQovery,
    Usage,
    exchange,
    is_page,
    list_over_mcp,
    request,
    written,
    written_list,
)
from work import expect

# The limits of the server: calls in flight, bytes and values of a body, bytes of an answer and of a list.
CALLS = 64
BODY, VALUES = 64 << 10, 2500
ANSWER, LIST = 2 * MIB, 4 * MIB
# All that exceeded its limit, so that one run shows everything.
exceeded = []


def report(case, *figures):
    """Prints figures, and notes each that is above its limit."""
    texts = [f"{value:.1f} {unit} {what}" for value, _, unit, what in figures]
    print(f"{case}: {', '.join(texts)}")
    exceeded.extend(
        f"{case}: {text}, and not at most {limit}"
        for text, (value, limit, *_) in zip(texts, figures)
        if value > limit
    )


def lists(url, calls):
    """Calls of two callers in turn, so that all get a place."""
    return [list_over_mcp(url, **TOKENS.headers[number % 2]) for number in range(calls)]


async def warm_up(served, calls):
    """Lets it allocate what any load needs, before its memory is measured."""
    for status, _, body in await asyncio.gather(*lists(served.mcp, calls)):
        expect(is_page(status, body), f"{status}: {body[:300]}")
    return Usage(served.process)


async def refused(command):
    """Bodies that are too large, or have too many values, are refused before they are parsed."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    times = 20
    for size in [MIB, BODY]:
        with Served(command, "--sandbox", **TOKENS.environment) as served:
            usage = await warm_up(served, 1)
            item = b'{"":0}'
            body = b"[" + (item + b",") * ((size - 8) // 7) + item + b"]"
            post = written(served.mcp, "POST", headers | TOKENS.headers[0], body)
            before, processor = usage.begin(), usage.processor()
            for _ in range(times):
                status, _, answer = await exchange(served.mcp, post)
                expect(status == 413, f"{size} bytes: {status} {answer[:300]}")
            report(
                f"{times} times {size >> 10} KiB of objects, refused",
                ((usage.most_memory() - before) / MIB, 8, "MiB", "more"),
                ((usage.processor() - processor) / times, 10, "ms", "of the processor each"),
                (await usage.kept(before) / MIB, 8, "MiB", "kept"),
            )


def values(body):
    """How the server counts the values of a body."""
    return 1 + sum(map(body.count, (b"{", b"[", b",", b":")))


def largest(url, item, caller):
    """A call with as many of these items in its metadata, and then as many bytes, as the limits allow."""

    def sent(items, padding):
        return written_list(url, {"gate/content": [item] * items, "gate/padding": "x" * padding}, **caller)

    def body(message):
        return message.partition(b"\r\n\r\n")[2]

    one, two = (values(body(sent(items, 0))) for items in (1, 2))
    items = 1 + (VALUES - one) // (two - one)
    padding = BODY - len(body(sent(items, 0)))
    message = sent(items, padding)
    expect(len(body(message)) == BODY and values(body(message)) <= VALUES, "the body is not the largest")
    return message


def nested(depth):
    return {"": nested(depth - 1)} if depth else {}


CONTENTS = {"one long string": "", "many objects": {"": 0}, "many empty objects": {}, "objects in objects": nested(100)}


async def bodies(command):
    """As many calls as there may be, each with one of the worst bodies that are accepted."""
    for what, item in CONTENTS.items():
        qovery = SlowQovery(seconds=1)
        with Served(command, **TOKENS.environment, **await qovery.start()) as served:
            usage = await warm_up(served, CALLS)
            calls = [largest(served.mcp, item, caller) for caller in TOKENS.headers]
            before = usage.begin()
            async with asyncio.timeout(60):
                answers = await asyncio.gather(*(exchange(served.mcp, calls[n % 2]) for n in range(CALLS)))
            most, kept = usage.most_memory(), await usage.kept(before)
        for status, _, body in answers:
            expect(is_page(status, body), f"{what}: {status} {body[:300]}")
        report(f"{CALLS} calls at once with {what}", (most / MIB, 256, "MiB", "in all"))
        # An allocator keeps pages of which a part is in use.
        print(f"    {kept / MIB:.1f} MiB kept")


class LargeQovery(SlowQovery):
    """An upstream with two pages of at most this many bytes. The second one is not full, so it is the last."""

    def __init__(self, page_bytes):
        super().__init__(seconds=1)
        self.first = page(range(20), page_bytes)
        self.second = page(range(20, 39), page_bytes)

    def body(self, head):
        if b"/backup" not in head:
            return json.dumps({"id": ORDERS, "name": "orders"}).encode()
        return self.second if b"startId" in head else self.first


def page(numbers, size):
    row = {"created_at": "2026-11-01T01:00:00Z", "name": "n", "status": {"state": "READY"}}
    # The text of each row fills what 200 bytes of JSON leave.
    text = "x" * (size // len(numbers) - 200)
    rows = [row | {"id": f"bac00000-0000-4000-8000-{number:012}", "message": text} for number in numbers]
    return json.dumps({"results": rows, "page": 1, "page_size": 20}).encode()


async def answers(command):
    """As many calls as there may be, each with the largest list that is accepted; and larger ones are refused."""
    for what, page_bytes, accepted in [
        (f"{LIST // MIB} MiB", LIST // 2, True),
        ("too large a page", ANSWER + 8000, False),
    ]:
        qovery = LargeQovery(page_bytes)
        with Served(command, **TOKENS.environment, **await qovery.start()) as served:
            # The name of the database is looked up once, and then remembered.
            await list_over_mcp(served.mcp, **TOKENS.headers[0])
            usage = Usage(served.process)
            async with asyncio.timeout(60):
                results = await asyncio.gather(*lists(served.mcp, CALLS))
            most = usage.most_memory()
            status, _, body = await request(
                f"{served.rest}/v1/database/{ORDERS}/backup", headers=TOKENS.headers[0]
            )
        expect(status == (200 if accepted else 502), f"{what}, over REST: {status} {body[:300]}")
        for status, _, body in results:
            result = json.loads(body).get("result", {})
            complete = result.get("structuredContent", {}).get("complete")
            expect(complete if accepted else result.get("isError"), f"{what}: {status} {body[:300]}")
        # What each call may hold, and the program itself.
        limit = (CALLS * (ANSWER + LIST)) // MIB + 32
        report(f"{CALLS} lists at once of {what}", (most / MIB, limit, "MiB", "in all"))


async def main(command):
    await refused(command)
    await bodies(command)
    await answers(command)
    expect(not exceeded, "; ".join(exceeded))


asyncio.run(main(sys.argv[1]))
