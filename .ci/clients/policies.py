"""Evaluates the policies of deploy/policy, and works under them: behind an upstream that lets each decide
on every request, the program can do what the policy is for, and says what docs/policy-token.md quotes.

Usage: policies.py <server>
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from regopy import Interpreter

from qovery import BACKUPS, ORGANIZATION, Qovery
from served import ORDERS, Served, exchange, written_call

ROOT = Path(__file__).parents[2]
KEY = "sk-qov-01-gate"
SESSIONS = "0de50000-0000-4000-8000-000000000002"
# The policies do not name it.
OTHER = "0de50000-0000-4000-8000-000000000003"

LIST = f"database/{ORDERS}/backup"
# A request, and whether the policy for backups alone allows it, and the one that also reads names.
CASES = [
    ("GET", LIST, True, True),
    ("POST", LIST, True, True),
    ("DELETE", f"{LIST}/{BACKUPS[0]}", True, True),
    ("GET", f"database/{SESSIONS}/backup", True, True),
    ("GET", f"database/{ORDERS}", False, True),
    ("GET", "organization", False, True),
    ("GET", f"organization/{ORGANIZATION}/services", False, True),
    ("DELETE", f"database/{ORDERS}", False, False),
    ("PUT", f"database/{ORDERS}", False, False),
    ("GET", f"database/{ORDERS}/masterCredentials", False, False),
    ("GET", f"database/{OTHER}", False, False),
    ("GET", f"database/{OTHER}/backup", False, False),
    ("POST", f"database/{OTHER}/backup", False, False),
    ("DELETE", f"database/{OTHER}/backup/{BACKUPS[0]}", False, False),
    ("PUT", LIST, False, False),
    ("DELETE", LIST, False, False),
    ("DELETE", f"{LIST}/", False, False),
    ("DELETE", f"{LIST}/all", False, False),
    ("DELETE", f"{LIST}/{BACKUPS[0]}/more", False, False),
    ("GET", f"{LIST}/{BACKUPS[0]}", False, False),
    ("POST", f"{LIST}/{BACKUPS[0]}", False, False),
    ("GET", f"application/{ORDERS}/backup", False, False),
    ("POST", "organization", False, False),
    ("DELETE", f"organization/{ORGANIZATION}", False, False),
    ("GET", f"organization/{ORGANIZATION}/apiToken", False, False),
    ("POST", f"organization/{ORGANIZATION}/services", False, False),
    ("GET", f"organization/{OTHER}/services", False, False),
    ("GET", "", False, False),
]
# Each makes a policy too loose, and some case has to see it.
LOOSER = [
    ("default allow := false", "default allow := true"),
    ('in {"GET", "POST"}', 'in {"GET", "POST", "DELETE"}'),
    ('in {"GET", "POST"}', 'in {"GET", "POST", "PUT"}'),
    ('\tinput.request.method in {"GET", "POST"}\n', ""),
    ('\tinput.request.method == "DELETE"\n', ""),
    ("\tsome database in databases\n", "\tsome database in [input.request.path[2]]\n"),
    ("\tcount(input.request.path) == 5\n", ""),
    ("path) == 5", "path) >= 5"),
    ("path, 0, 4) ==", 'path, 0, 1) == ["api"] #'),
    ("\tregex.match", "\t# regex.match"),
    ('\tinput.request.method == "GET"\n', ""),
    ("\tsome organization in organizations\n", "\tsome organization in [input.request.path[2]]\n"),
    ('path == ["api", "database", database]', 'path[1] == "database"'),
]


def expect(condition, otherwise):
    if not condition:
        raise AssertionError(otherwise)


class Policy:
    """A policy as Qovery takes it, without a package, which it gets here."""

    def __init__(self, text):
        expect(not re.search(r"^\s*package\b", text, re.MULTILINE), "Qovery refuses a policy with a package")
        expect(len(text) <= 65_536, "Qovery refuses a policy of that length")
        self.rego = Interpreter()
        self.rego.add_module("policy", f"package policy\n{text}")

    def allows(self, method, path):
        request = {"method": method, "path": ["api", *path.split("/")], "body": None}
        self.rego.set_input({"request": request, "token": {"name": "gate"}})
        # An error is no JSON, and what is not defined has no binding.
        answer = json.loads(str(self.rego.query("allow := data.policy.allow")))
        return answer["bindings"]["allow"] is True

    def wrong(self, column):
        """The cases that it does not decide as they say."""
        return (case for case in CASES if self.allows(*case[:2]) is not case[column])


def evaluated(name, column):
    text = ROOT.joinpath("deploy/policy", name).read_text()
    policy = Policy(text)
    wrong = list(policy.wrong(column))
    expect(not wrong, f"{name} decides these wrongly: {wrong}")
    caught = set()
    for tight, loose in LOOSER:
        # Each place by itself, as the others might make up for it.
        for place in re.finditer(re.escape(tight), text):
            looser = text[: place.start()] + loose + text[place.end() :]
            expect(any(Policy(looser).wrong(column)), f"{name}: no case sees that {tight!r} became {loose!r}")
            caught.add((tight, loose, place.start()))
    print(f"{name}: {len(CASES)} cases right, and {len(caught)} looser policies caught")
    return policy, {change[:2] for change in caught}


class Worked:
    """The program under a policy: what it says, and what it asks for."""

    def __init__(self, server, policy):
        self.server, self.qovery, self.said = server, Qovery(KEY, policy.allows), []

    async def __aenter__(self):
        self.environment = {"QOVERY_API_URL": await self.qovery.start(), "QOVERY_API_KEY": KEY}
        self.served = await asyncio.to_thread(Served(self.server, **self.environment).__enter__)
        return self

    async def __aexit__(self, *error):
        await asyncio.to_thread(self.served.__exit__, *error)

    async def call(self, tool, **arguments):
        """What became of a call, and its text."""
        status, _, body = await exchange(self.served.mcp, written_call(self.served.mcp, tool, arguments))
        expect(status == 200, f"{status}: {body[:300]}")
        result = json.loads(body)["result"]
        text = result["content"][0]["text"]
        self.said.append(text)
        return result.get("isError", False), text, result.get("structuredContent", {})

    async def succeed(self, tool, **arguments):
        failed, text, content = await self.call(tool, **arguments)
        expect(not failed, f"{tool}: {text}")
        return content

    async def check(self, code, *arguments):
        with tempfile.TemporaryDirectory() as directory:
            command = [self.server, "check", *arguments]
            environment = os.environ | self.environment
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            process = await asyncio.create_subprocess_exec(*command, cwd=directory, env=environment, **pipes)
            text = (await asyncio.wait_for(process.communicate(), 30))[0].decode()
        expect(process.returncode == code, f"check {arguments} exited with {process.returncode}: {text}")
        self.said.append(text)


async def worked(server, policy, names):
    """Does all that the program does, on a database of the policy and on another one."""
    async with Worked(server, policy) as program:
        listed = await program.succeed("list-database-backups", databaseId=ORDERS)
        expect((listed["database"].get("name") == "orders") is names, listed["database"])
        await program.succeed("add-backup-database", databaseId=ORDERS, name="by hand")
        removed = await program.succeed("remove-database-backup", databaseId=ORDERS, backupId=BACKUPS[0])
        expect(removed["outcome"] == "removed", removed)
        denied, _, _ = await program.call("list-database-backups", databaseId=OTHER)
        expect(denied, "another database was listed")
        # A name is answered with ids, as an error: nothing was done yet.
        _, text, _ = await program.call("list-database-backups", databaseId="orders")
        expect((ORDERS in text) is names, text)
        await program.check(0, "--database", ORDERS)
        await program.check(1, "--database", OTHER)
        await program.check(0 if names else 1)
    denied = dict.fromkeys(f"{method} /{path}" for method, path, allowed in program.qovery.asked if not allowed)
    print(f"{len(program.qovery.asked)} requests, of which these were denied: {', '.join(denied)}")
    changes = [(method, path) for method, path, _ in program.qovery.asked if method != "GET"]
    expect(changes == [("POST", LIST), ("DELETE", f"{LIST}/{BACKUPS[0]}")], changes)
    return program.said


def squeezed(text):
    return " ".join(text.split())


def quoted(said):
    """Each paragraph of the quotes in the document was said."""
    page = ROOT.joinpath("docs/policy-token.md").read_text()
    quotes = [
        squeezed(paragraph)
        for block in re.findall(r"^ *```text\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
        for paragraph in block.split("\n\n")
    ]
    said = [squeezed(text) for text in said]
    for quote in quotes:
        expect(any(quote in text for text in said), f"docs/policy-token.md quotes what was not said: {quote}")
    expect(len(quotes) >= 4, f"docs/policy-token.md has {len(quotes)} quotes")
    print(f"docs/policy-token.md: {len(quotes)} quotes, each as it was said")


async def main(server):
    backups, _ = evaluated("backups.rego", 2)
    names, caught = evaluated("backups-and-names.rego", 3)
    expect(caught == set(LOOSER), f"not in the policy any more: {set(LOOSER) - caught}")
    quoted(await worked(server, backups, names=False) + await worked(server, names, names=True))


asyncio.run(main(sys.argv[1]))
