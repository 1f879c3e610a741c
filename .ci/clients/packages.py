"""Installs the packages as their users do, and works with what is installed. Needs a network namespace of
its own, in which nothing can be fetched.

Usage: packages.py <folder of the packages> <node> <node_modules> <node_modules of the hosts>
"""

import base64
import copy
import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema
import yaml

from packaged import KEY, PROGRAM, expect_tools, one, run
from work import expect

packages, node, modules, hosts = (Path(path).absolute() for path in sys.argv[1:])
CI = Path(__file__).parent.parent
ROOT = CI.parent


def broken(document, path, value):
    """A document with one value changed, or without it where that is None."""
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return document


def bundle(directory):
    """The bundle, unpacked and filled in by the library that hosts use."""
    script = modules / "@anthropic-ai/mcpb/dist/cli/cli.js"
    here = directory / "bundle"
    run(node, script, "unpack", one(packages, "*.mcpb"), here)
    run(node, script, "validate", here / "manifest.json")
    run(node, script, "pack", here, directory / "again.mcpb")
    manifest = json.loads((here / "manifest.json").read_text())
    wrong = directory / "manifest.json"
    wrong.write_text(json.dumps(broken(manifest, ["user_config", "api_key", "type"], "key")))
    run(node, script, "validate", wrong, code=1)

    library = modules / "@anthropic-ai/mcpb/dist/index.js"
    script = f"""
        import {{ readFileSync }} from "node:fs";
        import {{ getMcpConfigForManifest }} from "{library}";
        const [extensionPath, config] = process.argv.slice(1);
        const manifest = JSON.parse(readFileSync(`${{extensionPath}}/manifest.json`, "utf8"));
        const options = {{ manifest, extensionPath, systemDirs: {{}}, pathSeparator: "/" }};
        const filled = await getMcpConfigForManifest({{ ...options, userConfig: JSON.parse(config) }});
        console.log(JSON.stringify(filled ?? null));"""

    def filled(config):
        return json.loads(run(node, "--input-type=module", "--eval", script, "--", here, json.dumps(config)))

    expect(filled({}) is None, "the bundle starts without a key")
    server = filled({"api_key": KEY})
    expect_tools(server["command"], *server["args"], directory=directory, environment=server["env"])
    audit = directory / "audit.log"
    screen = {"DISPLAY": ":7", "WAYLAND_DISPLAY": "wayland-7", "XDG_RUNTIME_DIR": "/run/7", "XAUTHORITY": "/x"}
    expect(screen.keys() <= server["env"].keys(), f"the bundle passes on only {server['env'].keys()}")
    config = {"api_key": KEY, "read_only": True, "keep_latest": 3, "audit_log": str(audit), "confirm": "always"}
    settings = zip(["display", "wayland_display", "runtime_dir", "xauthority"], screen.values())
    chosen = filled(config | dict(settings))
    expect(screen.items() <= chosen["env"].items(), f"the bundle passes on {chosen['env']}")
    # Nothing listens there.
    environment = chosen["env"] | {"QOVERY_API_URL": "http://127.0.0.1:9"}
    said = run(chosen["command"], "check", code=1, env=environment, cwd=directory)
    for line in [r"READ_ONLY +true ", r"KEEP_LATEST +3 ", rf"AUDIT_LOG +{audit} ", r"CONFIRM +always "]:
        expect(re.search(line, said), f"the bundle's program did not get {line}:\n{said}")
    print(f"bundle: {one(packages, '*.mcpb').name} validates, packs, and starts with the defaults and a key")


def wrapper(directory):
    """The npm wrapper: what it passes on, and what it says where nothing fits."""
    tarballs = sorted(packages.glob("*.tgz"))
    (directory / "package.json").write_text("{}")
    run("npm", "install", "--offline", "--no-audit", "--no-fund", *tarballs, cwd=directory)
    command = directory / "node_modules/.bin" / PROGRAM
    expect_tools(command, "stdio", "--sandbox", directory=directory)
    run(command, "--keep-latest", "many", code=2, cwd=directory)
    for sent in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]:
        code, left = ended(command, directory, sent)
        expect((code, left) == (0, False), f"{sent.name}: exit code {code}; the program is left: {left}")
    code, _ = ended(command, directory, signal.SIGKILL, wrapped=True)
    expect(code == -signal.SIGKILL, f"the program was killed, and the wrapper ended with {code}")

    for platform in directory.glob(f"node_modules/@*/{PROGRAM}-*"):
        platform.rename(directory / platform.name)
    said = run(command, "--version", code=1, cwd=directory)
    expect(said.count("\n") == 1 and "optional dependencies" in said, f"without a program it says: {said}")
    names = ", ".join(path.name for path in tarballs)
    print(f"npm: {names} are installed; three signals and the exit code are passed on")


