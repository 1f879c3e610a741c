// Works with the sandbox through version 1 or 2 of the TypeScript client, as work.py does, and prints the protocol
// version.
//
// Usage: typescript.mjs <npm directory> <package> <era> <server, as JSON> [<access token>]

import assert from 'node:assert/strict';
import { connect } from './sdk.mjs';

const [npm, name, era, server, token] = process.argv.slice(2);
const client = await connect({ npm, name, era, server: JSON.parse(server), token });

const databaseId = '0de50000-0000-4000-8000-000000000001';
const LIST = 'list-database-backups';
const ADD = 'add-backup-database';
const REMOVE = 'remove-database-backup';
// The sandbox says so in each list.
const UNREAL = 'This is the sandbox: nothing in it is real.';

// The structure that a tool gives. The client itself checks it against the tool's schema.
async function call(name, args) {
    const result = await client.callTool(name, args);
    assert.ok(!result.isError, `${name}: ${JSON.stringify(result.content)}`);
    const structure = result.structuredContent;
    assert.equal(result.content.length, 1);
    assert.deepEqual(JSON.parse(result.content[0].text), structure, `${name}: the text is not the structure`);
    if (name === LIST) assert.ok(structure.note.endsWith(UNREAL), `${name}: it says ${structure.note}`);
    return structure;
}

// The text of a refusal that a model can read: a result, and not an error of the protocol.
async function refused(name, args) {
    const result = await client.callTool(name, args);
    assert.equal(result.isError, true, `${name} was not refused`);
    assert.equal(result.structuredContent, undefined, `${name}: an error has a structure`);
    assert.equal(result.content.length, 1);
    return result.content[0].text;
}

const ids = async () => (await call(LIST, { databaseId })).backups.map(backup => backup.id);

assert.deepEqual(
    client.tools.map(({ name, annotations: a }) => [name, a.readOnlyHint, a.destructiveHint, a.idempotentHint]),
    [
        [LIST, true, false, true],
        [ADD, false, false, false],
        [REMOVE, false, true, true]
    ]
);

const before = await ids();
assert.deepEqual([before.length, new Set(before).size], [27, 27]);

const added = await call(ADD, { databaseId, name: 'gate', message: 'Made by the gate.' });
assert.equal(added.name, 'gate');
assert.deepEqual(await ids(), [added.id, ...before], 'the new backup is not the newest');

assert.match(await refused(REMOVE, { databaseId, backupId: added.id }), /is protected/);
assert.ok((await ids()).includes(added.id), 'the newest was removed');

const removal = await call(REMOVE, { databaseId, backupId: before.at(-1) });
assert.deepEqual([removal.backups[0].id, removal.remaining], [before.at(-1), 27]);
assert.deepEqual(await ids(), [added.id, ...before.slice(0, -1)], 'other backups than the oldest are gone');

assert.match(await refused(LIST, { databaseId: 'orders' }), new RegExp(databaseId));

await client.close();
console.log(JSON.stringify({ version: client.version }));
