"""Checks the OpenAPI document that the server serves: by Spectral's rules for such documents, and by
Schemathesis, which makes requests from it and compares the answers with what it promises.

Usage: openapi.py <server> <node> <Spectral's script>
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from served import Served, request

server, node, spectral = sys.argv[1:]
schemathesis = Path(sys.executable).with_name("schemathesis")
TOKEN = "gate-access-token-0123456789abcdef"
CI = Path(__file__).parent.parent


def run(*command, seconds, directory):
    code = subprocess.run(command, cwd=directory, timeout=seconds).returncode
    if code != 0:
        sys.exit(f"openapi: {Path(command[0]).name} exited with {code}")


# With an access token, so that the checks of authorization find something to check, and with as many
# changes as it likes: beyond the limit it could add and remove nothing.
arguments = ["--sandbox", "--changes-per-hour", "unlimited"]
with (
    Served(server, *arguments, QOVERY_BACKUPS_ACCESS_TOKEN=f"gate:{TOKEN}") as served,
    tempfile.TemporaryDirectory() as directory,
):
    url = f"{served.rest}/openapi.json"
    status, _, document = asyncio.run(request(url, headers={"Authorization": f"Bearer {TOKEN}"}))
    described = json.loads(document)
    version = described.get("openapi")
    if status != 200 or not version.startswith("3.1."):
        sys.exit(f"openapi: {status}, and a document of version {version}")
    Path(directory, "openapi.json").write_bytes(document)
    rules = ["--ruleset", CI / "spectral.yaml", "--fail-severity", "hint"]
    run(node, spectral, "lint", *rules, "openapi.json", seconds=60, directory=directory)

    # A token or a key may be needed, says the document. Here a token is.
    described["security"] = [{"bearer": []}]
    Path(directory, "here.json").write_text(json.dumps(described))
    examples = ["--max-examples", "150", "--generation-deterministic"]
    run(
        *[schemathesis, "--config-file", CI / "schemathesis.toml", "run", "here.json", "--url", served.rest],
        *["--header", f"Authorization: Bearer {TOKEN}", "--checks", "all", "--no-color", *examples],
        seconds=180,
        directory=directory,
    )
