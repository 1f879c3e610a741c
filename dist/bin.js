#!/usr/bin/env node
// Runs the program, which is in the package of this platform, as if it had been called itself.
"use strict";

const { spawn } = require("node:child_process");
const { isatty } = require("node:tty");
const { name } = require("./package.json");

const signals = ["SIGTERM", "SIGINT", "SIGHUP"];
const platform = `${process.platform}-${process.arch}`;
const file = `qovery-backups-mcp${process.platform === "win32" ? ".exe" : ""}`;

function fail(problem) {
  process.stderr.write(`qovery-backups-mcp: ${problem}\n`);
  process.exitCode = 1;
}

function run(program) {
  // `process.stdin` is left alone: it would change how the program's own input behaves.
  // At a terminal the program has the other two already, and takes a second one as a wish to hurry.
  const passedOn = isatty(0) ? ["SIGTERM"] : signals;
  // Before there is a child, so that no signal ends this process alone.
  for (const signal of signals) {
    process.on(signal, () => passedOn.includes(signal) && child.kill(signal));
  }
  const child = spawn(program, process.argv.slice(2), { stdio: "inherit" });
  child.on("error", (error) => fail(`${program} cannot be run: ${error.message}`));
  child.on("exit", (code, signal) => {
    if (signal === null) {
      process.exitCode = code;
    } else {
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
    }
  });
}

let program;
try {
  program = require.resolve(`${name}-${platform}/${file}`);
} catch {
  fail(`there is no ${name}-${platform} here: install ${name} anew, with optional dependencies`);
}
if (program) run(program);
