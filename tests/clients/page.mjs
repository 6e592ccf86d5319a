// The page at `/` in headless Chromium: what people see and do there, while others publish and the broker restarts.
// Arguments: the port of HTTP, how many shards, and the password if there is one. The environment has the rest.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';

import { browser, open } from './page_open.mjs';
import { ALL_BYTES, equal, password, restartBroker, run, until, within } from './support.mjs';

const shards = process.argv[3];
const CARRIERS = ['websocket', 'stream'];
const HTML = '<img src="x" onerror="document.title = \'hit\'"><b>bold</b> & "quoted"';

/** Runs a program to its end, with something on its stdin. */
async function called(program, args, input = '') {
  const child = spawn(program, args, {
    stdio: ['pipe', 'ignore', 'inherit'],
    env: password ? { ...process.env, REDISCLI_AUTH: password } : process.env,
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

async function showsWhatRuns() {
  const opened = await open();
  const { page, response } = opened;
  equal(response.headers()['content-security-policy'], "default-src 'self'; frame-ancestors 'none'; base-uri 'none'");
  await opened.state('live');
  await page.waitForSelector('#node[data-answers=yes]');
  equal(await opened.text('#shards'), shards);
  equal(await opened.text('#node-note'), `sapwood ${process.env.SAPWOOD_TEST_VERSION}`);
  assert(Number(await opened.text('#connections')) >= 1);
  // Two polls make a rate, three a line.
  await page.waitForFunction(() => /L/.test(document.querySelector('#messages path.in').getAttribute('d')));
  assert.match(await opened.text('#bytes [data-part=out]'), /^[\d.]+ k?B$/);
  assert.match(await opened.text('#empty'), /^Subscribe/);
  await page.waitForFunction(() => /^This node is alone; another joins with sapwood serve --join ADDR\./.test(document.querySelector('#tree-alone').textContent));
  equal(await page.isVisible('#tree-rows'), false);
  await opened.close();
}

/** Does the same for both ways at once; topics begin with the way, so that neither hears the other. */
const both = (check) => Promise.all(CARRIERS.map(check));

async function showsEventsOfAll() {
  await both(async (carrier) => {
    const opened = await open();
    const { page } = opened;
    await opened.carrier(carrier);
    await opened.subscribe(`${carrier}.*`);
    await opened.state('live');
    await opened.publish(`${carrier}.page`, HTML);
    // Once it hears itself, it hears everybody.
    await opened.shown(`${carrier}.page`, HTML);
    await opened.outcome(/^Reached 1 subscription$/);
    await byRedis(`${carrier}.redis`, 'from redis-cli');
    await opened.shown(`${carrier}.redis`, 'from redis-cli');
    await byNats(`${carrier}.nats`, 'from nats-py');
    equal((await opened.shown(`${carrier}.nats`, 'from nats-py')).details, ['Colour: blue'], carrier);
    await byRedis(`${carrier}.bytes`, ALL_BYTES);
    equal((await opened.shown(`${carrier}.bytes`, ALL_BYTES.toString('base64'))).details, ['base64'], carrier);
    await byRedis(`${carrier}.html`, HTML);
    await opened.shown(`${carrier}.html`, HTML);
    equal(await page.locator('#events img, #events b').count(), 0, 'HTML that became elements');
    equal(await page.title(), 'Sapwood');
    equal(await opened.text('#events-note'), '5 events', carrier);
    const topics = ['html', 'bytes', 'nats', 'redis', 'page'].map((last) => `${carrier}.${last}`);
    equal((await opened.rows()).map((row) => row.topic), topics, 'the newest first');
    await opened.close();
  });
}

async function followsItsSubscriptions() {
  await both(async (carrier) => {
    const kept = `${carrier} c+d`;
    const opened = await open(`#topic=${carrier}.*&topic=${encodeURIComponent(kept)}&by=${carrier}`);
    const { page } = opened;
    await opened.state('live');
    await opened.publish(kept, 'in the address');
    await opened.shown(kept, 'in the address');
    await page.click(`[aria-label="Unsubscribe from ${carrier}.*"]`);
    await opened.state('live');
    equal(await page.evaluate(() => document.activeElement.id), 'filter', 'where the focus is');
    await until('the broker took the subscription back', async () => {
      await opened.publish(`${carrier}.b`, 'not heard');
      await opened.outcome(/^Reached/);
      return (await opened.text('#outcome')) === 'Reached 0 subscriptions';
    });
    opened.mayComplain();
    await opened.publish('$KV.mine', '');
    await opened.outcome(/^Not published: .*\$/);
    await opened.subscribe('x.>.y');
    await page.waitForFunction(() => document.querySelector('#subscribe-problem').textContent !== '');
    // Of several filters of a stream nobody knows which one was refused.
    if (carrier === 'stream') await page.click('[aria-label="Unsubscribe from x.>.y"]');
    await opened.state('live');
    await opened.publish(kept, 'still there');
    await opened.shown(kept, 'still there');
    await opened.close();
  });
}

async function saysWhatWasDropped() {
  let receive;
  const opened = await open('', {}, (page) => page.routeWebSocket(/\/ws$/, (socket) => {
    socket.connectToServer();
    // The first is the one that events come by.
    receive ??= (frame) => socket.send(JSON.stringify(frame));
  }));
  await opened.state('live');
  receive({ op: 'a later version', may: 'have this' });
  receive({ op: 'message', topic: 'a', data: 'before' });
  receive({ op: 'gap', events: 1200 });
  receive({ op: 'gap', events: 34 });
  receive({ op: 'message', topic: 'a', data: 'x'.repeat(5000) });
  await opened.shown('a', 'x'.repeat(4000));
  const [newest] = await opened.rows();
  equal(newest.details, ['the first 4,000 of 5,000 characters']);
  equal(await opened.notes(), ['1,234 events dropped here, because this page reads too slowly.']);
  for (let number = 0; number < 1000; number += 1) receive({ op: 'message', topic: 'many', data: String(number) });
  await opened.shown('many', '999');
  equal((await opened.rows()).length, 300, 'rows');
  equal(await opened.text('#events-note'), '300 of 1,002 events, 1,234 dropped');
  await opened.close();
}

async function fitsAPhoneAndTheKeyboard() {
  await Promise.all(['light', 'dark'].map(async (colorScheme) => {
    const opened = await open('', { viewport: { width: 320, height: 640 }, colorScheme });
    const { page } = opened;
    await opened.state('live');
    const long = colorScheme.repeat(60);
    const write = async (field, text) => {
      await page.focus(field);
      await page.keyboard.insertText(text);
    };
    await write('#filter', `${long}.>`);
    await page.keyboard.press('Enter');
    await write('#topic', `${long}.${long}`);
    await write('#payload', long);
    await page.keyboard.press('Control+Enter');
    await opened.shown(`${long}.${long}`, long);
    const [width, scrolled] = await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth]);
    equal([width, scrolled], [320, 320], 'the width of the window and of what is in it');
    await opened.close();
  }));
}

async function keepsTheListShortOnAPhone() {
  const opened = await open('#topic=many', { viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true });
  const { page } = opened;
  await opened.state('live');
  const publish = async (from, to) => {
    for (let number = from; number < to; number += 1) await byRedis('many', `event ${number}`);
    await opened.shown('many', `event ${to - 1}`);
  };
  const measures = () => page.evaluate(() => {
    const list = document.querySelector('#events');
    list.scrollIntoView();
    const { top, bottom } = list.getBoundingClientRect();
    const bar = document.querySelector('.bar').getBoundingClientRect().bottom;
    return { height: list.clientHeight, all: list.scrollHeight, page: document.documentElement.scrollHeight, isSeen: top >= bar && bottom <= innerHeight };
  });
  await publish(0, 15);
  const few = await measures();
  await publish(15, 30);
  const many = await measures();
  assert(many.isSeen, `the whole list is in sight: ${JSON.stringify(many)}`);
  assert(many.height >= 200 && many.height <= 400, `it is ${many.height} pixels high`);
  assert(many.all > few.all && many.all > many.height, 'there is more of it to scroll to');
  equal(many.page, few.page, 'the height of the page');
  // The oldest stands last, and is reached within the list.
  equal(await page.evaluate(() => {
    const list = document.querySelector('#events');
    list.scrollTop = list.scrollHeight;
    const last = list.lastElementChild.getBoundingClientRect();
    return Math.round(last.bottom - list.getBoundingClientRect().bottom) <= 0;
  }), true, 'the last row is in sight');
  await opened.close();
}

async function comesBackAfterARestart() {
  const all = await both((carrier) => open(`#topic=again&by=${carrier}`));
  const isAnswered = (opened) => opened.page.waitForSelector('#node[data-answers=yes]');
  await Promise.all(all.flatMap((opened) => [opened.state('live'), isAnswered(opened)]));
  for (const opened of all) {
    opened.mayComplain();
    // A state may be gone before anybody looks for it from here, so the page takes them down.
    await opened.page.evaluate(() => {
      const state = document.querySelector('#link');
      window.states = [];
      new MutationObserver(() => window.states.push(state.dataset.state)).observe(state, { attributeFilter: ['data-state'] });
    });
  }
  await restartBroker();
  for (const opened of all) await opened.page.waitForFunction(() => window.states.at(-1) === 'live');
  await byRedis('again', 'after the restart');
  for (const opened of all) {
    await opened.shown('again', 'after the restart');
    await opened.page.locator('#events .note', { hasText: 'The broker was restarted.' }).waitFor();
    assert((await opened.notes()).some((note) => /^Not connected from .* are missing\.$/.test(note)), 'what is missing is said');
    equal((await opened.page.evaluate(() => window.states)).slice(0, 2), ['waiting', 'connecting']);
    await isAnswered(opened);
    await opened.close();
  }
}

async function closesTheBrowser() {
  await browser.close();
}

// The number of shards and a password make no difference to the others.
const once = [followsItsSubscriptions, saysWhatWasDropped, fitsAPhoneAndTheKeyboard, keepsTheListShortOnAPhone];
await run([showsWhatRuns, showsEventsOfAll, ...(shards === '1' ? once : []), comesBackAfterARestart, closesTheBrowser]);
