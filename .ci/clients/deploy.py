"""Checks the recipes of deploy/ by validators of their own kind, each of which has to see a fault, and runs
the program as they say: with their arguments, variables, files, ports and user.

It has a network and mounts of its own, so that all stands where the recipes have it.

Usage: unshare --net --mount python deploy.py <server> <compose validator>
"""

import asyncio
import contextlib
import errno
import json
import os
import re
import shutil
import socket
import ssl
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pyseccomp
import yaml

from qovery import BACKUPS, Qovery
from served import ORDERS, is_page, read_answer, request, written, written_list

server, compose_validator = sys.argv[1:]
DEPLOY = Path(__file__).parents[2] / "deploy"
BIN = Path(sys.executable).parent
USER = 10001
SHARED = dns.name.from_text("backups")
AS_USER = {"user": USER, "group": USER, "extra_groups": [], "cwd": "/"}
KEY = "sk-qov-01-gate"
TOKENS = {"agents": "a" * 16, "prometheus": "p" * 16}
NAMES = {"agents": "agents", "prometheus": "prometheus/metrics"}
SECRETS = {
    "api-key": KEY,
    "access-tokens": "".join(f"{NAMES[name]}:{token}\n" for name, token in TOKENS.items()),
    "state-key": "s" * 32,
}
MCP, REST = "http://127.0.0.1:9090/mcp", "http://127.0.0.1:8080"


def expect(condition, otherwise):
    if not condition:
        raise AssertionError(otherwise)


def run(*command, code=0, **options):
    """What a command says, which has to exit so; for `None` with anything but 0."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, timeout=60, text=True, **pipes, **options)
    said = f"{Path(command[0]).name} exited with {done.returncode}: {done.stdout}"
    expect(done.returncode == code if code is not None else done.returncode != 0, said)
    return done.stdout


def house():
    """Where this process, and what it starts, finds what the recipes name."""
    run("ip", "link", "set", "lo", "up")
    for directory in ["/run", "/var/lib", "/etc/nginx"]:
        run("mount", "-t", "tmpfs", "-o", "mode=0755", "none", directory)
    Path("/etc/nginx/tls").mkdir()
    # The replicas of nginx.conf.
    hosts = Path("/run/hosts")
    hosts.write_text("127.0.0.1 localhost\n127.0.0.2 backups-1\n127.0.0.3 backups-2\n")
    run("mount", "--bind", hosts, "/etc/hosts")
    # The user may not see the folder where it was built.
    program = Path("/run/qovery-backups-mcp")
    shutil.copy(server, program)
    program.chmod(0o755)
    return str(program)


def mounted(path, content):
    """A file that its user can read, and no user can write."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(content)
    os.chown(path, 0, USER)
    path.chmod(0o440)


def state(directory):
    """A folder that is empty, and its user's own."""
    shutil.rmtree(directory, ignore_errors=True)
    Path(directory).mkdir(parents=True)
    os.chown(directory, USER, USER)


def faults(validate, text, *changes):
    """A validator that takes what is written, and nothing that is wrong."""
    with tempfile.TemporaryDirectory() as directory:
        validate(directory, text, 0)
        for right, wrong in changes:
            expect(right in text, f"{right!r} is not there any more")
            validate(directory, text.replace(right, wrong, 1), None)


class Program:
    """The program as a recipe starts it, with no right that the recipe does not give it."""

    def __init__(self, program, arguments, variables, upstream, **options):
        self.command, self.options = [program, *arguments], AS_USER | options
        self.variables = {"PATH": "/usr/bin", "QOVERY_API_URL": upstream} | variables

    def refused(self):
        """What it says where it does not start."""
        return run(*self.command, code=2, env=self.variables, **self.options)

    async def __aenter__(self):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(self.command, env=self.variables, **self.options, **pipes)
        return self

    async def __aexit__(self, *error):
        self.process.terminate()
        log = (await asyncio.to_thread(self.process.communicate, timeout=20))[1].decode()
        if not any(error):
            expect(self.process.returncode == 0, f"it exited with {self.process.returncode}: {log}")
        else:
            print(log, file=sys.stderr)

    async def ready(self, url):
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if (await request(url))[0] == 200:
                    return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{url} was not ready")


def bearer(name):
    return {"Authorization": f"Bearer {TOKENS[name]}"}


async def exchanged(address, sent):
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(sent)
        return await read_answer(reader)
    finally:
        writer.close()


