// The tree of nodes on the page at `/` of one of them: who stands where, who ends, and what others say that is not true.
// Arguments: the port of HTTP and how many shards. SAPWOOD_TEST_NODES is a list of the nodes in the order of the tree, each
// with its name, its place, its process, and whether the page is that node's. The last may be ended.

import assert from 'node:assert/strict';

import { browser, open } from './page_open.mjs';
import { equal, port, run, until } from './support.mjs';

const nodes = JSON.parse(process.env.SAPWOOD_TEST_NODES);
const HTML = '<img src="x" onerror="document.title = \'hit\'"><b>bold</b>';
/** As the page has it. */
const NODES_SHOWN_MAX = 200;

/** The page with its tree in sight, and what stands there. */
async function openTree(prepare) {
  const opened = await open('', {}, prepare);
  const { page } = opened;
  const rows = () => page.locator('#nodes li').evaluateAll((all) => all.map((row) => ({
    name: row.querySelector('.name').textContent,
    place: row.querySelector('.place').textContent,
    level: Number(row.ariaLevel),
    isHere: row.ariaCurrent === 'true' && row.querySelector('.here').textContent === 'this page',
    missed: Number(row.dataset.missed),
  })));
  return Object.assign(opened, {
    nodes: rows,
    /** Waits until these are the names in the tree, and returns what stands there. */
    async named(names) {
      await page.waitForFunction(
        (wanted) => [...document.querySelectorAll('#nodes .name')].map((name) => name.textContent).join() === wanted, names.join(),
      );
      return rows();
    },
  });
}

const names = nodes.map(({ name }) => name);
const asShown = ({ name, place, isHere }) => ({ name, place, level: place.split('/').filter((part) => part !== '').length + 1, isHere, missed: 0 });

async function showsEachNodeAtItsPlace() {
  const opened = await openTree();
  const { page } = opened;
  await opened.named(names);
  await page.waitForSelector('#nodes [aria-current] .here:not([hidden])');
  equal(await opened.nodes(), nodes.map(asShown));
  // It takes two answers to know a rate.
  await page.waitForFunction(() => [...document.querySelectorAll('#nodes li')].every((row, index) => {
    const shown = [...row.querySelectorAll('dd')].filter((figure) => figure.checkVisibility()).map((figure) => figure.textContent);
    return shown.length === (index === 0 ? 3 : 6) && shown.every((figure) => /^\d/.test(figure));
  }));
  for (const branch of await page.locator('#nodes li:not(:first-child) dl').allTextContents()) {
    assert.match(branch, /Round trip[\d.]+ [µm]sUp\/s[\d.]+\d filters?Down\/s[\d.]+\d filters?$/);
  }
  equal(await page.locator('#nodes .bad:not([hidden])').count(), 0, 'marks of what is wrong');
  const panels = await page.locator('main > .panel').evaluateAll((all) => all.map(({ id }) => id));
  equal(panels.slice(0, 4), ['node', 'tree', 'messages', 'bytes'], 'the tree of several nodes stands before the charts');
  assert.match(await opened.text('#tree-note'), /^3 nodes, asked every 2 seconds$/);
  await opened.close();
}

async function keepsItsElementsAndItsAnswersToItself() {
  const opened = await openTree();
  const { page } = opened;
  await opened.named(names);
  await page.evaluate(() => {
    window.kept = [...document.querySelectorAll('#nodes li')];
    window.moved = 0;
    new MutationObserver(() => { window.moved += 1; }).observe(document.querySelector('#nodes'), { childList: true });
  });
  // Who listens to everything is not shown what the page asks for itself.
  await opened.subscribe('>');
  await opened.publish('news', 'before');
  await opened.shown('news', 'before');
  await opened.publish('news', '>>');
  await opened.shown('news', '>>');
  const changed = () => page.evaluate(() => window.kept.map((row) => row.querySelector('dl').textContent).join());
  const first = await changed();
  await page.locator('#tree').scrollIntoViewIfNeeded();
  await page.waitForFunction((before) => window.kept.map((row) => row.querySelector('dl').textContent).join() !== before, first);
  equal((await opened.rows()).map(({ topic }) => topic), ['news', 'news']);
  equal(await page.evaluate(() => [window.moved, window.kept.every((row) => row.isConnected)]), [0, true]);
  await opened.close();
}

async function asksOnlyWhileItIsSeen() {
  let questions = 0;
  const opened = await openTree((page) => page.routeWebSocket(/\/ws$/, (socket) => {
    const server = socket.connectToServer();
    socket.onMessage((data) => {
      if (JSON.parse(data).topic === '$info') questions += 1;
      server.send(data);
    });
  }));
  const { page } = opened;
  await opened.named(names);
  const hide = (isHidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, isHidden);
  const seconds = (count) => page.evaluate((ms) => new Promise((resolve) => { setTimeout(resolve, ms); }), count * 1000);
  await hide(true);
  const before = questions;
  // Longer than the two seconds after which it would ask again.
  await seconds(3);
  equal(questions, before, 'questions that nobody sees the answer of');
  await hide(false);
  await until('it asks again', async () => {
    await seconds(0.05);
    return questions > before;
  });
  equal((await opened.nodes()).map(({ missed }) => missed), [0, 0, 0]);
  await opened.close();
}

/** Waits until the page has asked, and returns the topic that it waits at for answers. */
async function inboxOf(opened) {
  const listener = await open('#topic=_INBOX.>');
  const topic = listener.page.locator('#events .topic').first();
  await opened.page.locator('#tree').scrollIntoViewIfNeeded();
  await topic.waitFor();
  const inbox = await topic.textContent();
  await listener.close();
  return inbox;
}

