// The OAuth client in Dynamics' place: openid-client, certified too. What it knows of a flow is what
// a row of the data entity has.
//
// Configuration: `providers` maps a name to `issuer`, `client_id` and `client_secret`. Questions:
// `{start: name, redirect_uri, response_mode}` gives a URL for the person, and what to remember;
// `{finish: name, state, code_verifier, row}` redeems the row's code, refreshes the tokens and asks
// the provider who the person is.

import * as client from 'openid-client';

import { configuration, serve } from './leash.mjs';

const SCOPE = 'openid offline_access';
const discovered = new Map();

async function discover(name) {
  if (!discovered.has(name)) {
    const { issuer, client_id: id, client_secret: secret } = configuration.providers[name];
    discovered.set(name, await client.discovery(new URL(issuer), id, secret));
  }
  return discovered.get(name);
}

async function start({ start: name, response_mode: mode, redirect_uri: redirectUri }) {
  const verifier = client.randomPKCECodeVerifier();
  const state = client.randomState();
  const url = client.buildAuthorizationUrl(await discover(name), {
    redirect_uri: redirectUri,
    scope: SCOPE,
    prompt: 'consent',
    state,
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    ...(mode && { response_mode: mode }),
  });
  return { url: url.href, state, code_verifier: verifier };
}

async function finish({ finish: name, state, code_verifier: pkceCodeVerifier, row }) {
  const provider = await discover(name);
  // The response as the provider sent it, put together again from the row.
  const response = new URL(row.redirect_uri);
  response.search = new URLSearchParams({ code: row.code, state: row.sent_state, iss: row.iss });
  const checks = { pkceCodeVerifier, expectedState: state, idTokenExpected: true };
  const tokens = await client.authorizationCodeGrant(provider, response, checks);
  const { sub } = tokens.claims();
  const refreshed = await client.refreshTokenGrant(provider, tokens.refresh_token);
  const person = await client.fetchUserInfo(provider, refreshed.access_token, sub);
  return { person: person.sub, renewed: refreshed.access_token !== tokens.access_token };
}

await serve({}, (question) => ('start' in question ? start(question) : finish(question)));
