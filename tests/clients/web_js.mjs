// npm `ws`, `eventsource` and `event-source-polyfill`, used as their documentation shows.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { password, port, require, restartBroker, within } from './support.mjs';

const { WebSocket } = require('ws');
const { EventSource } = require('eventsource');
const { EventSourcePolyfill } = require('event-source-polyfill');
const headers = password === undefined ? {} : { Authorization: `Bearer ${password}` };
const base = `http://127.0.0.1:${port}`;

const open = async (protocol) => {
  const socket = new WebSocket(`${base.replace('http', 'ws')}/ws`, protocol, { headers });
  await within('open', once(socket, 'open'));
  return socket;
};
const next = async (socket) => {
  const [data, isBinary] = await within('a message', once(socket, 'message'));
  return isBinary ? data : data.toString();
};
const publish = async (topic, body) => {
  const answer = await fetch(`${base}/v1/topics/${topic}`, { method: 'POST', body, headers });
  assert.equal(answer.status, 200);
  return (await answer.json()).count;
};

// Text commands.
const text = await open('sapwood.text');
text.send('SUBSCRIBE js');
text.send('PING');
assert.equal(await next(text), 'PONG');
let heard = next(text);
assert.equal(await publish('js', 'von überall'), 1);
assert.equal(await heard, 'von überall');
heard = next(text);
await publish('js', Buffer.from([0, 255, 1]));
assert.deepEqual(await heard, Buffer.from([0, 255, 1]));

// JSON, with fragments.
const json = await open('sapwood.json');
const request = JSON.stringify({ op: 'publish', topic: 'js', data: 'in parts', id: 1 });
const answered = next(json);
heard = next(text);
json.send(request.slice(0, 10), { fin: false });
json.ping('between');
json.send(request.slice(10), { fin: true });
assert.deepEqual(JSON.parse(await answered), { op: 'ok', id: 1, count: 1 });
assert.equal(await heard, 'in parts');

// Server-sent events, which come again by themselves after a restart of the broker.
const source = new EventSource(`${base}/v1/topics/js?topic=js.more`, {
  fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...headers } }),
});
// It may send no `Last-Event-ID`, and says in the query what it had last. `_` is what clients add against caches.
const polyfill = new EventSourcePolyfill(`${base}/v1/topics/js?topic=js.more&_=1`, { headers });
const opened = (source) => new Promise((resolve) => source.addEventListener('open', resolve, { once: true }));
const listen = (source) => {
  const events = [];
  let wake = () => {};
  const note = (event) => {
    events.push([event.type, JSON.parse(event.data)]);
    wake();
  };
  source.addEventListener('message', note);
  source.addEventListener('gap', note);
  return async (count) => {
    while (events.length < count) {
      await within(`${count} events`, new Promise((resolve) => (wake = resolve)));
    }
    return events;
  };
};
const heards = [source, polyfill].map(listen);
await within('the streams', Promise.all([source, polyfill].map(opened)));
assert.equal(await publish('js', 'one'), 3);
await publish('js.more', 'two');
for (const heard of heards) {
  assert.deepEqual(await heard(2), [
    ['message', { topic: 'js', data: 'one' }],
    ['message', { topic: 'js.more', data: 'two' }],
  ]);
}

const closed = once(text, 'close');
const again = Promise.all([source, polyfill].map(opened));
await restartBroker();
const [code] = await within('the close', closed);
assert.ok([1001, 1006].includes(code), `closed by ${code}`);
await within('the streams again', again);
await publish('js', 'three');
for (const heard of heards) {
  // It came back with the number of the last event that it had: what was published meanwhile may be missing.
  assert.deepEqual((await heard(4)).slice(2), [
    ['gap', { events: null }],
    ['message', { topic: 'js', data: 'three' }],
  ]);
}
source.close();
polyfill.close();
for (const socket of [text, json]) {
  socket.terminate();
}
process.exit(0);
