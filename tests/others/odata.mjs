// An OData V4 service in Dynamics' place: SAP's CAP, with SQLite in memory. jose checks the tokens.
//
// Configuration: `issuer` and `keys` of Entra, and `certificate` and `key`, files for TLS.
// Question: `{rows: true}` gives what is stored.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

import { createRemoteJWKSet, jwtVerify } from 'jose';

import { configuration, listen, serve } from './leash.mjs';

const require = createRequire(import.meta.url);
const cds = require('@sap/cds');
const express = require('express');

const { server, url } = await listen();
const keys = createRemoteJWKSet(new URL(configuration.keys));

async function authenticate(request, answer, next) {
  const [, token] = /^Bearer (\S+)$/.exec(request.get('authorization') ?? '') ?? [];
  try {
    await jwtVerify(token ?? '', keys, { issuer: configuration.issuer, audience: url });
  } catch {
    answer.status(401).set('WWW-Authenticate', 'Bearer').end();
    return;
  }
  next();
}

cds.root = fileURLToPath(new URL('.', import.meta.url));
const csn = await cds.load('callbacks.cds');
cds.model = cds.compile.for.nodejs(csn);
cds.db = await cds.connect.to('db');
await cds.deploy(csn).to(cds.db);
const app = express();
app.use(authenticate);
await cds.serve('all').in(app);
server.on('request', app);

await serve({ url: `${url}/data/OAuthCallbacks` }, async () => ({
  rows: await cds.run(SELECT.from('Callbacks')), // SELECT is a global of CAP's
}));
