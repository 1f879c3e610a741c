// Signs in at a real identity provider (oidc-provider) with the TypeScript client's own OAuth: discovery from the 401,
// registration, PKCE, token, a refresh that an expired token provokes, calls, and a second sign-in that a missing scope
// provokes. Once for each algorithm, and once with a path before the server's.
//
// Usage: oauth.mjs <npm directory> <server>

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const [npm, server] = process.argv.slice(2);
const require = createRequire(join(npm, 'package.json'));
const { Provider } = require('oidc-provider');
const { exportJWK, generateKeyPair } = require('jose');

const databaseId = '0de50000-0000-4000-8000-000000000001';
const LIST = 'list-database-backups';
const ADD = 'add-backup-database';
const READ = 'backups:read';
const WRITE = 'backups:write';

// An identity provider, whose tokens are signed with this algorithm. It reads from `issue` what the next token is like.
async function startProvider(alg, issue) {
    const http = createServer();
    http.listen(0, '127.0.0.1');
    await once(http, 'listening');
    const issuer = `http://127.0.0.1:${http.address().port}`;
    const { privateKey } = await generateKeyPair(alg, { extractable: true });
    const { privateKey: rsa } = await generateKeyPair('RS256', { extractable: true });
    const key = async (key, alg, kid) => ({ ...(await exportJWK(key)), alg, kid, use: 'sig' });
    // Its ID tokens are RS256.
    const keys = alg === 'RS256' ? [] : [await key(privateKey, alg, 'other')];
    const provider = new Provider(issuer, {
        jwks: { keys: [await key(rsa, 'RS256', 'rsa'), ...keys] },
        cookies: { keys: ['a key of a test'] },
        scopes: ['openid', 'offline_access', READ, WRITE],
        pkce: { required: () => true },
        ttl: { AccessToken: 600, RefreshToken: 600, Grant: 600, Session: 600, Interaction: 600 },
        rotateRefreshToken: true,
        issueRefreshToken: (_, client) => client.grantTypeAllowed('refresh_token'),
        extraTokenClaims: (_, token) => ({ email: `${token.accountId}@example.com` }),
        formats: {
            customizers: {
                jwt(_, token, { payload }) {
                    if (issue.expired) payload.exp = payload.iat - 60;
                    issue.expired = false;
                }
            }
        },
        features: {
            devInteractions: { enabled: true },
            registration: { enabled: true },
            resourceIndicators: {
                enabled: true,
                useGrantedResource: () => true,
                getResourceServerInfo: (_, resource) => ({
                    scope: issue.scope,
                    audience: resource,
                    accessTokenTTL: 600,
                    accessTokenFormat: 'jwt',
                    jwt: { sign: { alg } }
                })
            }
        }
    });
    http.on('request', provider.callback());
    return { issuer, http };
}

// The server with that sign-in. Clients compare the resource with the URL, so that the port is known before.
async function startServer(issuer, port, path) {
    const url = `http://127.0.0.1:${port}${path}`;
    const args = ['http', '--sandbox', '--no-rest', '--mcp-addr', `127.0.0.1:${port}`, '--log-format', 'json'];
    const env = { QOVERY_BACKUPS_OAUTH_ISSUER: issuer, QOVERY_BACKUPS_PUBLIC_URL: url };
    const process = spawn(server, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });
    const callers = new Set();
    const lines = createInterface({ input: process.stderr });
    await new Promise(resolve =>
        lines.on('line', line => {
            const { fields } = JSON.parse(line);
            if (fields.message.startsWith('MCP is listening')) resolve();
            if (fields.message === 'call') callers.add(fields.caller);
        })
    );
    return { url: `${url}/mcp`, process, callers };
}

async function freePort() {
    const listener = createServer().listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const { port } = listener.address();
    listener.close();
    await once(listener, 'close');
    return port;
}

// What a browser does: it follows redirects with cookies and posts the forms, up to the client's own address.
async function browse(start, redirect) {
    const cookies = new Map();
    let [url, options] = [String(start), {}];
    for (let step = 0; step < 20; step += 1) {
        if (url.startsWith(redirect)) return new URL(url).searchParams;
        const cookie = [...cookies].map(pair => pair.join('=')).join('; ');
        const answer = await fetch(url, { ...options, redirect: 'manual', headers: { ...options.headers, cookie } });
        for (const line of answer.headers.getSetCookie()) {
            const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
            cookies.set(name, value);
        }
        const location = answer.headers.get('location');
        const page = await answer.text();
        if (location) {
            [url, options] = [new URL(location, url).href, {}];
            continue;
        }
        const [, action] = page.match(/<form[^>]* action="([^"]+)"/) ?? assert.fail(`${answer.status} at ${url}: ${page}`);
        const prompt = page.match(/name="prompt" value="(\w+)"/)[1];
        const body = new URLSearchParams({ prompt, login: 'ada', password: 'any' });
        [url, options] = [new URL(action, url).href, { method: 'POST', body }];
    }
    assert.fail(`the sign-in does not end: ${url}`);
}

