// Removes backups of the sandbox through a release of version 1 or 2 of the TypeScript client, gives the answers that
// it is told to what it is asked, and prints what came of each, a line of JSON, for asked.py to judge.
//
// Usage: asked.mjs <npm directory> <package> <era> <cases>

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [npm, name, era, cases] = process.argv.slice(2);
const generation = name === '@modelcontextprotocol/client' ? 'v2' : 'v1';
const require = createRequire(join(npm, 'package.json'));
const sdk =
    generation === 'v1'
        ? {
              ...require(`${name}/client/index.js`),
              ...require(`${name}/client/stdio.js`),
              ...require(`${name}/client/streamableHttp.js`),
              question: require(`${name}/types.js`).ElicitRequestSchema,
              // To it, an empty capability means a form.
              elicitation: {}
          }
        : {
              ...require(name),
              ...require(`${name}/stdio`),
              question: 'elicitation/create',
              elicitation: { form: {} }
          };

const databaseId = '0de50000-0000-4000-8000-000000000001';
const timeout = { timeout: 10_000 };
// Version 1 has the result's schema in between.
const options = generation === 'v1' ? [undefined, timeout] : [timeout];

// What comes of it: the outcome, an error of the protocol, or else a refusal; and in which words.
async function removal(client, backupId) {
    const call = { name: 'remove-database-backup', arguments: { databaseId, backupId } };
    let result;
    try {
        result = await client.callTool(call, ...options);
    } catch (error) {
        return { came: error.code, text: error.message };
    }
    const text = result.content[0].text;
    if (result.isError) return { came: 'refused', text };
    assert.deepEqual(JSON.parse(text), result.structuredContent, 'the text is not the structure');
    return { came: result.structuredContent.outcome, text };
}

async function listed(client) {
    const call = { name: 'list-database-backups', arguments: { databaseId } };
    const result = await client.callTool(call, ...options);
    return result.structuredContent.backups.map(({ id, name }) => ({ id, name }));
}

for (const { server, backup, answer } of JSON.parse(cases)) {
    const client = new sdk.Client(
        { name: 'gate', version: '1' },
        {
            capabilities: answer ? { elicitation: sdk.elicitation } : {},
            versionNegotiation: { mode: era === 'legacy' ? era : { pin: era } }
        }
    );
    const faults = [];
    client.onerror = error => faults.push(error);
    const questions = [];
    if (answer) {
        client.setRequestHandler(sdk.question, ({ params }) => {
            questions.push({ message: params.message, schema: params.requestedSchema });
            return answer;
        });
    }

    const transport = Array.isArray(server)
        ? new sdk.StdioClientTransport({ command: server[0], args: server.slice(1) })
        : new sdk.StreamableHTTPClientTransport(new URL(server));
    let version;
    // Version 1 does not tell; it is in the answer to its first request.
    const request = client.request.bind(client);
    client.request = async (...parameters) => {
        const result = await request(...parameters);
        version ??= result.protocolVersion;
        return result;
    };
    await client.connect(transport, timeout);
    if (generation === 'v2') version = client.getNegotiatedProtocolVersion();

    // From here on it checks each result against the tool's schema.
    await client.listTools(undefined, timeout);
    const before = await listed(client);
    const result = await removal(client, backup);
    const after = await listed(client);
    assert.deepEqual(faults, [], 'the transport had errors');
    await transport.terminateSession?.();
    await client.close();
    console.log(JSON.stringify({ version, ...result, before, after, questions }));
}
