// The page at `/` in headless Chromium, with what a person does there.

import { equal, password, port, require } from './support.mjs';

const { chromium } = require('playwright-core');

const address = `http://127.0.0.1:${port}/`;

export const browser = await chromium.launch({ executablePath: process.env.SAPWOOD_TEST_CHROMIUM });

/** A page of its own context, with what a person does there; `close` fails if the browser's console had an error. */
export async function open(where = '', options = {}, prepare = () => {}) {
  const httpCredentials = password && { username: 'default', password };
  const context = await browser.newContext({ httpCredentials, ...options });
  const page = await context.newPage();
  const errors = [];
  let mayComplain = false;
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => {
    // The browser itself reports each request that fails or is refused. That is right where one is meant to.
    const isExpected = mayComplain && /^Failed to load resource|^WebSocket connection to/.test(message.text());
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
    outcome: (wanted) => page.waitForFunction(
      (source) => new RegExp(source).test(document.querySelector('#outcome').textContent), wanted.source,
    ),
    mayComplain: () => { mayComplain = true; },
    async close() {
      await context.close();
      equal(errors, [], 'errors on the console');
    },
  };
  page.setDefaultTimeout(10_000);
  await prepare(page);
  opened.response = await page.goto(address + where);
  return opened;
}