async def used(hosts, audit):
    """What callers, Prometheus and an auditor find. `hosts` are the names that callers use."""
    for host in hosts:
        named = bearer("agents") | {"Host": host}
        status, _, body = await exchanged(("127.0.0.1", 9090), written_list(MCP, **named))
        expect(is_page(status, body), f"as {host}: {status} {body[:300]}")
    for refused in [{}, bearer("agents") | {"Host": "elsewhere.example"}]:
        status, _, _ = await exchanged(("127.0.0.1", 9090), written_list(MCP, **refused))
        expect(status in (401, 403, 421), f"{refused}: {status}")
    status, _, body = await request(f"{REST}/metrics", headers={"Host": "10.0.0.7:8080"} | bearer("prometheus"))
    expect(status == 200 and b"qovery_backups_build_info" in body, f"metrics: {status}")
    status, _, _ = await request(f"{REST}/metrics")
    expect(status == 401, f"metrics without a token: {status}")
    named = bearer("prometheus") | {"Host": hosts[0]}
    status, _, _ = await exchanged(("127.0.0.1", 9090), written_list(MCP, **named))
    expect(status == 403, f"a list by Prometheus: {status}")

    headers = bearer("agents") | {"Content-Type": "application/json", "Host": hosts[0]}
    backup = json.dumps({"name": "gate", "message": "m"}).encode()
    status, _, body = await request(f"{REST}/v1/database/{ORDERS}/backup", "POST", headers, backup)
    expect(status == 201, f"an addition: {status} {body[:300]}")
    lines = [json.loads(line) for line in Path(audit).read_text().splitlines()]
    expect([line["phase"] for line in lines] == ["intent", "outcome"], lines)
    expect(lines[1]["outcome"] == "applied" and lines[1]["caller"].startswith("agents"), lines)


async def recipes(host, audit):
    """What docs/operating.md has an operator ask the audit log by jq, after a removal and what can go wrong."""
    removed = f"{REST}/v1/database/{ORDERS}/backup/{BACKUPS[0]}"
    status, _, body = await request(removed, "DELETE", bearer("agents") | {"Host": host})
    expect(status == 204, f"a removal: {status} {body[:300]}")
    text = Path(audit).read_text()
    intent, outcome = map(json.loads, text.splitlines()[-2:])
    lonely = intent | {"change_id": "killed"}
    unknown = [record | {"change_id": "unknown"} for record in (intent, outcome | {"outcome": "unknown"})]
    refused = intent | {"change_id": "refused", "phase": "refused", "backup_id": BACKUPS[2], "reason": "protected"}
    more = "".join(json.dumps(record) + "\n" for record in [lonely, *unknown, refused])
    page = DEPLOY.parent.joinpath("docs/operating.md").read_text()
    commands = re.findall(r"^(jq .*)$", page, re.MULTILINE)
    with tempfile.TemporaryDirectory() as directory:
        # A line that a full disk has torn, and a file of another replica.
        Path(directory, "audit-0.jsonl").write_text(text + '{"time":"2026-11\n')
        Path(directory, "audit-1.jsonl").write_text(more)

        def answers(command):
            said = run("bash", "-c", command.replace("BACKUP_ID", BACKUPS[0]), cwd=directory)
            return [json.loads(line) for line in said.splitlines()]

        removals, refusals, in_doubt = map(answers, commands)
    expect(removals == [outcome, unknown[1]], removals)
    names = ["time", "caller", "operation", "database_id", "backup_id", "reason"]
    expect(refusals == [{name: refused[name] for name in names}], refusals)
    expect(sorted(record["change_id"] for record in in_doubt) == ["killed", "unknown"], in_doubt)
    print(f"docs/operating.md: {len(commands)} recipes with jq find what they say")


def known(variables, program):
    help = run(program, "--help")
    unknown = [name for name in variables if not re.search(rf"\b{name}\b", help)]
    expect(not unknown, f"no setting of the program: {unknown}")


def proxy_name():
    return re.search(r"server_name (\S+);", DEPLOY.joinpath("nginx.conf").read_text())[1]


def validate_manifest(directory, text, code):
    Path(directory, "kubernetes.yaml").write_text(text)
    run(BIN / "kubernetes-validate", "--strict", "kubernetes.yaml", code=code, cwd=directory)


