"""Checks that `rust-version` is what the program's dependencies ask for: not lower, which would be
a promise that they break, and not higher, which would shut people out for nothing."""

import json
import subprocess
import sys


def cargo(*arguments):
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def number(version):
    parts = [int(part) for part in version.split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


metadata = json.loads(cargo("metadata", "--format-version=1"))
packages = {(package["name"], package["version"]): package for package in metadata["packages"]}
# The tree, and not the metadata's graph, leaves out what only a test's features pull in.
tree = cargo("tree", "--edges=normal,build", "--prefix=none", "--no-dedupe", "--format={p}")
used = {(name, version.removeprefix("v")) for name, version, *_ in map(str.split, tree.splitlines())}

(ours,) = [p for p in metadata["packages"] if p["id"] == metadata["resolve"]["root"]]
used.remove((ours["name"], ours["version"]))
asking = [packages[key] for key in used if packages[key]["rust_version"]]
if not asking:
    sys.exit("No dependency asks for a version of Rust, which cannot be.")

highest = max(number(package["rust_version"]) for package in asking)
who = ", ".join(
    sorted(
        f"{package['name']} {package['version']} asks for {package['rust_version']}"
        for package in asking
        if number(package["rust_version"]) == highest
    )
)
print(f"Cargo.toml says {ours['rust_version']}; of {len(used)} dependencies, {who}")
if number(ours["rust_version"] or "0") != highest:
    sys.exit("rust-version in Cargo.toml must be the highest that a dependency asks for.")