// A person's client. It keeps what the SDK gives it, and counts what the SDK does.
class Person {
    redirectUrl = 'http://127.0.0.1:1/callback';
    signIns = [];
    refreshes = 0;

    clientMetadata = {
        client_name: 'gate',
        redirect_uris: [this.redirectUrl],
        grant_types: ['authorization_code', 'refresh_token'],
        token_endpoint_auth_method: 'none'
    };
    clientInformation() { return this.information; }
    saveClientInformation(information) { this.information = information; }
    tokens() { return this.saved; }
    saveTokens(tokens) {
        if (this.saved && !this.code) this.refreshes += 1;
        this.code = undefined;
        this.saved = tokens;
    }
    saveCodeVerifier(verifier) { this.verifier = verifier; }
    codeVerifier() { return this.verifier; }
    // Version 2 keeps with it at which issuer the sign-in began.
    saveDiscoveryState(discovery) { this.discovery = discovery; }
    discoveryState() { return this.discovery; }
    async redirectToAuthorization(url) {
        this.signIns.push(url);
        this.answer = await browse(url, this.redirectUrl);
        this.code = this.answer.get('code') ?? assert.fail(`no code: ${this.answer}`);
    }
}

// Connects, and signs in first where that is needed.
async function connect(name, person, url) {
    const first = name !== '@modelcontextprotocol/client';
    const sdk = first
        ? { ...require(`${name}/client/index.js`), ...require(`${name}/client/streamableHttp.js`) }
        : require(name);
    let client, transport;
    const open = async () => {
        client = new sdk.Client({ name: 'gate', version: '1' }, {});
        transport = new sdk.StreamableHTTPClientTransport(new URL(url), { authProvider: person });
        await client.connect(transport);
    };
    // The SDK stops where a person has to sign in, and goes on with a new connection.
    const signingIn = async attempt => {
        try {
            return await attempt();
        } catch (error) {
            if (!person.code) throw error;
            await transport.finishAuth(first ? person.code : person.answer);
            await open();
            return await attempt();
        }
    };
    await signingIn(open);
    return {
        async call(name, args) {
            const result = await signingIn(() => client.callTool({ name, arguments: args }));
            assert.ok(!result.isError, `${name}: ${JSON.stringify(result.content)}`);
            return JSON.parse(result.content[0].text);
        },
        tools: async () => (await client.listTools()).tools.map(({ name }) => name),
        close: () => client.close()
    };
}

async function signIn(name, alg, path) {
    const issue = { scope: READ, expired: true };
    const { issuer, http } = await startProvider(alg, issue);
    const backups = await startServer(issuer, await freePort(), path);
    try {
        const person = new Person();
        const client = await connect(name, person, backups.url);
        assert.deepEqual([person.signIns.length, person.refreshes], [1, 1], 'sign-ins and refreshes');
        const { searchParams: asked } = person.signIns[0];
        assert.equal(asked.get('resource'), backups.url);
        assert.equal(asked.get('code_challenge_method'), 'S256');
        assert.ok([READ, WRITE].every(scope => asked.get('scope').split(' ').includes(scope)), asked.get('scope'));
        const [header] = person.saved.access_token.split('.');
        assert.equal(JSON.parse(Buffer.from(header, 'base64url')).alg, alg);
        assert.deepEqual(await client.tools(), [LIST]);
        assert.equal((await client.call(LIST, { databaseId })).backups.length, 27);

        issue.scope = `${READ} ${WRITE}`;
        if (name === '@modelcontextprotocol/sdk') {
            // Version 1 refreshes its token, which gets no other scope, and gives up: the person signs in anew.
            await assert.rejects(client.call(ADD, { databaseId, name: 'gate' }), { code: 403 });
            person.saved = undefined;
            person.refreshes = 1;
        }
        await client.call(ADD, { databaseId, name: 'gate' });
        assert.deepEqual([person.signIns.length, person.refreshes], [2, 1], 'sign-ins and refreshes');
        assert.equal((await client.tools()).length, 3);
        assert.equal((await client.call(LIST, { databaseId })).backups.length, 28);
        await client.close();
        assert.ok(backups.callers.has('ada@example.com (127.0.0.1)'), [...backups.callers].join());
    } finally {
        backups.process.kill();
        http.close();
        http.closeAllConnections();
    }
}

const runs = [
    ['@modelcontextprotocol/client', 'RS256', ''],
    ['@modelcontextprotocol/sdk', 'ES256', ''],
    ['@modelcontextprotocol/client', 'EdDSA', '/behind/a/path']
];
for (const run of runs) {
    await signIn(...run);
    console.log(run.join(' '));
}
