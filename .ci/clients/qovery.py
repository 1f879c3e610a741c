"""An upstream with one database's backups. It asks first whether a request is allowed, and answers 401 to
what is not, as Qovery does."""

import asyncio
import json
import re

ORGANIZATION = "0de50000-0000-4000-8000-000000000000"
BACKUPS = [f"bac00000-0000-4000-8000-{number:012}" for number in (1, 2, 3)]
ADDED = "bac00000-0000-4000-8000-000000000004"
NAMES = {"name": "orders", "project_name": "shop", "environment_name": "production"}


class Qovery:
    def __init__(self, key, allows):
        self.key, self.allows = key, allows
        # Method, path, and whether it was allowed.
        self.asked = []

    async def start(self):
        """Where it is."""
        self.listening = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        host, port = self.listening.sockets[0].getsockname()
        return f"http://{host}:{port}"

    async def answer(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"(?im)^content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                method, target, _ = head.split(" ", 2)
                path = target.partition("?")[0].removeprefix("/")
                known = re.search(rf"(?im)^authorization: Token {self.key}\r$", head)
                allowed = bool(known) and self.allows(method, path)
                self.asked.append((method, path, allowed))
                status, body = answer(method, path.split("/")) if allowed else ("401 Unauthorized", {})
                text = b"" if body is None else json.dumps(body).encode()
                writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n".encode())
                writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(text), text))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()


def answer(method, path):
    match method, path:
        case "GET", ["organization"]:
            return "200 OK", {"results": [{"id": ORGANIZATION, "name": "acme"}]}
        case "GET", ["organization", _, "services"]:
            database = {"id": "0de50000-0000-4000-8000-000000000001", "service_type": "DATABASE"}
            return "200 OK", {"results": [database | NAMES]}
        case "GET", ["database", database]:
            return "200 OK", {"id": database, "name": "orders"}
        case "GET", ["database", _, "backup"]:
            return "200 OK", {"page": 1, "page_size": 20, "results": [backup(id) for id in BACKUPS]}
        case "POST", ["database", _, "backup"]:
            return "201 Created", backup(ADDED)
        case "DELETE", ["database", _, "backup", _]:
            return "204 No Content", None
    return "404 Not Found", {}


def backup(id):
    date = f"2026-11-{int(id[-2:]):02}T01:00:00Z"
    return {"id": id, "created_at": date, "name": "nightly", "message": "", "status": {"state": "READY"}}
