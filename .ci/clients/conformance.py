"""Runs the official conformance suite against the sandbox, over HTTP and in both protocol eras.

Most of its scenarios need tools, prompts and resources of the suite's own reference server. Those are
listed in .ci/conformance: the run fails if anything else fails, or if something listed passes.

Usage: conformance.py <server> <node> <the suite's script>
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from served import Served

server, node, suite = sys.argv[1:]
LISTS = Path(__file__).parent.parent / "conformance"
# The suite sends no access token. It expects these origins to be allowed.
ORIGINS = ["--allowed-origin", "http://localhost:*", "--allowed-origin", "http://127.0.0.1:*"]

# What must have run and passed, whether or not the suite counts it.
STATELESS = [
    "tools-list",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
    "input-required-result-unsupported-methods",
    "http-header-validation",
]
HANDSHAKE = ["server-initialize", "ping", "tools-list", "dns-rebinding-protection"]
FAILED = {"FAILURE", "WARNING"}


def expect(condition, otherwise):
    if not condition:
        sys.exit(f"conformance: {otherwise}")


def results(directory):
    """The status of each check, by the scenario's name and the check's."""
    checks = {}
    for path in Path(directory).glob("server-*/checks.json"):
        # The folder is server-<scenario>-<date>T<time>, with six hyphens of its own.
        scenario = path.parent.name.removeprefix("server-").rsplit("-", 6)[0]
        checks[scenario] = [(check["id"], check["status"]) for check in json.loads(path.read_text())]
    return checks


def run(revision, required):
    baseline = LISTS / f"{revision}.yaml"
    listed = yaml.safe_load(baseline.read_text())["server"]
    with Served(server, "--sandbox", *ORIGINS) as served, tempfile.TemporaryDirectory() as directory:
        command = [node, suite, "server", "--url", served.mcp, "--requirements", revision]
        command += ["--expected-failures", baseline, "--output-dir", directory]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        checks = results(directory)
    if done.returncode != 0:
        verdict = done.stdout.rpartition("(in baseline)")[2].splitlines()
        print("\n".join(line for line in verdict if not line.startswith("  ~ ")), done.stderr)
    expect(done.returncode == 0, f"{revision}: the suite exited with {done.returncode}")

    for scenario in required:
        # Its own checks; that the messages are well-formed is checked everywhere.
        own = [(id, status) for id, status in checks.get(scenario, []) if not id.startswith("wire-schema")]
        expect(any(status == "SUCCESS" for _, status in own), f"{revision}: {scenario} did not pass: {own}")
        failed = [id for id, status in checks[scenario] if status in FAILED]
        expect(not failed, f"{revision}: {scenario} failed: {failed}")
    # To the suite, a listed check that did not run is as good as one that failed.
    for entry in listed:
        scenario, _, check = entry.partition(":")
        failed = any(id == check and status in FAILED for id, status in checks.get(scenario, []))
        expect(failed, f"{revision}: {entry} is listed and did not fail")
    passed = sum(status == "SUCCESS" for scenario in checks.values() for _, status in scenario)
    print(f"{revision}: {len(checks)} scenarios, {passed} checks passed, {len(listed)} failed as listed")


run("2026-07-28", STATELESS)
run("2025-11-25", HANDSHAKE)
