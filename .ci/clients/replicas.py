"""Restarts two replicas behind nginx in turn, five times each, while calls go on. None may fail.

nginx sends a call to the other replica only if it provably did not reach the first one: a call may add
a backup, and must not be made twice. So each replica itself has to answer all that it took, and as the
upstream takes its time, there are always calls in flight at the signal.

Usage: replicas.py <server>
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from served import Served, SlowQovery, is_page, list_over_mcp, read_answer, request, written_list

PER_SECOND = 50
RESTARTS = 5
NAME = "backups.example"

NGINX = """
daemon off;
user root;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/errors;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    upstream replicas {{
        # Both are always tried: with only two, none is ever left out for having failed.
        server {replicas[0]} max_fails=0;
        server {replicas[1]} max_fails=0;
    }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://replicas;
            proxy_next_upstream error timeout http_503;
            proxy_set_header Host $host;
            add_header X-Replicas $upstream_addr always;
        }}
    }}
}}
"""


def expect(condition, otherwise):
    if not condition:
        raise AssertionError(otherwise)


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


async def until(what, condition):
    deadline = time.monotonic() + 15
    while not await condition():
        expect(time.monotonic() < deadline, f"{what} did not come")
        await asyncio.sleep(0.02)


class Calls:
    """Fifty calls a second, and who answered them."""

    def __init__(self, url):
        self.url = url
        self.answered = Counter()
        self.passed_on = 0
        self.failed = []
        self.running = set()

    async def one(self):
        try:
            async with asyncio.timeout(10):
                status, headers, body = await list_over_mcp(self.url, Host=NAME)
            expect(is_page(status, body), f"{status} {headers}: {body[:300]}")
            *others, replica = headers["x-replicas"].split(", ")
            self.answered[replica] += 1
            self.passed_on += len(others)
        except Exception as error:
            self.failed.append(f"{type(error).__name__}: {error}")

    async def go_on(self):
        due = time.monotonic()
        while True:
            task = asyncio.create_task(self.one())
            self.running.add(task)
            task.add_done_callback(self.running.discard)
            due += 1 / PER_SECOND
            await asyncio.sleep(due - time.monotonic())


async def restart(replica, calls):
    await asyncio.to_thread(replica.stop)
    replica.start()

    async def ready():
        return (await request(f"{replica.rest}/readyz"))[0] == 200

    await until("readiness", ready)
    address = urlsplit(replica.mcp).netloc
    before = calls.answered[address]

    async def works():
        return calls.answered[address] >= before + 10

    await until("ten answers of the restarted replica", works)


async def still_arriving(server):
    """A call of which the last byte comes after the signal is answered, like those in flight."""
    qovery = SlowQovery(seconds=1)
    with Served(server, **await qovery.start()) as replica:
        parts = urlsplit(replica.mcp)
        sent = written_list(replica.mcp)
        arriving = []
        for half in [0, 20, len(sent) - 20]:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(sent[:half])
            arriving.append((half, reader, writer))
        # It came last, so the server knows of the others too.
        in_flight = asyncio.create_task(list_over_mcp(replica.mcp))

        async def asked():
            return qovery.now == 1

        async def drains():
            return any("draining" in line for line in replica.log)

        await until("the call in flight", asked)
        replica.process.terminate()
        await until("the drain", drains)
        for half, _, writer in arriving:
            writer.write(sent[half:])
        answers = [await read_answer(reader) for _, reader, _ in arriving] + [await in_flight]
        for status, _, body in answers:
            expect(is_page(status, body), f"during the drain: {status} {body[:300]}")
        for _, _, writer in arriving:
            writer.close()
        # A second signal would not let it end in its own time.
        await asyncio.to_thread(replica.process.wait, 15)
    print(f"{len(answers)} calls in flight or arriving at the signal, all answered")


async def behind_nginx(server, directory):
    address = free_address()
    environment = await SlowQovery(seconds=0.2).start()
    hosts = ["--allowed-host", NAME, "--allowed-host", "127.0.0.1"]
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(Served(server, *hosts, **environment)) for _ in range(2)]
        addresses = [urlsplit(replica.mcp).netloc for replica in replicas]
        configuration = Path(directory, "nginx.conf")
        configuration.write_text(NGINX.format(directory=directory, address=address, replicas=addresses))
        errors = Path(directory, "errors")
        nginx = subprocess.Popen(["nginx", "-p", directory, "-e", errors, "-c", configuration])
        stack.callback(nginx.wait, timeout=10)
        stack.callback(nginx.terminate)

        calls = Calls(f"http://{address}/mcp")

        async def through():
            with contextlib.suppress(OSError):
                return (await list_over_mcp(calls.url, Host=NAME))[0] == 200

        await until("an answer through nginx", through)
        started = time.monotonic()
        going_on = asyncio.create_task(calls.go_on())
        for _ in range(RESTARTS):
            for replica in replicas:
                await restart(replica, calls)
        seconds = time.monotonic() - started
        going_on.cancel()
        await asyncio.gather(*calls.running)

        # A refused connection is what makes nginx try the other replica.
        faults = [line for line in errors.read_text().splitlines() if "Connection refused" not in line]
        examples = "\n".join(calls.failed[:10] + faults[:10])
        expect(not calls.failed, f"{len(calls.failed)} calls failed:\n{examples}")
        expect(set(calls.answered) == set(addresses), f"only these answered: {calls.answered}")
    shares = " and ".join(str(calls.answered[address]) for address in addresses)
    print(
        f"{2 * RESTARTS} restarts in {seconds:.1f} s; {shares} calls answered, "
        f"{calls.passed_on} of them passed on, none failed"
    )


asyncio.run(still_arriving(sys.argv[1]))
with tempfile.TemporaryDirectory() as directory:
    asyncio.run(behind_nginx(sys.argv[1], directory))
