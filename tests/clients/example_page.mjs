// A page of the examples in headless Chromium, from a site of its own: it shows what was promised, and nothing else.

import { equal, require, run } from './support.mjs';

const { chromium } = require('playwright-core');
const { SAPWOOD_TEST_CHROMIUM, SAPWOOD_TEST_ADDRESS, SAPWOOD_TEST_SHOWN } = process.env;

async function showsWhatWasPromised() {
  const browser = await chromium.launch({ executablePath: SAPWOOD_TEST_CHROMIUM });
  try {
    const page = await browser.newPage();
    page.on('pageerror', (error) => console.error(error));
    page.on('console', (message) => console.error(message.text()));
    await page.goto(SAPWOOD_TEST_ADDRESS);
    const lines = SAPWOOD_TEST_SHOWN.split('\n').length;
    await page.waitForFunction((lines) => document.querySelector('#shown').textContent.split('\n').length >= lines, lines);
    equal(await page.textContent('#shown'), SAPWOOD_TEST_SHOWN, 'what the page shows');
  } finally {
    await browser.close();
  }
}

await run([showsWhatWasPromised]);
