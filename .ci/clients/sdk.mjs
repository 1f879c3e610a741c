// Connects a release of version 1 or 2 of the TypeScript client to the server, over stdio or HTTP.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const timeout = { timeout: 10_000 };

// `server` is a command as a list, or a URL. `answer` is given to each question; without it the client declares no
// elicitation. Gives the client's calls, the version that it speaks, and the questions that it was asked.
export async function connect({ npm, name, era, server, token, answer }) {
    const first = name !== '@modelcontextprotocol/client';
    const require = createRequire(join(npm, 'package.json'));
    const sdk = first
        ? {
              ...require(`${name}/client/index.js`),
              ...require(`${name}/client/stdio.js`),
              ...require(`${name}/client/streamableHttp.js`)
          }
        : { ...require(name), ...require(`${name}/stdio`) };
    // To version 1, an empty capability means a form.
    const elicitation = first ? {} : { form: {} };
    const mode = ['legacy', 'auto'].includes(era) ? era : { pin: era };
    const client = new sdk.Client(
        { name: 'gate', version: '1' },
        { capabilities: answer ? { elicitation } : {}, versionNegotiation: { mode } }
    );
    const faults = [];
    client.onerror = error => faults.push(error);
    const questions = [];
    if (answer) {
        const method = first ? require(`${name}/types.js`).ElicitRequestSchema : 'elicitation/create';
        client.setRequestHandler(method, ({ params }) => {
            questions.push({ message: params.message, schema: params.requestedSchema });
            return answer;
        });
    }

    let version;
    // Version 1 keeps the version over stdio to itself; it is in the result of its first request.
    const request = client.request.bind(client);
    client.request = async (...parameters) => {
        const result = await request(...parameters);
        version ??= result.protocolVersion;
        return result;
    };
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const transport = Array.isArray(server)
        ? new sdk.StdioClientTransport({ command: server[0], args: server.slice(1) })
        : new sdk.StreamableHTTPClientTransport(new URL(server), { requestInit: { headers } });
    await client.connect(transport, timeout);
    if (!first) version = client.getNegotiatedProtocolVersion();
    // From here on the client checks each result against the tool's schema.
    const { tools } = await client.listTools(undefined, timeout);

    // Version 1 takes the result's schema before the options.
    const options = first ? [undefined, timeout] : [timeout];
    return {
        version,
        tools,
        questions,
        callTool: (name, args) => client.callTool({ name, arguments: args }, ...options),
        async close() {
            assert.deepEqual(faults, [], 'the transport had errors');
            await client.close();
        }
    };
}
