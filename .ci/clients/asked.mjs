// Removes backups of the sandbox through a release of version 1 or 2 of the TypeScript client, with the answers of
// the cases, and prints the result of each, a line of JSON, for asked.py to check.
//
// Usage: asked.mjs <npm directory> <package> <era> <cases>

import assert from 'node:assert/strict';
import { connect } from './sdk.mjs';

const [npm, name, era, cases] = process.argv.slice(2);
const databaseId = '0de50000-0000-4000-8000-000000000001';

// The outcome, the code of a protocol error, or a refusal; and its text.
async function removal(client, backupId) {
    let result;
    try {
        result = await client.callTool('remove-database-backup', { databaseId, backupId });
    } catch (error) {
        return { came: error.code, text: error.message };
    }
    const text = result.content[0].text;
    if (result.isError) return { came: 'refused', text };
    assert.deepEqual(JSON.parse(text), result.structuredContent, 'the text is not the structure');
    return { came: result.structuredContent.outcome, text };
}

async function listed(client) {
    const result = await client.callTool('list-database-backups', { databaseId });
    return result.structuredContent.backups.map(({ id, name }) => ({ id, name }));
}

for (const { server, backup, answer } of JSON.parse(cases)) {
    const client = await connect({ npm, name, era, server, answer });
    const before = await listed(client);
    const result = await removal(client, backup);
    const after = await listed(client);
    await client.close();
    const { version, questions } = client;
    console.log(JSON.stringify({ version, ...result, before, after, questions }));
}
