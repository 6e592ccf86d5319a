// The page at `/` in headless Chromium: what people see and do there, while others publish and the broker restarts.
// Arguments: the port of HTTP, how many shards, and the password if there is one. The environment has the rest.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';

import { ALL_BYTES, equal, password, port, require, restartBroker, run, until, within } from './support.mjs';

const { chromium } = require('playwright-core');

const shards = process.argv[3];
const address = `http://127.0.0.1:${port}/`;
const CARRIERS = ['websocket', 'stream'];
const HTML = '<img src="x" onerror="document.title = \'hit\'"><b>bold</b> & "quoted"';

const browser = await chromium.launch({ executablePath: process.env.SAPWOOD_TEST_CHROMIUM });

/** Runs a program to its end, with something on its stdin. */
async function called(program, args, input = '') {
  const child = spawn(program, args, {
    stdio: ['pipe', 'ignore', 'inherit'],
    env: { ...process.env, REDISCLI_AUTH: password ?? '' },
  });
  child.stdin.end(input);
  const code = await within(program, new Promise((resolve) => child.on('close', resolve)));
  equal(code, 0, `${program} ${args.join(' ')}`);
}

const byRedis = (topic, payload) => called('redis-cli', ['-p', process.env.SAPWOOD_TEST_REDIS_PORT, '-x', 'publish', topic], payload);

const NATS_PUBLISH = `
import asyncio, sys, nats
async def main(port, password, topic, payload):
    client = await nats.connect(f"nats://127.0.0.1:{port}", password=password or None, user="default" if password else None)
    await client.publish(topic, payload.encode(), headers={"Colour": "blue"})
    await client.close()
asyncio.run(main(*sys.argv[1:]))
`;
const byNats = (topic, payload) => called(
  process.env.SAPWOOD_TEST_PYTHON,
  ['-c', NATS_PUBLISH, process.env.SAPWOOD_TEST_NATS_PORT, password ?? '', topic, payload],
);

/** A page of its own context, with what a person does there; `close` fails if the browser's console had an error. */
async function open(where = '', options = {}) {
  const httpCredentials = password && { username: 'default', password };
  const context = await browser.newContext({ httpCredentials, ...options });
  const page = await context.newPage();
  const errors = [];
  let mayBeAway = false;
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => {
    // The browser itself reports each connection that fails. That is right while the broker is away, and only then.
    const isExpected = mayBeAway && /net::ERR_|WebSocket connection to/.test(message.text());
    if (['error', 'warning'].includes(message.type()) && !isExpected) errors.push(message.text());
  });
  const opened = {
    page,
    state: (state) => page.waitForSelector(`#link[data-state=${state}]`),
    text: (selector) => page.textContent(selector),
    rows: () => page.locator('#events .event').evaluateAll((rows) => rows.map((row) => ({
      topic: row.querySelector('.topic').textContent,
      payload: row.querySelector('pre')?.textContent ?? '',
      details: [...row.querySelectorAll('.details li')].map((detail) => detail.textContent),
    }))),
    notes: () => page.locator('#events .note p').allTextContents(),
    carrier: (kind) => page.locator(`[name=carrier][value=${kind}]`).check(),
    async subscribe(filter) {
      await page.fill('#filter', filter);
      await page.click('#subscribe button');
    },
    async publish(topic, payload) {
      await page.fill('#topic', topic);
      await page.fill('#payload', payload);
      await page.click('#publish button');
    },
    /** Waits for an event, and returns it. */
    shown: async (topic, payload) => page.waitForFunction(([topic, payload]) => {
      const rows = [...document.querySelectorAll('#events .event')];
      return rows.some((row) => row.querySelector('.topic').textContent === topic && (row.querySelector('pre')?.textContent ?? '') === payload);
    }, [topic, payload]).then(async () => (await opened.rows()).find((row) => row.topic === topic && row.payload === payload)),
    async whileAway(happens) {
      mayBeAway = true;
      await happens();
      // What the browser reports may come a moment after what the page shows: a round trip to the page is behind it.
      await page.evaluate(() => 0);
      mayBeAway = false;
    },
    async close() {
      await context.close();
      equal(errors, [], 'errors on the console');
    },
  };
  page.setDefaultTimeout(10_000);
  opened.response = await page.goto(address + where);
  return opened;
}

async function showsWhatRuns() {
  const opened = await open();
  const { page, response } = opened;
  equal(response.headers()['content-security-policy'], "default-src 'self'");
  await opened.state('live');
  await page.waitForSelector('#node[data-answers=yes]');
  equal(await opened.text('#shards'), shards);
  equal(await opened.text('#node-note'), `sapwood ${process.env.SAPWOOD_TEST_VERSION}`);
  assert(Number(await opened.text('#connections')) >= 1);
  // Two polls make a rate, three a line.
  await page.waitForFunction(() => /L/.test(document.querySelector('#messages path.in').getAttribute('d')));
  assert.match(await opened.text('#bytes [data-part=out]'), /^[\d.]+ k?B$/);
  assert.match(await opened.text('#empty'), /^Subscribe/);
  await opened.close();
}