def filled(text):
    """The documents of a manifest, as envsubst fills them in, by their kinds."""
    values = {"QOVERY_API_KEY": KEY, "STATE_KEY": SECRETS["state-key"]}
    values |= {f"{name.upper()}_TOKEN": token for name, token in TOKENS.items()}
    kinds = {}
    for document in yaml.safe_load_all(string.Template(re.sub(r"(?m)^#.*$", "", text)).substitute(values)):
        kinds.setdefault(document["kind"], []).append(document)
    return kinds


def ingress(services):
    """It passes on to a port that a Service has, for the proxy's name, and only MCP."""
    text = DEPLOY.joinpath("kubernetes-ingress.yaml").read_text()
    faults(validate_manifest, text, ("pathType:", "pathKind:"), ("name: mcp", "number: mcp"))
    [made] = filled(text)["Ingress"]
    [rule], [terminated] = made["spec"]["rules"], made["spec"]["tls"]
    expect(rule["host"] == proxy_name() and terminated["hosts"] == [rule["host"]], made)
    path, metadata = rule["http"]["paths"]
    expect(metadata == path | {"path": "/.well-known/oauth-protected-resource"}, metadata)
    [service] = [found for found in services if found["metadata"]["name"] == path["backend"]["service"]["name"]]
    expect(service["metadata"]["namespace"] == made["metadata"]["namespace"], made)
    ports = [port["name"] for port in service["spec"]["ports"]]
    expect(path["backend"]["service"]["port"]["name"] in ports, path)
    expect((path["path"], path["pathType"]) == ("/mcp", "Prefix"), path)
    print(f"kubernetes-ingress.yaml: valid, and {rule['host']}{path['path']} is a Service's port")


def monitor(services):
    """It finds each replica once, by a token of its own, under the name that the alerts have."""
    text = DEPLOY.joinpath("kubernetes-monitor.yaml").read_text()
    faults(validate_manifest, text, ("stringData:", "strings:"))
    [secret], [made] = (filled(text)[kind] for kind in ["Secret", "ServiceMonitor"])
    expect(made["apiVersion"] == "monitoring.coreos.com/v1", made)
    spec, namespace = made["spec"], made["metadata"]["namespace"]
    expect(spec.keys() == {"selector", "jobLabel", "endpoints"}, spec)
    wanted = spec["selector"]["matchLabels"].items()
    [service] = [found for found in services if wanted <= found["metadata"].get("labels", {}).items()]
    expect(service["spec"].get("clusterIP") == "None", "it finds one replica of two")
    expect(service["metadata"]["namespace"] == secret["metadata"]["namespace"] == namespace, made)
    prometheus = yaml.safe_load(DEPLOY.joinpath("prometheus/prometheus.yml").read_text())
    job = prometheus["scrape_configs"][0]["job_name"]
    expect(service["metadata"]["labels"][spec["jobLabel"]] == job, spec["jobLabel"])
    [endpoint] = spec["endpoints"]
    expect(endpoint.keys() == {"port", "path", "authorization"}, endpoint)
    expect(endpoint["port"] in [port["name"] for port in service["spec"]["ports"]], endpoint)
    expect(endpoint["path"] == "/metrics", endpoint)
    credentials = endpoint["authorization"]["credentials"]
    expect(credentials["name"] == secret["metadata"]["name"], credentials)
    expect(secret["stringData"][credentials["key"]] == TOKENS["prometheus"], secret)
    print(f"kubernetes-monitor.yaml: valid, scrapes {service['metadata']['name']} as {job}")


