// Event streams in headless Chromium, from pages of two origins that are not the broker's: one that `--http-origin` names, and
// another. Arguments: the port of HTTP, `web`, and the password if there is one. The environment has the rest.

import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';

import { equal, password, port, require, run, within } from './support.mjs';

const { chromium } = require('playwright-core');
const broker = `http://127.0.0.1:${port}`;
const authorization = password === undefined ? {} : { Authorization: `Bearer ${password}` };

const imports = { eventsource: '/eventsource/dist/index.js', 'eventsource-parser': '/eventsource-parser/dist/index.js' };
const HTML = `<!doctype html><title>elsewhere</title>
<script type="importmap">${JSON.stringify({ imports })}</script>
<script src="/event-source-polyfill/src/eventsource.js"></script>
<script type="module">import { EventSource } from 'eventsource'; window.FromPackage = EventSource;</script>`;

/** Serves a page with the libraries; returns its origin. */
async function origin(at) {
  const server = createServer(async ({ url }, response) => {
    const isPage = url === '/';
    const body = isPage ? HTML : await readFile(join(process.env.SAPWOOD_NODE_MODULES, url)).catch(() => '');
    response.setHeader('Content-Type', isPage ? 'text/html' : 'text/javascript');
    response.end(body);
  });
  server.listen(at, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${server.address().port}`;
}

const named = await origin(Number(process.env.SAPWOOD_TEST_ORIGIN_PORT));
const other = await origin(0);
const browser = await chromium.launch({ executablePath: process.env.SAPWOOD_TEST_CHROMIUM });
const httpCredentials = password && { username: 'default', password };

async function page(from) {
  const context = await browser.newContext({ httpCredentials });
  const page = await context.newPage();
  await page.goto(from);
  await page.waitForFunction(() => window.FromPackage !== undefined);
  return page;
}

/** The ways in which a script opens a stream. Those with headers of their own make the browser ask beforehand. */
const WAYS = ['native', 'package', 'package with headers', 'polyfill', 'polyfill with headers'];

/** Opens a stream of a topic: `open` or `refused`. */
const open = (page, way, topic) => within(`${way} of ${topic}`, page.evaluate(([way, url, headers]) => {
  const more = { ...headers, 'Cache-Control': 'no-cache', 'Last-Event-ID': '7', 'X-Requested-With': 'XMLHttpRequest' };
  const sources = {
    native: () => new EventSource(url, { withCredentials: true }),
    package: () => new FromPackage(url, { withCredentials: true }),
    'package with headers': () => new FromPackage(url, {
      withCredentials: true,
      fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...more } }),
    }),
    polyfill: () => new EventSourcePolyfill(url, { withCredentials: true }),
    'polyfill with headers': () => new EventSourcePolyfill(url, { withCredentials: true, headers: more }),
  };
  const source = sources[way]();
  window.data = new Promise((resolve) => source.addEventListener('message', (event) => resolve(event.data)));
  return new Promise((resolve) => {
    source.addEventListener('open', () => resolve('open'));
    source.addEventListener('error', () => {
      source.close();
      resolve('refused');
    });
  });
}, [way, `${broker}/v1/topics/${topic}`, authorization]));

async function aNamedOriginHears() {
  const from = await page(named);
  for (const [place, way] of WAYS.entries()) {
    const topic = `from.${place}`;
    equal(await open(from, way, topic), 'open', way);
    const published = await fetch(`${broker}/v1/topics/${topic}`, { method: 'POST', body: 'x', headers: authorization });
    equal(await published.json(), { count: 1 }, way);
    const data = await within(way, from.evaluate(() => window.data));
    equal(JSON.parse(data), { topic, data: 'x' }, way);
  }
}

async function anotherOriginIsRefused() {
  const from = await page(other);
  for (const way of WAYS) {
    equal(await open(from, way, 'refused'), 'refused', way);
  }
  // Nor did the broker begin a stream that the page may only not read.
  const published = await fetch(`${broker}/v1/topics/refused`, { method: 'POST', body: 'x', headers: authorization });
  equal(await published.json(), { count: 0 });
}

async function closesTheBrowser() {
  await browser.close();
}

await run([aNamedOriginHears, anotherOriginIsRefused, closesTheBrowser]);