async function showsEventsOfAll() {
  for (const carrier of CARRIERS) {
    const opened = await open();
    const { page } = opened;
    await opened.carrier(carrier);
    await opened.subscribe('news.*');
    await opened.state('live');
    await opened.publish('news.page', HTML);
    // Once it hears itself, it hears everybody.
    await opened.shown('news.page', HTML);
    await page.waitForFunction(() => document.querySelector('#outcome').textContent === 'Reached 1 subscription');
    await byRedis('news.redis', 'from redis-cli');
    await opened.shown('news.redis', 'from redis-cli');
    await byNats('news.nats', 'from nats-py');
    equal((await opened.shown('news.nats', 'from nats-py')).details, ['Colour: blue'], carrier);
    await byRedis('news.bytes', ALL_BYTES);
    equal((await opened.shown('news.bytes', ALL_BYTES.toString('base64'))).details, ['base64'], carrier);
    await byRedis('news.html', HTML);
    await opened.shown('news.html', HTML);
    equal(await page.locator('#events img, #events b').count(), 0, 'HTML that became elements');
    equal(await page.title(), 'Sapwood');
    equal(await opened.text('#events-note'), '5 events', carrier);
    equal((await opened.rows()).map((row) => row.topic), ['html', 'bytes', 'nats', 'redis', 'page'].map((last) => `news.${last}`), 'the newest first');
    await opened.close();
  }
}

async function followsItsSubscriptions() {
  for (const carrier of CARRIERS) {
    const opened = await open(`#topic=a.*&topic=b%20c%2Bd${carrier === 'stream' ? '&by=stream' : ''}`);
    const { page } = opened;
    await opened.state('live');
    await opened.publish('b c+d', 'kept in the address');
    await opened.shown('b c+d', 'kept in the address');
    await page.click('[aria-label="Unsubscribe from a.*"]');
    await opened.state('live');
    equal(await page.evaluate(() => document.activeElement.id), 'filter', 'where the focus is');
    await until('the broker took the subscription back', async () => {
      await opened.publish('a.b', 'not heard');
      await page.waitForFunction(() => /^Reached/.test(document.querySelector('#outcome').textContent));
      return (await opened.text('#outcome')) === 'Reached 0 subscriptions';
    });
    await opened.subscribe('x.>.y');
    await page.waitForFunction(() => document.querySelector('#subscribe-problem').textContent !== '');
    if (carrier === 'stream') await page.click('[aria-label="Unsubscribe from x.>.y"]');
    await opened.state('live');
    await opened.publish('b c+d', 'still there');
    await opened.shown('b c+d', 'still there');
    await opened.publish('$mine', '');
    await page.waitForFunction(() => /^Not published: .*\$/.test(document.querySelector('#outcome').textContent));
    await page.context().close();
  }
}

async function comesBackAfterARestart() {
  const all = await Promise.all(CARRIERS.map((carrier) => open(`#topic=again&by=${carrier}`)));
  for (const opened of all) await opened.state('live');
  for (const opened of all) await opened.page.waitForSelector('#node[data-answers=yes]');
  const away = async (opened) => {
    await opened.state('waiting');
    await opened.state('live');
  };
  await Promise.all([
    ...all.map((opened) => opened.whileAway(() => away(opened))),
    restartBroker(),
  ]);
  await byRedis('again', 'after the restart');
  for (const opened of all) {
    await opened.shown('again', 'after the restart');
    await until('the restart is said', async () => {
      await opened.page.waitForTimeout(50);
      return (await opened.notes()).includes('The broker was restarted.');
    });
    assert((await opened.notes()).some((note) => /^Not connected from .* are missing\.$/.test(note)), 'what is missing is said');
    await opened.page.waitForSelector('#node[data-answers=yes]');
    await opened.close();
  }
}

async function saysWhatWasDropped() {
  const opened = await open();
  const { page } = opened;
  let toPage;
  await page.routeWebSocket(/\/ws$/, (socket) => {
    socket.connectToServer();
    toPage = (frame) => socket.send(JSON.stringify(frame));
  });
  await page.reload();
  await opened.state('live');
  toPage({ op: 'a later version', may: 'have this' });
  toPage({ op: 'message', topic: 'a', data: 'before' });
  toPage({ op: 'gap', events: 1200 });
  toPage({ op: 'gap', events: 34 });
  toPage({ op: 'message', topic: 'a', data: 'x'.repeat(5000) });
  await opened.shown('a', 'x'.repeat(4000));
  const [newest] = await opened.rows();
  equal(newest.details, ['the first 4,000 of 5,000 characters']);
  equal(await opened.notes(), ['1,234 events dropped here, because this page reads too slowly.']);
  for (let number = 0; number < 1000; number += 1) toPage({ op: 'message', topic: 'many', data: String(number) });
  await opened.shown('many', '999');
  equal((await opened.rows()).length, 300, 'rows');
  equal(await opened.text('#events-note'), '300 of 1,002 events');
  await opened.close();
}

async function fitsAPhoneAndTheKeyboard() {
  for (const colorScheme of ['light', 'dark']) {
    const opened = await open('', { viewport: { width: 320, height: 640 }, colorScheme });
    const { page } = opened;
    await opened.state('live');
    const long = 'x'.repeat(300);
    await page.focus('#filter');
    await page.keyboard.type(`${long}.>`);
    await page.keyboard.press('Enter');
    await page.focus('#topic');
    await page.keyboard.type(`${long}.${long}`);
    await page.focus('#payload');
    await page.keyboard.type(long);
    await page.keyboard.press('Control+Enter');
    await opened.shown(`${long}.${long}`, long);
    const [width, scrolled] = await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth]);
    equal([width, scrolled], [320, 320], 'the width of the window and of what is in it');
    await opened.close();
  }
}

await run([showsWhatRuns, showsEventsOfAll, followsItsSubscriptions, saysWhatWasDropped, fitsAPhoneAndTheKeyboard, comesBackAfterARestart]);
