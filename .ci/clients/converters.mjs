// Compiles the schemas of the server's tools with Ajv, as strictly as it can, in both drafts that hosts
// take them for, and holds real answers against them; and has the AI SDK call the tools for a model.
//
// Usage: converters.mjs <npm directory> <server>

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [npm, command] = process.argv.slice(2);
const require = createRequire(join(npm, 'package.json'));
const { createMCPClient } = require('@ai-sdk/mcp');
const { StdioMCPTransport } = require('@ai-sdk/mcp/mcp-stdio');
const { generateText, isStepCount } = require('ai');
const { MockLanguageModelV4 } = require('ai/test');
const { default: Ajv } = require('ajv');
const { default: Ajv2020 } = require('ajv/dist/2020');

const databaseId = '0de50000-0000-4000-8000-000000000001';
const CALLS = {
    'list-database-backups': { databaseId },
    'add-backup-database': { databaseId, name: 'gate' },
    'remove-database-backup': { databaseId, backupId: 'bac00000-0000-4000-8000-000000000001' }
};

function complain(...words) {
    throw new Error(words.join(' '));
}

// What the server logs is no complaint of the client.
const client = await createMCPClient({
    transport: new StdioMCPTransport({ command, args: ['--sandbox'], stderr: 'ignore' }),
    onUncaughtError: complain
});
const definitions = await client.listTools();
assert.deepEqual(definitions.tools.map(({ name }) => name), Object.keys(CALLS));

// A model that calls each tool, and then has nothing more to say.
const usage = {
    inputTokens: { total: 0, noCache: 0, cacheRead: 0, cacheWrite: 0 },
    outputTokens: { total: 0, text: 0, reasoning: 0 }
};
const step = (content, unified) => ({ content, finishReason: { unified, raw: unified }, usage, warnings: [] });
const calls = Object.entries(CALLS).map(([toolName, input]) => ({
    type: 'tool-call',
    toolCallId: toolName,
    toolName,
    input: JSON.stringify(input)
}));
const model = new MockLanguageModelV4({
    doGenerate: [step(calls, 'tool-calls'), step([{ type: 'text', text: 'Done.' }], 'stop')]
});
const { steps } = await generateText({
    model,
    tools: client.toolsFromDefinitions(definitions),
    prompt: 'Call each.',
    stopWhen: isStepCount(2)
});
await client.close();

// It hands schemas on as they are, so there is none that it chokes on.
const given = model.doGenerateCalls[0].tools;
const answers = {};
for (const { toolName, output } of steps[0].toolResults) {
    assert.ok(!output.isError, `${toolName}: ${JSON.stringify(output)}`);
    answers[toolName] = output.structuredContent;
}
for (const { name, inputSchema } of definitions.tools) {
    const { additionalProperties, ...rest } = given.find(tool => tool.name === name).inputSchema;
    assert.equal(additionalProperties, false);
    const { additionalProperties: _, ...before } = inputSchema;
    assert.deepEqual(rest, before, `AI SDK: ${name} is another`);
    assert.ok(answers[name], `AI SDK: ${name} gave no structure`);
}
console.log(`AI SDK: ${given.length} tools, called`);

const logger = { log: complain, warn: complain, error: complain };
const object = property => ({ type: 'object', properties: { a: property } });
const BAD = [
    object({ $ref: '#/$defs/Absent' }),
    object({ type: 'string', format: 'uuid' }),
    object({ type: ['string', 'integer'] }),
    { ...object({}), required: ['b'] }
];
for (const [draft, Validator] of Object.entries({ 'draft-07': Ajv, '2020-12': Ajv2020 })) {
    const compile = schema => new Validator({ strict: true, strictRequired: true, logger }).compile(schema);
    for (const { name, inputSchema, outputSchema } of definitions.tools) {
        for (const [schema, value] of [[inputSchema, CALLS[name]], [outputSchema, answers[name]]]) {
            const validate = compile(schema);
            assert.ok(validate(value), `Ajv, ${draft}, ${name}: ${JSON.stringify(validate.errors)}`);
            assert.ok(!validate([]), `Ajv, ${draft}, ${name}: it takes anything`);
        }
    }
    for (const bad of BAD) {
        assert.throws(() => compile(bad), `Ajv, ${draft}, does not choke on ${JSON.stringify(bad)}`);
    }
    console.log(`Ajv, ${draft}: two schemas of each tool, with a value each; and ${BAD.length} bad ones`);
}
