// Does chores of a person with the sandbox through version 2 of the TypeScript client, and counts what they
// take of a model: calls, characters and tokens, and of a person: questions.
//
// Usage: chores.mjs <npm directory> <server>

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [npm, server] = process.argv.slice(2);
const require = createRequire(join(npm, 'package.json'));
const { Client } = require('@modelcontextprotocol/client');
const { StdioClientTransport } = require('@modelcontextprotocol/client/stdio');
const { encode } = require('gpt-tokenizer/encoding/o200k_base');

const LIST = 'list-database-backups';
const ADD = 'add-backup-database';
const REMOVE = 'remove-database-backup';
const databaseId = '0de50000-0000-4000-8000-000000000001';
const timeout = { timeout: 30_000 };
const tokens = text => encode(text).length;

// A host, with what its model has had to read since it was last asked.
class Host {
    calls = 0;
    characters = 0;
    questions = [];

    static async of(args, env) {
        const host = new Host();
        host.client = new Client(
            { name: 'gate', version: '1' },
            { capabilities: { elicitation: { form: {} } }, versionNegotiation: { mode: { pin: '2026-07-28' } } }
        );
        host.client.setRequestHandler('elicitation/create', ({ params }) => {
            host.questions.push(params.message);
            return { action: 'accept', content: { remove: true } };
        });
        await host.client.connect(new StdioClientTransport({ command: server, args, env }), timeout);
        return host;
    }

    async call(name, args) {
        const result = await this.client.callTool({ name, arguments: args }, timeout);
        const text = result.content[0].text;
        this.calls += 1;
        this.characters += [...text].length;
        return result.isError ? text : { text, ...JSON.parse(text) };
    }

    took() {
        const { calls, characters, questions } = this;
        Object.assign(this, { calls: 0, characters: 0, questions: [] });
        return { calls, characters, questions: questions.length };
    }
}

// A figure, and what it may be at most.
function row(what, ...figures) {
    for (const [value, most, unit] of figures) {
        assert.ok(value <= most, `${what}: ${value} ${unit}, and at most ${most}`);
    }
    console.log(`${what}: ${figures.map(([value, most, unit]) => `${value} of ${most} ${unit}`).join(', ')}`);
}

const host = await Host.of(['--sandbox', '--log=warn']);
const { tools } = await host.client.listTools(undefined, timeout);
const shown = tools.map(({ name, description, inputSchema }) => ({ name, description, inputSchema }));
row('the tools', [tokens(JSON.stringify(shown)), 1000, 'tokens']);

// "How many backups does orders have, from when to when, and did any fail?"
const report = await host.call(LIST, { databaseId });
const { total, failed, oldest, newest } = report.summary;
assert.deepEqual([total, failed, report.backups.length], [27, 1, 27]);
assert.ok(oldest < newest);
let took = host.took();
row('a report', [took.calls, 1, 'calls'], [took.characters, 5000, 'characters']);

// "Back it up before I migrate, and tell me when it is safe."
const added = await host.call(ADD, { databaseId, name: 'before-migration' });
const waited = await host.call(LIST, { databaseId, backupId: added.id });
assert.equal(waited.backups[0].condition, 'finished');
took = host.took();
row('a backup', [took.calls, 2, 'calls'], [took.characters, 1000, 'characters']);

// "Keep the newest ten."
const all = await host.call(LIST, { databaseId });
const backupIds = all.backups.slice(10).map(backup => backup.id);
const removed = await host.call(REMOVE, { databaseId, backupIds });
assert.deepEqual([removed.outcome, backupIds.length, removed.remaining], ['removed', 18, 10]);
took = host.took();
row('keep ten of 28', [took.calls, 2, 'calls'], [took.questions, 1, 'questions']);

// "What does sessions have?"
const summary = await host.call(LIST, { databaseId: 'sessions' });
const [id] = summary.match(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/);
assert.equal((await host.call(LIST, { databaseId: id })).summary.total, 1);
row('a database by its name', [host.took().calls, 2, 'calls']);
await host.client.close();

// What an agent reads of a real database has other ids than the sandbox.
const results = Array.from({ length: 20 }, (_, number) => {
    const date = `2026-11-${String(24 - number).padStart(2, '0')}T03:00:00Z`;
    const status = { state: 'READY', last_deployment_date: date };
    return { id: randomUUID(), created_at: date, name: `nightly-${20 - number}`, message: 'Scheduled.', status };
});
const upstream = createServer((request, response) => {
    const isList = request.url.endsWith('/backup');
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify(isList ? { results, page: 1, page_size: 50 } : { name: 'orders' }));
});
await new Promise(listening => upstream.listen(0, '127.0.0.1', listening));
const env = { QOVERY_API_URL: `http://127.0.0.1:${upstream.address().port}`, QOVERY_API_KEY: 'qov_test' };
const real = await Host.of(['--log=warn'], env);
const { text, backups } = await real.call(LIST, { databaseId });
assert.equal(backups.length, 20);
row('a list of 20 with random ids', [tokens(text), 1450, 'tokens']);
await real.client.close();
upstream.close();
