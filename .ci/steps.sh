# What the gate (run) and the nightly share. Each sources this file, defines `steps` and one function for each
# step, and ends with `main "$@"`.
#
# A step is a line of `steps`: the name of its function, the steps that it needs where it runs alone (separated
# by commas, or -), and its title.
#
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
server=$target/release/qovery-backups-mcp
# Installed tools and results. Safe to delete.
cache=$target/ci
mkdir -p "$cache"
export PATH="$cache/bin:$PATH" CARGO_TERM_COLOR=never DEBIAN_FRONTEND=noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

largest_binary=9750000
deny_version=0.20.2
# The conformance suite and the Inspector need a newer Node than Debian's.
node_version=22.23.3
node=$cache/node/node_modules/.bin/node
# Where the clients' packages are. The nightly has its own.
npm=$cache/npm
venv=$cache/venv

title='the preparation'
trap 'code=$?; ((code == 0)) || printf "\nFAILED with %d (124: timeout): %s\n" "$code" "$title" >&2' EXIT

limit() { timeout --kill-after=10 "$@"; }

fail() {
    echo "$*" >&2
    exit 1
}

# Installs Debian packages, each given as `path:package`, unless the command or file `path` exists. All clients
# need Python's venv, which Debian splits off.
debian() {
    local entry packages=()
    for entry; do
        [[ -e ${entry%%:*} ]] || command -v "${entry%%:*}" >/dev/null || packages+=("${entry#*:}")
    done
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
    ((${#packages[@]} == 0)) && return
    limit 300 apt-get update -qq
    limit 600 apt-get install -qq --yes --no-install-recommends "${packages[@]}"
}

# Fills a folder of the cache by a command, unless it was filled with the same inputs before.
fill() {
    local folder=$1 inputs=$2
    [[ $(cat "$folder/complete" 2>/dev/null) == "$inputs" ]] && return
    rm -rf "$folder"
    "${@:3}"
    echo "$inputs" >"$folder/complete"
}

# A virtual environment with what the arguments tell pip to install. Its inputs are these and their files.
python_venv() { fill "$1" "${*:2} $(cat .ci/clients/*.txt | sha256sum)" make_venv "$@"; }

make_venv() {
    limit 120 python3 -m venv "$1"
    limit 900 "$1/bin/pip" install --quiet "${@:2}"
}

# A folder with these packages of npm. Install scripts do not run.
npm_packages() { fill "$1" "${*:2}" npm_install "$@"; }

npm_install() {
    limit 900 npm install --prefix "$1" --loglevel=error --no-audit --no-fund --ignore-scripts --save-exact "${@:2}"
}

# Node itself comes from npm: its package links to the binary of one platform.
install_node() {
    local package
    package=node-linux-$(node -p process.arch)
    npm_packages "$cache/node" "$package@$node_version"
    mkdir -p "$(dirname "$node")"
    ln -sfn "../$package/bin/node" "$node"
    [[ $("$node" --version) == "v$node_version" ]] || fail "This is not Node $node_version."
}

# A binary of a crate, built without optimization: that is sooner done and fast enough.
cargo_binary() {
    fill "$cache/$1" "$2" limit 900 cargo install --quiet --locked --debug --root "$cache/$1" "$1" --version "$2"
    mkdir -p "$cache/bin"
    ln -sfn "../$1/bin/$1" "$cache/bin/$1"
}

deny() { limit 180 cargo-deny --locked --config .ci/deny.toml "$@"; }

# A client of .ci/clients, with its time limit in seconds. Its first argument is the server.
client() { limit "$1" "$venv/bin/python" ".ci/clients/$2.py" "$server" "${@:3}"; }

# Runs the README's test command, so that the README stays true, with these variables set.
readme_tests() {
    local commands=() words
    mapfile -t commands < <(awk '
        /^```/ { inside = !inside; shell = inside && /^```sh[[:space:]]*$/; next }
        shell && /^cargo test/ { sub(/[[:space:]]+(#.*)?$/, ""); print }' README.md | sort -u)
    ((${#commands[@]} == 1)) || fail "README.md has ${#commands[@]} test commands, not one: ${commands[*]}"
    # Not run by a shell, so nothing like `|| true` can hide a failure.
    [[ ${commands[0]} =~ ^cargo\ test(\ [[:alnum:]_=./-]+)*$ ]] || fail "Not a plain command: ${commands[0]}"
    read -ra words <<<"${commands[0]}"
    echo "$* ${commands[0]}"
    limit 900 env "$@" "${words[@]}" 2>&1 | tee "$cache/tests.log"
    grep -q '^test result: ok\. [1-9]' "$cache/tests.log" || fail "No test ran."
}

release() {
    limit 900 cargo build --locked --release
    local size
    size=$(stat --format=%s "$server")
    echo "$size bytes of at most $largest_binary"
    ((size <= largest_binary)) || fail "The binary is too large."
}

# Runs one step with a heading and its duration. Never call this, or a step, where bash ignores a failure
# inside: behind `if`, `!`, `&&` or `||`.
run() {
    local start=$SECONDS
    read -r _ _ title <<<"${row[$1]}"
    printf '\n== %s\n' "$title"
    "$1"
    printf -- '-- %d s\n' $((SECONDS - start))
}

# Runs the named step, after those that it needs; without a name all of them, by the script's `run_all`.
main() {
    local step needs
    declare -gA row
    for step in "${steps[@]}"; do row[${step%% *}]=$step; done
    if (($# == 0)); then
        run_all "${steps[@]%% *}"
        printf '\n== All steps passed, in %d s\n' "$SECONDS"
        grep '^test result:' "$cache/tests.log" | sort --stable --key=4,4n
        return
    fi
    (($# == 1)) && [[ -v "row[$1]" ]] || fail "The steps are: ${steps[*]%% *}"
    read -r _ needs _ <<<"${row[$1]}"
    for step in ${needs//[-,]/ } "$1"; do run "$step"; done
}
