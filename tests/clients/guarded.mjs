// Tries a Node host that wants the token "right" and takes twenty messages a second.
//
//   node guarded.mjs URL

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.SAPWOOD_NODE_MODULES}/`);
const { WebSocket } = require("ws");
const url = process.argv[2];

const open = (path, headers) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(`${url}${path}`, "sapwood.text", { headers });
    socket.on("open", () => resolve(socket));
    socket.on("unexpected-response", (_request, response) => reject(response.statusCode));
    socket.on("error", () => {});
  });
const refused = async (path, headers) => {
  await assert.rejects(open(path, headers).catch((status) => Promise.reject(new Error(`${status}`))), { message: "401" });
};
const answer = (socket, text) =>
  new Promise((resolve) => {
    socket.once("message", (data) => resolve(data.toString()));
    socket.send(text);
  });

await refused("", {});
await refused("?token=wrong", {});
await refused("", { Authorization: "Bearer wrong" });
for (const [path, headers] of [
  ["?token=right", {}],
  ["", { Authorization: "Bearer right" }],
]) {
  // Who has shown the token need not know the broker's own password.
  const socket = await open(path, headers);
  assert.equal(await answer(socket, "PING"), "PONG");
  socket.close();
}

const flood = await open("?token=right", {});
const closed = new Promise((resolve) => flood.on("close", (code, reason) => resolve([code, reason.toString()])));
for (let count = 0; count < 50; count += 1) {
  flood.send("PING");
}
assert.deepEqual(await closed, [1008, "more than 20 messages a second"]);
// Others are not held back by it.
const other = await open("?token=right", {});
assert.equal(await answer(other, "PING still"), "PONG still");
other.close();