def ended(command, directory, sent, wrapped=False):
    """The exit code of the wrapper after a signal to it, or to the program in it, while its input is open;
    and whether the program is still there."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    wrapper = subprocess.Popen([command, "stdio", "--sandbox"], cwd=directory, **pipes)
    try:
        client = {"clientInfo": {"name": "gate", "version": "1"}, "capabilities": {}}
        params = client | {"protocolVersion": "2025-11-25"}
        hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        wrapper.stdin.write(json.dumps(hello).encode() + b"\n")
        wrapper.stdin.flush()
        expect(b"serverInfo" in wrapper.stdout.readline(), "the wrapped program does not answer")
        children = Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children").read_text()
        (program,) = map(int, children.split())
        os.kill(program if wrapped else wrapper.pid, sent)
        code = wrapper.wait(timeout=20)
    finally:
        wrapper.kill()
    return code, Path(f"/proc/{program}").exists()


def registry():
    schema = yaml.safe_load((CI / "server.schema.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = json.loads((packages / "server.json").read_text())
    faults = [f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(document)]
    expect(not faults, f"server.json is not valid: {faults}")
    kinds = [package["registryType"] for package in document["packages"]]
    expect({"npm", "oci", "mcpb"} == set(kinds), f"server.json names {kinds}")
    mistakes = [
        (["name"], PROGRAM),
        (["description"], "x" * 101),
        (["version"], "^0.1.0"),
        (["repository", "url"], None),
        (["packages", kinds.index("npm"), "version"], None),
        (["packages", kinds.index("oci"), "version"], "0.1.0"),
        (["packages", kinds.index("mcpb"), "fileSha256"], None),
        (["packages", 0, "transport"], {"type": "pipe"}),
        (["packages", 0, "environmentVariables", 0, "secret"], True),
    ]
    for path, value in mistakes:
        accepted = validator.is_valid(broken(document, path, value))
        expect(not accepted, f"server.json may have {value} at {path}")
    manifest = json.loads(one(packages, f"npm/{PROGRAM}/package.json").read_text())
    expect(manifest["mcpName"] == document["name"], f"the npm package belongs to {manifest['mcpName']}")
    entry = document["packages"][kinds.index("mcpb")]
    line = f"{entry['fileSha256']}  {entry['identifier'].rpartition('/')[2]}\n"
    expect(line in (packages / "SHA256SUMS").read_text(), f"SHA256SUMS lacks: {line}")
    run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=packages)
    print(f"server.json: {', '.join(kinds)}; valid, and refused with each of {len(mistakes)} mistakes")


class Registry(http.server.BaseHTTPRequestHandler):
    """An npm registry of the packages, on loopback."""

    def do_GET(self):
        name = unquote(self.path).lstrip("/")
        file = packages / name
        if name.endswith(".tgz") and file.is_file():
            self.answer(200, file.read_bytes())
            return
        for file in packages.glob("npm/*/package.json"):
            package = json.loads(file.read_text())
            if package["name"] == name:
                self.answer(200, json.dumps(self.described(package)).encode())
                return
        self.answer(404, b"{}")

    def described(self, package):
        name, version = package["name"], package["version"]
        tarball = f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
        digest = base64.b64encode(hashlib.sha512((packages / tarball).read_bytes()).digest()).decode()
        dist = {"tarball": f"http://{self.headers['Host']}/{tarball}", "integrity": f"sha512-{digest}"}
        return {
            "name": name,
            "dist-tags": {"latest": version},
            "versions": {version: package | {"dist": dist}},
        }

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def claude(directory):
    """The plugin, and the two commands that try the sandbox, in a home of their own."""
    registry = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=registry.serve_forever, daemon=True).start()
    environment = {
        "HOME": str(directory),
        "PATH": f"{directory}/bin:{hosts}/.bin:{node.parent}:/usr/local/bin:/usr/bin:/bin",
        "npm_config_prefix": str(directory),
        "npm_config_registry": f"http://127.0.0.1:{registry.server_port}/",
        "npm_config_update_notifier": "false",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }

    def said(*command, code=0):
        return run(*command, code=code, env=environment, cwd=directory)

    marketplace = packages / "claude"
    plugin = marketplace / "qovery-backups"
    said("claude", "plugin", "validate", "--strict", marketplace)
    said("claude", "plugin", "validate", "--strict", plugin)
    said("claude", "plugin", "validate", "--profile", "directory", plugin)
    wrong = directory / "wrong/.claude-plugin/plugin.json"
    wrong.parent.mkdir(parents=True)
    manifest = json.loads((plugin / ".claude-plugin/plugin.json").read_text())
    wrong.write_text(json.dumps(broken(manifest, ["userConfig", "api_key", "type"], "key")))
    said("claude", "plugin", "validate", wrong.parent.parent, code=1)

    (package,) = [name for name in manifest["mcpServers"]["qovery-backups"]["args"] if name.startswith("@")]
    said("npm", "install", "--global", "--no-audit", "--no-fund", package)
    said("claude", "mcp", "add", "qovery-backups", "--", PROGRAM, "stdio", "--sandbox")
    said("claude", "mcp", "add", "with-npx", "--", "npx", "-y", package, "stdio", "--sandbox")
    said("claude", "plugin", "marketplace", "add", marketplace)
    said("claude", "plugin", "install", f"qovery-backups@{PROGRAM}", "--config", f"api_key={KEY}")
    shown = said("claude", "mcp", "list")
    for name in ["qovery-backups", "with-npx", "plugin:qovery-backups:qovery-backups"]:
        expect(re.search(rf"^{name}: .*Connected$", shown, re.MULTILINE), f"Claude Code lists\n{shown}")
    kept = [path for path in directory.rglob("settings*.json") if KEY in path.read_text()]
    expect(not kept, f"Claude Code keeps the key in {kept}")
    registry.shutdown()
    print("Claude Code: the plugin validates; from npm, with npx and as a plugin the program is connected")


def gemini(directory):
    """The extension, up to where its setup needs a terminal."""
    environment = {"HOME": str(directory), "PATH": f"{hosts}/.bin:{node.parent}:/usr/bin:/bin"}
    extension = packages / "gemini"
    run("gemini", "extensions", "validate", extension, env=environment, cwd=directory)
    manifest = json.loads((extension / "gemini-extension.json").read_text())
    (directory / "gemini-extension.json").write_text(json.dumps(broken(manifest, ["version"], None)))
    run("gemini", "extensions", "validate", directory, code=1, env=environment, cwd=directory)
    names = ", ".join(setting["name"] for setting in manifest["settings"])
    print(f"Gemini CLI: the extension validates, and asks for {names}")


def buttons():
    """The links that the documents give are those that `dist/buttons` prints."""
    printed = [decoded(line.partition(": ")[2]) for line in run(ROOT / "dist/buttons").splitlines()]
    documents = [path for path in [ROOT / "README.md", ROOT / "docs/hosts.md"] if path.exists()]
    pattern = r"""(?:https?|vscode|cursor)[^\s)>"'`|]*/(?:install-mcp|mcp/install)\?[^\s)>"'`|]+"""
    given = [link for path in documents for link in re.findall(pattern, path.read_text())]
    for link in given:
        expect(decoded(link) in printed, f"`dist/buttons` does not print {decoded(link)}")
    expect(given or len(documents) == 1, "docs/hosts.md has no button")
    print(f"buttons: {len(given)} links, each as printed")


