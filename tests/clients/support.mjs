// What the Node scripts share: the modules, arguments, deadlines, and the broker's restart.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const SECONDS_MAX = 15;
const modules = process.env.SAPWOOD_NODE_MODULES;
assert(modules, 'SAPWOOD_NODE_MODULES is not set: the scripts are run by the Rust tests');
export const require = createRequire(join(modules, '..', 'scripts.cjs'));

export const port = Number(process.argv[2]);
/** The version of RESP as a number; NaN for another protocol. */
export const protocol = Number(process.argv[3]);
export const password = process.argv[4];

export const ALL_BYTES = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
export const PAYLOADS = [
  Buffer.alloc(0),
  Buffer.from('hello there'),
  ALL_BYTES,
  Buffer.from('\r\n$5\r\nhello\r\n'),
  Buffer.concat(Array.from({ length: 4096 }, () => ALL_BYTES)),
];

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export async function restartBroker() {
  console.log('@restart');
  const { value } = await within('the restart', lines.next());
  assert.equal(value, '@done');
}

/** The promise's value, or an error that names what did not come in time. */
export async function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${SECONDS_MAX} s: ${what}`)), SECONDS_MAX * 1000);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Calls until it is true. Each call is a round trip to the broker, or waits for something by itself. */
export async function until(what, check) {
  const deadline = Date.now() + SECONDS_MAX * 1000;
  while (Date.now() < deadline) {
    const result = await within(what, check());
    if (result) return result;
  }
  throw new Error(`not within ${SECONDS_MAX} s: ${what}`);
}

/** What an event brings, in order, to be awaited one by one. */
export class Heard {
  #items = [];
  #waiting = [];

  push = (...args) => {
    const item = args.length === 1 ? args[0] : args;
    const waiting = this.#waiting.shift();
    if (waiting) waiting(item);
    else this.#items.push(item);
  };

  next(what = 'a message') {
    if (this.#items.length > 0) return Promise.resolve(this.#items.shift());
    return within(what, new Promise((resolve) => this.#waiting.push(resolve)));
  }

  async several(count) {
    const items = [];
    while (items.length < count) items.push(await this.next());
    return items;
  }

  get isEmpty() {
    return this.#items.length === 0;
  }
}

export const equal = (got, wanted, what) => {
  if (Buffer.isBuffer(got) && Buffer.isBuffer(wanted)) {
    // Not by assert: its message would hold a mebibyte.
    if (!got.equals(wanted)) throw new Error(`${what ?? 'payload'}: ${got.length} bytes differ from ${wanted.length}`);
    return;
  }
  assert.deepEqual(plain(got), wanted, what);
};

/** Maps of replies have no prototype. */
function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value !== null && typeof value === 'object' && !Buffer.isBuffer(value) && !(value instanceof Error)) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
  }
  return value;
}

export async function rejects(part, promise) {
  await assert.rejects(within('a refusal', promise), (error) => {
    // node-redis has the errors of a transaction behind a generator, AggregateError in an array.
    const errors = typeof error.errors === 'function' ? error.errors() : (error.errors ?? []);
    const text = [error, ...errors].map(String).join('; ');
    assert(text.includes(part), `wanted an error with ${part}, got ${text}`);
    return true;
  });
}

/** Runs the checks in order; one that fails stops no other. Ends the process. */
export async function run(checks) {
  const wrong = [];
  for (const check of checks) {
    const started = Date.now();
    try {
      await within(check.name, check());
    } catch (error) {
      console.error(`${check.name}:`, error);
      wrong.push(check.name);
    }
    console.log(`${check.name}: ${Date.now() - started} ms`);
  }
  if (wrong.length > 0) console.error(`FAILED with protocol ${process.argv[3]}: ${wrong.join(', ')}`);
  process.exit(wrong.length === 0 ? 0 : 1);
}

process.on('unhandledRejection', (error) => {
  console.error('FAILED, an unhandled rejection:', error);
  process.exit(1);
});
