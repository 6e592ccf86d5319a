// Sends a hundred thousand messages through a Node host in this process, and looks whether anything of them stays.
//
//   node --expose-gc many.mjs DIRECTORY_OF_THE_HOST MODULE

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.SAPWOOD_NODE_MODULES}/`);
const { WebSocket } = require("ws");
const [directory, module] = process.argv.slice(2);
const { Broker } = await import(pathToFileURL(`${directory}/sapwood.mjs`));
const { serve } = await import(pathToFileURL(`${directory}/server.mjs`));

const MESSAGES = 100_000;
const BURST = 500;
const SUBSCRIBERS = 3;

const broker = await Broker.load(module);
const server = await serve({ broker, port: 0 });
const url = `ws://127.0.0.1:${server.address().port}`;

const open = async (name) => {
  const socket = new WebSocket(url, name, { perMessageDeflate: false });
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  return socket;
};

// A subscriber checks content and order: each message holds its number.
const subscribe = async () => {
  const socket = await open("sapwood.text");
  const subscriber = { socket, count: 0, wake: () => {} };
  socket.on("message", (data) => {
    const text = data.toString();
    if (text.startsWith("PONG")) {
      subscriber.wake();
    } else {
      assert.equal(text, `message ${subscriber.count} ${"x".repeat(subscriber.count % 300)}`);
      subscriber.count += 1;
      subscriber.wake();
    }
  });
  const ready = new Promise((resolve) => (subscriber.wake = resolve));
  socket.send("SUBSCRIBE many");
  socket.send("PING");
  await ready;
  return subscriber;
};

const until = async (subscriber, count) => {
  while (subscriber.count < count) {
    await new Promise((resolve) => (subscriber.wake = resolve));
  }
};

const subscribers = [];
for (let place = 0; place < SUBSCRIBERS; place += 1) {
  subscribers.push(await subscribe());
}
const publisher = await open("sapwood.text");
const memory = () => {
  globalThis.gc();
  return { heap: process.memoryUsage().heapUsed, module: broker.memoryBytes };
};
let warm = null;
for (let sent = 0; sent < MESSAGES; ) {
  for (let place = 0; place < BURST; place += 1, sent += 1) {
    publisher.send(`PUBLISH many message ${sent} ${"x".repeat(sent % 300)}`);
  }
  await Promise.all(subscribers.map((subscriber) => until(subscriber, sent)));
  // Connections come and go meanwhile.
  const passing = await open("sapwood.json");
  passing.close();
  await new Promise((resolve) => passing.on("close", resolve));
  if (sent === MESSAGES / 5) {
    warm = memory();
  }
}
const end = memory();
assert.ok(end.module <= warm.module, `the module's memory grew from ${warm.module} to ${end.module}`);
assert.ok(end.heap <= warm.heap + 1024 * 1024, `Node's heap grew from ${warm.heap} to ${end.heap}`);
for (const socket of [publisher, ...subscribers.map((subscriber) => subscriber.socket)]) {
  socket.close();
  await new Promise((resolve) => socket.on("close", resolve));
}
for (let tries = 0; broker.size > 0 && tries < 100; tries += 1) {
  await new Promise((resolve) => setTimeout(resolve, 10));
}
assert.equal(broker.size, 0, "every connection is forgotten");
server.close();
