// The external system: oidc-provider, which the OpenID Foundation has certified, with its own pages
// for signing in and consenting. It requires PKCE of everybody and can answer in every response
// mode, signed ones too (JARM).
//
// Configuration: `name` keeps the cookies of two providers on one host apart, `clients` are
// registrations in the words of RFC 7591, `certificate` and `key` are files for TLS.

import { generateKeyPairSync, randomBytes } from 'node:crypto';

import Provider from 'oidc-provider';

import { configuration, listen, serve } from './leash.mjs';

const { name, clients } = configuration;
const { server, url } = await listen();
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

const provider = new Provider(url, {
  clients,
  cookies: {
    keys: [randomBytes(32).toString('hex')],
    names: {
      interaction: `${name}_interaction`,
      resume: `${name}_interaction_resume`,
      session: `${name}_session`,
    },
  },
  features: { jwtResponseModes: { enabled: true } },
  findAccount: (_ctx, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig' }] },
  pkce: { required: () => true },
});
server.on('request', provider.callback());
await serve({ url });
