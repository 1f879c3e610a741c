"""Has a real Prometheus scrape servers and an address where none is, while calls go on: each query of
the dashboard finds something, and each alert fires for the server that it is for and for no other.

Usage: prometheus.py <server>
"""

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import yaml

from qovery import BACKUPS, Qovery
from served import ORDERS, Served, exchange, request, written_call

DEPLOY = Path(__file__).parents[2] / "deploy"
KEY, TOKEN = "sk-qov-01-gate", "gate-access-token-0123456789abcdef"
METRICS_TOKEN = "metrics-access-token-0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def expect(condition, otherwise):
    if not condition:
        raise AssertionError(otherwise)


def run(*command, code=0):
    done = subprocess.run(command, timeout=60, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(done.returncode == code, f"{command} exited with {done.returncode}: {done.stdout}")


async def until(what, condition):
    """Waits for a condition that gives what is still missing."""
    deadline = time.monotonic() + 45
    while missing := await condition():
        expect(time.monotonic() < deadline, f"{what}: {missing}")
        await asyncio.sleep(0.2)


async def calls(served, enough):
    """What callers do, over and over, until it is enough: some of it is refused."""
    tools = [
        ("list-database-backups", {}),
        ("add-backup-database", {"name": "gate"}),
        ("remove-database-backup", {"backupId": BACKUPS[0]}),
        # It is the newest.
        ("remove-database-backup", {"backupId": BACKUPS[-1]}),
    ]
    while not enough.is_set():
        for tool, arguments in tools:
            sent = written_call(served.mcp, tool, {"databaseId": ORDERS} | arguments, **BEARER)
            status, _, body = await exchange(served.mcp, sent)
            expect(status == 200, f"{tool}: {status} {body[:300]}")
        await asyncio.sleep(0.1)


def configuration(directory, targets):
    """The configuration as it is, but for where the targets are and how often all is done."""
    path = DEPLOY / "prometheus"
    run("promtool", "check", "config", "--syntax-only", path / "prometheus.yml")
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", path / "alerts.yml")
    settings = yaml.safe_load(path.joinpath("prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    [job] = settings["scrape_configs"]
    [found] = job.pop("dns_sd_configs")
    manifest = list(yaml.safe_load_all(DEPLOY.joinpath("kubernetes.yaml").read_text()))
    headless = [document for document in manifest if document.get("spec", {}).get("clusterIP") == "None"]
    [service], [name] = headless, found["names"]
    expect(name == "{name}.{namespace}.svc".format(**service["metadata"]), name)
    expect(found["port"] == service["spec"]["ports"][0]["port"], found)
    job["static_configs"] = [{"targets": targets}]
    token = Path(directory, "token")
    token.write_text(METRICS_TOKEN)
    job["authorization"]["credentials_file"] = str(token)
    Path(directory, "prometheus.yml").write_text(yaml.safe_dump(settings))

    rules = path.joinpath("alerts.yml").read_text()
    shortened, number = re.subn(r"for: \d+m", "for: 1s", rules)
    expect(number == rules.count("alert:"), "an alert without a time to wait")
    Path(directory, "alerts.yml").write_text(shortened)
    run("promtool", "check", "config", Path(directory, "prometheus.yml"))
    return re.findall(r"alert: (\w+)", rules)


def queries(board):
    """Each query of the dashboard, as Grafana would ask it for all instances."""
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    # Grafana's grid has 24 columns.
    expect(len(cells) == len(set(cells)) and max(cells)[0] < 24, "panels overlap")
    asked = {}
    for panel in board["panels"]:
        expect(panel["targets"], panel["title"])
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*")
            expect("$" not in query, query)
            asked[query] = panel["title"]
    return asked


class Prometheus:
    def __init__(self, url):
        self.url = url

    async def ready(self):
        with contextlib.suppress(OSError):
            return (await request(f"{self.url}/-/ready"))[0] != 200
        return "no connection"

    async def ask(self, path, **form):
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        method = "POST" if form else "GET"
        status, _, body = await request(f"{self.url}/api/v1/{path}", method, kind, urlencode(form).encode())
        expect(status == 200, f"{path} {form}: {status} {body[:300]}")
        return json.loads(body)["data"]

    async def series(self, query):
        """What a query finds now, without what is not a number."""
        found = (await self.ask("query", query=query))["result"]
        return [series for series in found if series["value"][1] != "NaN"]

    async def firing(self):
        """The alerts that fire, each with its instance."""
        alerts = (await self.ask("alerts"))["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"]["instance"])
            for alert in alerts
            if alert["state"] == "firing"
        }


class Lossy(Qovery):
    """Closes the connection in place of an answer to an addition."""

    def __init__(self, key):
        super().__init__(key, lambda method, path: method != "POST" or self.lose())

    def lose(self):
        raise ConnectionResetError


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


async def watched(server, directory):
    tokens = f"gate:{TOKEN}\nprometheus/metrics:{METRICS_TOKEN}"
    key = {"QOVERY_API_KEY": KEY, "QOVERY_BACKUPS_ACCESS_TOKEN": tokens}
    settings = ["--changes-per-hour", "unlimited"]
    good, other, bad = (Qovery(KEY, lambda *_, allowed=allowed: allowed) for allowed in [True, True, False])
    gone, address = free_address(), free_address()
    with contextlib.ExitStack() as stack:
        key["QOVERY_BACKUPS_AUDIT_LOG"] = "none"
        audit = Path(directory, "audit")
        audit.mkdir()
        environments = [
            {"QOVERY_API_URL": await good.start()},
            {"QOVERY_API_URL": await bad.start()},
            {"QOVERY_API_URL": await other.start(), "QOVERY_BACKUPS_AUDIT_LOG": str(audit / "audit.jsonl")},
            {"QOVERY_API_URL": await Lossy(KEY).start()},
        ]
        servers = [
            stack.enter_context(Served(server, *settings, **(key | environment))) for environment in environments
        ]
        # It could be written to at the start, or the server would not have started.
        shutil.rmtree(audit)
        works, fails, unwritten, loses = (urlsplit(served.rest).netloc for served in servers)
        down, upstream, unaudited = "QoveryBackupsMcpDown", "QoveryBackupsUpstreamFails", "QoveryBackupsUnaudited"
        unknown = "QoveryBackupsOutcomeUnknown"
        alerts = configuration(directory, [works, fails, unwritten, loses, gone])
        expect(set(alerts) == {down, upstream, unaudited, unknown}, alerts)
        command = ["prometheus", f"--config.file={directory}/prometheus.yml", "--log.level=error"]
        command += [f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}"]
        process = subprocess.Popen(command)
        stack.callback(process.wait, timeout=20)
        stack.callback(process.terminate)
        enough = asyncio.Event()
        going_on = [asyncio.create_task(calls(served, enough)) for served in servers]
        prometheus = Prometheus(f"http://{address}")
        asked = queries(json.loads(DEPLOY.joinpath("grafana-dashboard.json").read_text()))
        wanted = {(upstream, fails), (unaudited, unwritten), (unknown, loses), (down, gone)}
        seen = set()

        async def missing():
            for task in going_on:
                if task.done():
                    task.result()
            firing = await prometheus.firing()
            seen.update(firing)
            empty = [title for query, title in asked.items() if not await prometheus.series(query)]
            return empty or wanted - firing

        await until("Prometheus", prometheus.ready)
        await until("the dashboard's series and the alerts", missing)
        expect(seen == wanted, f"these fire, too: {seen - wanted}")
        # The good one was there all the time, and its Qovery was asked.
        attempts = f'qovery_backups_upstream_attempts_total{{instance="{works}",status=~"2.."}}'
        expect(await prometheus.series(f"rate({attempts}[10s]) > 0"), "the good Qovery was not asked")
        enough.set()
        await asyncio.gather(*going_on)
    titles = ", ".join(dict.fromkeys(asked.values()))
    print(f"{len(asked)} queries of the dashboard, each with series: {titles}")
    print(f"firing: {', '.join(name for name, _ in sorted(wanted))}, each for one instance of five")


with tempfile.TemporaryDirectory() as directory:
    asyncio.run(watched(sys.argv[1], directory))
