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
row('the tools', [tokens(JSON.stringify(shown)), 900, 'tokens']);

// "How many backups does orders have, from when to when, and did any fail?"
const report = await host.call(LIST, { databaseId });
const { total, failed, oldest, newest } = report.summary;
assert.deepEqual([total, failed, report.backups.length], [27, 1, 27]);
assert.ok(oldest < newest);
let took = host.took();
row('a report', [took.calls, 1, 'calls'], [took.characters, 4500, 'characters']);

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

// "Which databases have no good backup of the last 24 hours?"
const every = await host.call(LIST, {});
const late = every.databases.filter(({ newest_finished: newest }) => !newest || newest.age_hours > 24);
assert.deepEqual([every.complete, late.map(({ name }) => name)], [true, ['archive']]);
took = host.took();
row('all databases', [took.calls, 1, 'calls'], [took.characters, 1500, 'characters']);

// "Back up every database, and tell me when all are finished."
const databases = (await host.call(LIST, {})).databases;
for (const { id } of databases) {
    const { id: backupId } = await host.call(ADD, { databaseId: id, name: 'before-the-move' });
    const { backups } = await host.call(LIST, { databaseId: id, backupId });
    assert.equal(backups[0].condition, 'finished');
}
row('a backup of each database', [host.took().calls, 1 + 2 * databases.length, 'calls']);
await host.client.close();

// An upstream that lists the oldest first, with other ids than the sandbox, and a host with a server for it.
async function real(rows, ...args) {
    const results = rows.map(([name, date]) => {
        const status = { state: 'READY', last_deployment_date: date };
        return { id: randomUUID(), created_at: date, name, message: 'Scheduled.', status };
    });
    const upstream = createServer((request, response) => {
        const { pathname, searchParams } = new URL(request.url, 'http://localhost');
        const at = id => results.findIndex(row => row.id === id);
        if (request.method === 'DELETE') {
            results.splice(at(pathname.split('/').at(-1)), 1);
            response.writeHead(204).end();
            return;
        }
        const start = at(searchParams.get('startId')) + 1;
        const page = { results: results.slice(start, start + 20), page: 1, page_size: 20 };
        response.setHeader('Content-Type', 'application/json');
        response.end(JSON.stringify(pathname.endsWith('/backup') ? page : { name: 'orders' }));
    });
    await new Promise(listening => upstream.listen(0, '127.0.0.1', listening));
    const env = { QOVERY_API_URL: `http://127.0.0.1:${upstream.address().port}`, QOVERY_API_KEY: 'qov_test' };
    const host = await Host.of(['--log=warn', ...args], env);
    const close = async () => {
        await host.client.close();
        upstream.close();
    };
    return { host, results, close };
}

// What an agent reads of a real database.
const twenty = Array.from({ length: 20 }, (_, day) => [
    `nightly-${day + 1}`,
    `2026-11-${String(day + 5).padStart(2, '0')}T03:00:00Z`
]);
const short = await real(twenty);
const { text, backups } = await short.host.call(LIST, { databaseId });
assert.equal(backups.length, 20);
row('a list of 20 with random ids', [tokens(text), 1360, 'tokens']);
await short.close();

// "Remove those older than 30 days." Two of the 42 are kept by a rule.
const HOUR = 3600 * 1000;
const DAY = 24 * HOUR;
const made = number => new Date(Date.now() - 30 * DAY + (number - 41.5) * 6 * HOUR).toISOString();
const many = await real(
    Array.from({ length: 150 }, (_, number) => [`backup-${number}`, made(number)]),
    '--keep-latest=110'
);
const createdBefore = new Date(Date.now() - 30 * DAY).toISOString();
const old = await many.host.call(LIST, { databaseId, createdBefore });
assert.deepEqual([old.summary.total, old.matching, old.backups.length], [150, 42, 42]);
const removable = old.backups.filter(backup => !backup.protected).map(backup => backup.id);
const cleaned = await many.host.call(REMOVE, { databaseId, backupIds: removable });
assert.deepEqual([cleaned.outcome, removable.length, cleaned.remaining], ['removed', 40, 110]);
assert.deepEqual([many.results.length, many.results[0].name], [110, 'backup-40']);
took = many.host.took();
row('remove 40 old ones of 150', [took.calls, 2, 'calls'], [took.questions, 1, 'questions']);
await many.close();