const truth = (id, more) => ({ node: id.toString(16).padStart(16, '0'), name: `liar-${id}`, address: `/9/${id % 256}`, shard: 0, shards: 1, uptime_ms: 5000, links: [], counters: {}, tags: [], groups: [], ...more });

const LIES = [
  '', 'no JSON', HTML, 'null', '7', '[]', '{}', '[[[[', `{"node":"${'f'.repeat(17)}"}`, '{"__proto__":{"node":"0000000000000001"}}',
  '"'.repeat(300_000),
  ...[
    { node: HTML }, { node: null }, { node: ['0000000000000001'] },
    truth(1, { name: HTML, tags: [HTML, 7, null, {}], groups: HTML, address: `/${HTML}` }),
    truth(2, { name: { toString: HTML }, tags: { length: 9e9 }, address: '/1/2/3/4/5/6/7/8/9'.repeat(14) }),
    truth(3, { shard: 1e9 }), truth(4, { shard: -1 }), truth(5, { shard: '0' }), truth(6, { shard: null }),
    truth(7, { counters: null, links: null, uptime_ms: null, place: null }),
    truth(8, { counters: { connections: -5, events_published: '9', events_delivered: 1e308 }, links: [null, 7, HTML, [], { node: 7 }], uptime_ms: -1 }),
    truth(9, { links: Array.from({ length: 3000 }, () => ({ node: '0000000000000001', role: 'child' })) }),
    truth(10, { links: [{ node: '000000000000000a', role: 'parent', lanes: 2, lanes_up: 1, events_lost: 12345, reconnects: 7, round_trip_us: HTML, filters_wanted: HTML }], counters: { links_lost: 3 }, place: { root_for_ms: HTML } }),
    { node: '000000000000000b', from: null, to: [] }, { node: '000000000000000b', to: HTML },
  ].map((lie) => JSON.stringify(lie)),
];

let lied;
let inbox;
const lie = async (body) => equal((await fetch(`http://127.0.0.1:${port}/v1/topics/${inbox}`, { method: 'POST', body })).status, 200, body.slice(0, 80));

async function showsLiesAsText() {
  lied = await openTree();
  const { page } = lied;
  await lied.named(names);
  await page.waitForSelector('#nodes [aria-current]');
  inbox = await inboxOf(lied);
  for (const body of LIES) await lie(body);
  // The last of them that is shown.
  await page.locator('#nodes .name', { hasText: 'liar-10' }).waitFor();
  const rows = await lied.nodes();
  equal(rows.filter(({ isHere }) => isHere).map(({ name }) => name), [nodes.find(({ isHere }) => isHere).name], 'the page stays where it is');
  equal(rows.find(({ name }) => name === HTML.slice(0, 64)).place, 'adrift');
  equal(rows.filter(({ name }) => /^liar-[3-6]$/.test(name)), [], 'shards that cannot be');
  equal(await page.locator('#nodes .bad:not([hidden])').allTextContents(), ['3 links lost', '1 of 2 lanes up', '12,345 events lost']);
  equal(await page.locator('#nodes .mark', { hasText: /reconnect/ }).allTextContents(), ['7 reconnects']);
  equal(await page.locator('#nodes .mark', { hasText: /^root since \d/ }).count(), 1);
  equal(await page.locator('#tree img, #tree b').count(), 0, 'HTML that became elements');
  equal(await page.title(), 'Sapwood');
}

async function showsTheNearestOfMany() {
  const { page } = lied;
  for (let id = 1000; id < 1000 + NODES_SHOWN_MAX; id += 1) await lie(JSON.stringify(truth(id)));
  await page.waitForFunction((most) => document.querySelectorAll('#nodes li').length === most, NODES_SHOWN_MAX);
  assert.match(await lied.text('#tree-more'), /^and \d+ more$/);
  equal((await lied.nodes()).filter(({ name }) => names.includes(name)).map(({ name }) => name), names, 'the nearest are shown');
  equal(await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth].join(' ')), '1280 1280');
  await lied.close();
}

async function hidesIfTheBrokerRefuses() {
  const opened = await openTree((page) => page.routeWebSocket(/\/ws$/, (socket) => {
    const server = socket.connectToServer();
    socket.onMessage((data) => {
      const { id, topic } = JSON.parse(data);
      if (topic === '$info') socket.send(JSON.stringify({ op: 'error', id, code: 'topic_reserved', text: 'not for you' }));
      else server.send(data);
    });
  }));
  await opened.page.waitForSelector('#tree', { state: 'hidden' });
  await opened.state('live');
  await opened.close();
}

let ending;

async function fadesANodeThatEnded() {
  ending = await openTree();
  await ending.named(names);
  process.kill(nodes.at(-1).pid, 'SIGKILL');
  await ending.page.waitForSelector('#nodes [data-missed="1"] .missed:not([hidden])');
  equal((await ending.nodes()).map(({ name }) => name), names);
}

async function dropsItThen() {
  const left = await ending.named(names.slice(0, -1));
  equal(left, nodes.slice(0, -1).map(asShown));
  await ending.close();
}

async function closesTheBrowser() {
  await browser.close();
}

await run([
  showsEachNodeAtItsPlace, keepsItsElementsAndItsAnswersToItself, asksOnlyWhileItIsSeen, showsLiesAsText,
  showsTheNearestOfMany, hidesIfTheBrokerRefuses, fadesANodeThatEnded, dropsItThen, closesTheBrowser,
]);