async def kubernetes(program, upstream):
    text = DEPLOY.joinpath("kubernetes.yaml").read_text()
    faults(
        validate_manifest,
        text,
        ("terminationGracePeriodSeconds", "terminationGraceSeconds"),
        ("replicas: 2", "replicas: two"),
        ("preStop: { sleep: { seconds: 5 } }", "preStop: { sleep: 5 }"),
    )
    kinds = filled(text)
    unfilled = next(d for d in yaml.safe_load_all(text) if d["kind"] == "Secret")["stringData"]
    [secret], [replicas], [budget] = kinds["Secret"], kinds["StatefulSet"], kinds["PodDisruptionBudget"]
    spec = replicas["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    labels = spec["template"]["metadata"]["labels"]

    expect(secret["stringData"] == SECRETS, secret)
    for chosen in [spec["selector"]["matchLabels"], budget["spec"]["selector"]["matchLabels"]]:
        expect(chosen == labels, chosen)
    services, names = set(), {"localhost", "127.0.0.1", proxy_name()}
    for service in kinds["Service"]:
        expect(service["spec"]["selector"] == labels, service)
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        services.add(name)
        if service["spec"].get("clusterIP") != "None":
            long = f"{name}.{namespace}.svc"
            names |= {name, f"{name}.{namespace}", long, f"{long}.cluster.local"}
        for port in service["spec"]["ports"]:
            expect({"name": port["targetPort"], "containerPort": port["port"]} in container["ports"], port)
    expect(spec["serviceName"] in services, spec["serviceName"])
    version = run(program, "--version").split()[1]
    expect(container["image"].endswith(f":{version}"), f"{container['image']} is not {version}")
    user = pod["securityContext"]
    expect(user["runAsUser"] == user["fsGroup"] == USER, user)

    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    known(variables, program)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    [claim] = spec["volumeClaimTemplates"]
    audit = variables["QOVERY_BACKUPS_AUDIT_LOG"]
    expect(Path(audit).parent == Path(mounts[claim["metadata"]["name"]]), "the audit log is not on its volume")
    [volume] = pod["volumes"]
    expect(volume["secret"]["secretName"] == secret["metadata"]["name"], volume)

    state(Path(audit).parent)
    begun = Program(program, container["args"], variables, upstream)
    for missing in SECRETS:
        for name, content in SECRETS.items():
            mounted(f"{mounts[volume['name']]}/{name}", unfilled[name] if name == missing else content)
        expect("placeholder" in begun.refused(), f"it starts with {missing} as the file has it")
    for name, content in secret["stringData"].items():
        mounted(f"{mounts[volume['name']]}/{name}", content)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    hosts = variables["QOVERY_BACKUPS_ALLOWED_HOST"].split(",")
    expect(set(hosts) == names, f"callers use {names}, and it answers to {hosts}")
    async with begun:
        # As the kubelet asks: by the address of the pod, without a token.
        for probe in [container["readinessProbe"], container["livenessProbe"]]:
            asked = probe["httpGet"]
            await begun.ready(f"http://127.0.0.1:{ports[asked['port']]}{asked['path']}")
        await used([*hosts, f"{hosts[0]}:9090"], audit)
        await recipes(hosts[0], audit)
    print(f"kubernetes.yaml: valid, runs as it stands, and answers to {', '.join(hosts)}")
    ingress(kinds["Service"])
    monitor(kinds["Service"])


def validate_compose(directory, text, code):
    Path(directory, "compose.yaml").write_text(text)
    return run(compose_validator, "--format", "json", "compose.yaml", code=code, cwd=directory)


async def compose(program, upstream):
    text = DEPLOY.joinpath("compose.yaml").read_text()
    faults(
        validate_compose,
        text,
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("read_only: true", "readonly: true"),
        ('"443:443"', '"443:https"'),
    )
    with tempfile.TemporaryDirectory() as directory:
        model = json.loads(validate_compose(directory, text, 0))
        base = Path(directory).resolve()
    services = model["services"]
    replicas = {name: service for name, service in services.items() if name != "nginx"}
    configuration = services["nginx"]["volumes"][0]
    expect(DEPLOY.joinpath(Path(configuration["source"]).relative_to(base)).is_file(), configuration)
    proxy = DEPLOY.joinpath("nginx.conf").read_text()
    [shared] = re.findall(r"^\s+set \$replicas ([\w-]+):9090;", proxy, re.MULTILINE)
    for replica in replicas.values():
        expect(replica["networks"] == {"default": {"aliases": [shared]}}, f"nginx.conf passes on to {shared}")
    expect(services["nginx"]["depends_on"].keys() == replicas.keys(), services["nginx"]["depends_on"])
    volumes = {str(replica["volumes"]) for replica in replicas.values()}
    expect(len(volumes) == len(replicas), "one audit log for two")
    for name, replica in replicas.items():
        variables = replica["environment"]
        known(variables, program)
        expect(replica["user"] == f"{USER}:{USER}", replica["user"])
        for secret in replica["secrets"]:
            expect(secret["source"] in model["secrets"], secret)
            mounted(secret["target"], SECRETS[secret["source"]])
        [volume] = replica["volumes"]
        state(volume["target"])
        begun = Program(program, replica["command"], variables, upstream)
        async with begun:
            await begun.ready("http://127.0.0.1:9090/readyz")
            await used([variables["QOVERY_BACKUPS_ALLOWED_HOST"]], variables["QOVERY_BACKUPS_AUDIT_LOG"])
    print(f"compose.yaml: valid, and {' and '.join(replicas)} run as it says")
    return replicas


class Resolver(asyncio.DatagramProtocol):
    """Docker's resolver, with a name that all replicas share. What it says may be kept for ten minutes."""

    def __init__(self):
        self.addresses = []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        query = dns.message.from_wire(data)
        [question] = query.question
        answer = dns.message.make_response(query)
        if self.addresses and question.name == SHARED and question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text_list(SHARED, 600, "IN", "A", self.addresses))
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(answer.to_wire(), peer)