def decoded(link):
    parts = urlsplit(link)
    fields = {name: value for name, (value,) in parse_qs(parts.query, strict_parsing=True).items()}
    config = fields["config"]
    fields["config"] = json.loads(
        config if config.startswith("{") else base64.b64decode(config, validate=True)
    )
    if "inputs" in fields:
        fields["inputs"] = json.loads(fields["inputs"])
    return parts.scheme, parts.netloc, parts.path, fields


def materials():
    """The SBOM names each crate that the program is built of, and none that is only for tests."""
    sbom = json.loads(one(packages, "*.cdx.json").read_text())
    named = {f"{part['name']} v{part['version']}" for part in sbom["components"]}

    def crates(edges):
        tree = [
            "cargo",
            "tree",
            "--locked",
            "--offline",
            "--edges",
            edges,
            "--target",
            "all",
            "--prefix",
            "none",
        ]
        return {" ".join(line.split()[:2]) for line in run(*tree, cwd=ROOT).splitlines()[1:]}

    built = crates("no-dev")
    only_tests = crates("all") - built
    expect(built <= named, f"the SBOM lacks {built - named}")
    expect(only_tests and not only_tests & named, f"the SBOM has {only_tests & named} too many")
    print(f"SBOM: {len(named)} crates")


def tools():
    """Without its tools, the build names each and makes nothing."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "out")
        given = [f"linux-x64={sys.executable}", "--no-image", "--owner", "o", "--repository", "r", "--out", out]
        environment = {"PATH": directory, "HOME": directory}
        said = run(sys.executable, ROOT / "dist/build", *given, code=1, env=environment)
        for name in ["npm", "cargo", "cargo-cyclonedx", "readelf", "dpkg-deb"]:
            expect(f"{name} (" in said, f"the build does not miss {name}: {said}")
        expect(not out.exists(), "the build began without its tools")
    print(f"build: {said.strip()}")


tools()
registry()
materials()
buttons()
for check in [bundle, wrapper, claude, gemini]:
    with tempfile.TemporaryDirectory() as directory:
        check(Path(directory))
