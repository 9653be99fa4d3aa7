// What the programs in this folder have in common. Each is a child of the tests: it reads one JSON
// text from each line of standard input and writes one to each line of standard output, the first
// input is its configuration and the first output says that it is ready. When standard input ends
// it exits, so that none can outlive the tests.

import { Console } from 'node:console';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createInterface } from 'node:readline';

// Standard output is for answers: what the libraries have to say goes elsewhere.
globalThis.console = new Console(process.stderr, process.stderr);

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function hear() {
  const { value, done } = await lines.next();
  if (done) process.exit(0);
  return JSON.parse(value);
}

function say(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

/** Returns the configuration, an object. */
export const configuration = await hear();

/**
 * Listens on a free port of 127.0.0.1; with TLS if the configuration names files for it, as
 * `certificate` and `key`. Returns the server and its URL. Requests wait for a handler.
 */
export async function listen() {
  const { certificate, key } = configuration;
  const server = certificate
    ? createTlsServer({ cert: readFileSync(certificate), key: readFileSync(key) })
    : createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const url = `${certificate ? 'https' : 'http'}://127.0.0.1:${server.address().port}`;
  return { server, url };
}

/** Says that everything is ready, with `facts`, then answers questions until the input ends. */
export async function serve(facts, answer = () => ({})) {
  say(facts);
  for (;;) {
    const question = await hear();
    try {
      say(await answer(question));
    } catch (error) {
      // RFC 6749 section 5.2 has the first. Not the message: it may quote a code or a token.
      say({ failed: error.error ?? error.code ?? error.name });
    }
  }
}