NGINX = """
daemon off;
user root;
pid /run/nginx.pid;
error_log /run/nginx-errors;
events {{}}
http {{
    access_log off;
    client_body_temp_path /run/nginx-body;
    proxy_temp_path /run/nginx-proxy;
    fastcgi_temp_path /run/nginx-fastcgi;
    scgi_temp_path /run/nginx-scgi;
    uwsgi_temp_path /run/nginx-uwsgi;
    include {included};
}}
"""


def validate_nginx(directory, text, code):
    Path(directory, "included").write_text(text)
    Path(directory, "nginx.conf").write_text(NGINX.format(included=f"{directory}/included"))
    run("nginx", "-t", "-e", f"{directory}/errors", "-c", f"{directory}/nginx.conf", code=code)


async def nginx(program, replicas, upstream):
    """Callers reach both replicas by the name of the certificate, and only MCP: also if one is gone, and
    after a time in which none had a name."""
    text = DEPLOY.joinpath("nginx.conf").read_text()
    name = proxy_name()
    certificate, key = (re.search(rf"ssl_certificate{kind}\s+(\S+);", text)[1] for kind in ["", "_key"])
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    made = ["-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", key, "-out", certificate]
    run("openssl", "req", "-x509", *names, *made)
    faults(validate_nginx, text, ("set $replicas", "let $replicas"), ("listen 443 ssl", "listen"))
    context = ssl.create_default_context(cafile=certificate)

    async def through(sent):
        reader, writer = await asyncio.open_connection("127.0.0.1", 443, ssl=context, server_hostname=name)
        try:
            writer.write(sent)
            status = int((await reader.readline()).split()[1])
            return status, await reader.read()
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    transport, resolver = await loop.create_datagram_endpoint(Resolver, local_addr=("127.0.0.11", 53))
    listed = written_list(f"https://{name}/mcp", **bearer("agents"), Host=name)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(transport.close)
        for replica, service in replicas.items():
            address = socket.gethostbyname(replica)
            addresses = ["--mcp-addr", f"{address}:9090", "--rest-addr", f"{address}:8080"]
            variables = service["environment"] | {
                "QOVERY_BACKUPS_OAUTH_ISSUER": "https://login.example.com",
                "QOVERY_BACKUPS_PUBLIC_URL": f"https://{name}",
            }
            begun = Program(program, [*service["command"], *addresses], variables, upstream)
            await stack.enter_async_context(begun)
            await begun.ready(f"http://{address}:9090/readyz")
        Path("/run/nginx.conf").write_text(NGINX.format(included=DEPLOY / "nginx.conf"))
        proxy = subprocess.Popen(["nginx", "-e", "/run/nginx-errors", "-c", "/run/nginx.conf"])
        stack.callback(proxy.wait, timeout=10)
        stack.callback(proxy.terminate)
        deadline = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", 443))[1].close()
                break
            expect(time.monotonic() < deadline, "nginx did not listen")
            await asyncio.sleep(0.05)

        status, _ = await through(listed)
        expect(status == 502, f"without a name it answers {status}")
        # Nothing listens at the second.
        first, second = map(socket.gethostbyname, replicas)
        resolver.addresses = [first, "127.0.0.9"]
        for _ in range(8):
            status, answer = await through(listed)
            expect(status == 200 and ORDERS.encode() in answer, f"{status}: {answer[:300]}")
        resolver.addresses = [first, second]
        changed = time.monotonic()
        while not await was_asked(second):
            expect(time.monotonic() < changed + 15, "a new address was not found")
            status, _ = await through(listed)
            expect(status == 200, f"while the addresses change: {status}")
        expect(await was_asked(first), "one replica was not asked")
        headers = bearer("agents") | {"Host": name}
        metadata = f"https://{name}/.well-known/oauth-protected-resource/mcp"
        status, answer = await through(written(metadata, "GET", {"Host": name}, b""))
        expect(status == 200 and f'"https://{name}/mcp"'.encode() in answer, f"the metadata: {status}: {answer[:300]}")
        for path in ["/metrics", "/v1/database", "/"]:
            status, _ = await through(written(f"https://{name}{path}", "GET", headers, b""))
            expect(status == 404, f"{path} is answered with {status}")
    print(f"nginx.conf: valid, starts without replicas, and both answer at https://{name}/mcp")


