// Removes backups of the sandbox through version 1 or 2 of the TypeScript client, gives the answers that
// it is told to what it is asked, and prints what came of each, a line of JSON, for asked.py to judge.
//
// Usage: asked.mjs <npm directory> <v1 or v2> <era> <cases>

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [npm, generation, era, cases] = process.argv.slice(2);
const require = createRequire(join(npm, 'package.json'));
const sdk =
    generation === 'v1'
        ? {
              ...require('@modelcontextprotocol/sdk/client/index.js'),
              ...require('@modelcontextprotocol/sdk/client/stdio.js'),
              ...require('@modelcontextprotocol/sdk/client/streamableHttp.js'),
              question: require('@modelcontextprotocol/sdk/types.js').ElicitRequestSchema,
              // To it, an empty capability means a form.
              elicitation: {}
          }
        : {
              ...require('@modelcontextprotocol/client'),
              ...require('@modelcontextprotocol/client/stdio'),
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
    // Version 1 tells it to the transport alone.
    const told = transport.setProtocolVersion?.bind(transport);
    transport.setProtocolVersion = spoken => {
        version = spoken;
        told?.(spoken);
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