async def was_asked(replica):
    _, _, metrics = await request(f"http://{replica}:8080/metrics", headers=bearer("prometheus"))
    return re.search(rb'request_seconds_count\{.*operation="list".*\} (\d+)', metrics)


def validate_unit(directory, text, code):
    unit = Path(directory, "qovery-backups-mcp.service")
    unit.write_text(text)
    said = run("systemd-analyze", "verify", "--man=no", unit)
    # Of what it does not know it only warns.
    expect(bool(said) is (code != 0), f"systemd-analyze verify: {said}")


def exposure(directory, text, code):
    """What the service may do that it need not: 0 for nothing, 10 for all. Here in tenths, and at most 15."""
    unit = Path(directory, "qovery-backups-mcp.service")
    unit.write_text(text)
    run("systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", unit, code=code)


def system_calls(name):
    """Those of a set, as this systemd has it."""
    if not name.startswith("@"):
        return {name}
    lines = map(str.strip, run("systemd-analyze", "syscall-filter", name).splitlines()[1:])
    return set().union(*(system_calls(line) for line in lines if line and not line.startswith("#")))


def filtered(text):
    """Puts the unit's filter of system calls on this process, as systemd would."""
    allowed = system_calls("@default")
    for without, names in re.findall(r"^SystemCallFilter=(~?)(.*)$", text, re.MULTILINE):
        named = set().union(*map(system_calls, names.split()))
        allowed = allowed - named if without else allowed | named
    made = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    here = pyseccomp.system_arch()
    # Some are other processors' own.
    for name in allowed:
        if pyseccomp.resolve_syscall(here, name) >= 0:
            made.add_rule(pyseccomp.ALLOW, name)
    return made.load


async def unit(program, upstream):
    text = DEPLOY.joinpath("qovery-backups-mcp.service").read_text()
    [command] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    path, *arguments = command.split()
    expect(path == f"/usr/bin/{Path(program).name}", path)
    faults(validate_unit, text.replace(path, program), ("StateDirectory=", "StateFolder="), ("=exec", "=run"))
    faults(exposure, text, ("SystemCallFilter=@system-service\n", ""), ("DynamicUser=yes\n", ""))
    # As systemd fills them in.
    places = {"%d": "/run/credentials/qovery-backups-mcp.service", "%S": "/var/lib"}
    placed = re.sub("|".join(places), lambda place: places[place[0]], text)
    variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", placed, re.MULTILINE))
    known(variables, program)
    for name, source in re.findall(r"^LoadCredential=(.*):(.*)$", text, re.MULTILINE):
        expect(Path(source).name == name, source)
        mounted(f"{places['%d']}/{name}", SECRETS[name])
    [directory] = re.findall(r"^StateDirectory=(.*)$", text, re.MULTILINE)
    state(f"/var/lib/{directory}")
    limits = {"preexec_fn": filtered(text)}
    said = run("nice", "-n", "5", "true", **AS_USER, **limits)
    expect("not permitted" in said, f"the filter lets all through: {said}")
    async with Program(program, arguments, variables, upstream, **limits) as begun:
        await begun.ready("http://127.0.0.1:9090/readyz")
        await used(["localhost", "127.0.0.1:9090"], variables["QOVERY_BACKUPS_AUDIT_LOG"])
    print("qovery-backups-mcp.service: valid, little exposed, and runs as it says")


async def main():
    program = house()
    upstream = await Qovery(KEY, lambda method, path: True).start()
    await kubernetes(program, upstream)
    replicas = await compose(program, upstream)
    await nginx(program, replicas, upstream)
    await unit(program, upstream)


asyncio.run(main())
