// Plays one trace over WebSockets and prints what each client got, a line of JSON each, so that two servers can be
// compared to the byte. What differs from run to run, the number of a client and the name of a run, is replaced.
//
//   node trace.mjs URL

import { createRequire } from "node:module";

const require = createRequire(`${process.env.SAPWOOD_NODE_MODULES}/`);
const { WebSocket } = require("ws");

const url = process.argv[2];
const SUB_PROTOCOLS = { text: "sapwood.text", json: "sapwood.json" };

const numbers = (count) => Array.from({ length: count }, (_, place) => place);
const binary = Buffer.from(numbers(256));

// Who, then what it sends: a string is a text message, a buffer a binary one. Behind each step everybody is asked for an
// answer, so that all that the step brought about has come.
const STEPS = [
  ["t1", "SUBSCRIBE news"],
  ["t1", "SUBSCRIBE news"],
  ["t2", "PSUBSCRIBE n* w?"],
  ["t3", "PUBLISH news hello there, it works"],
  ["t3", "PUBLISH news "],
  ["t3", "publish news größe \u{1f600}\nline two"],
  ["t3", Buffer.concat([Buffer.from("PUBLISH news "), binary])],
  ["t3", "PUBLISH"],
  ["t3", "PUBLISH news"],
  ["t3", "NOSUCH thing"],
  ["t3", ""],
  ["t3", "PUBLISH $JS.x no"],
  ["t3", `PUBLISH ${"x".repeat(2000)} no`],
  ["t3", "PING"],
  ["t3", "PING some text"],
  ["t1", "UNSUBSCRIBE nothing"],
  ["t1", "UNSUBSCRIBE news"],
  ["t3", "PUBLISH news only by pattern"],
  ["t2", "PUNSUBSCRIBE"],
  ["t3", "PUBLISH news nobody"],
  ["j1", '{"op":"hello","name":"one","library":"trace/1","id":1}'],
  ["j1", '{"op":"hello"}'],
  ["j2", '{"op":"subscribe","filter":"news.*","id":2}'],
  ["j3", '{"op":"subscribe","filter":"news.>","group":"g","member":7,"id":3}'],
  ["j2", '{"op":"publish","topic":"news.a","data":"it \\"works\\"\\n","id":4}'],
  ["t3", Buffer.concat([Buffer.from("PUBLISH news.b "), binary])],
  [
    "j2",
    '{"op":"publish","topic":"news.a","data_b64":"AAEC/w==","reply":"r.1","headers":[["a","1"],["A","ü"]],"last":true,"id":5}',
  ],
  ["j2", '{"op":"publish","topic":"nobody","when":"unheard","id":6}'],
  ["j2", '{"op":"publish","topic":"news.a","when":"unheard","id":7}'],
  ["j2", '{"op":"publish","topic":"$KV.x","data":""}'],
  ["j2", '{"op":"publish","topic":"news.a","data":"","data_b64":""}'],
  ["j2", '{"op":"publish","topic":"news.a","dta":""}'],
  ["j2", '{"op":"nothing","id":8}'],
  ["j2", "not json"],
  ["j2", '{"op":"subscribe","filter":"a.>.b","id":9}'],
  ["j2", '{"op":"ping","id":10}'],
  ["t3", "PUBLISH $all to everybody"],
  ["j3", '{"op":"unsubscribe","filter":"news.>","group":"g","member":7,"id":11}'],
  ["j2", '{"op":"drain","id":12}'],
  ["j2", '{"op":"publish","topic":"news.a","data":"gone","id":13}'],
  ["j3", Buffer.from("{}")],
];

class Client {
  got = [];
  waiters = [];
  asked = 0;

  constructor(name) {
    this.name = name;
    this.kind = name.startsWith("j") ? "json" : "text";
  }

  async open() {
    this.socket = new WebSocket(url, SUB_PROTOCOLS[this.kind], { perMessageDeflate: false });
    this.closed = new Promise((resolve) => this.socket.on("close", (code) => resolve(code)));
    this.socket.on("message", (data, isBinary) => {
      const text = data.toString("latin1");
      const waiter = this.waiters[0];
      if (waiter !== undefined && text === waiter.text) {
        this.waiters.shift().resolve();
        return;
      }
      this.got.push([isBinary ? "binary" : "text", text]);
    });
    this.socket.on("close", () => this.waiters.splice(0).forEach((waiter) => waiter.resolve()));
    await new Promise((resolve, reject) => {
      this.socket.on("open", resolve);
      this.socket.on("error", reject);
    });
  }

  // Resolves when everything that the server had to say before has come.
  async settle() {
    if (this.socket.readyState !== WebSocket.OPEN) {
      return;
    }
    this.asked += 1;
    const id = 1_000_000 + this.asked;
    const [ask, text] =
      this.kind === "json"
        ? [`{"op":"ping","id":${id}}`, `{"op":"ok","id":${id},"count":0}`]
        : [`PING settle ${id}`, `PONG settle ${id}`];
    const answered = new Promise((resolve) => this.waiters.push({ text, resolve }));
    this.socket.send(ask);
    await answered;
  }
}

const clients = new Map();
for (const name of ["t1", "t2", "t3", "j1", "j2", "j3"]) {
  const client = new Client(name);
  await client.open();
  clients.set(name, client);
}
for (const [name, message] of STEPS) {
  const client = clients.get(name);
  if (client.kind === "text" || client.socket.readyState === WebSocket.OPEN) {
    client.socket.send(message);
  }
  // First who sent it, then all who may have heard it.
  await client.settle();
  for (const other of clients.values()) {
    // "hello" must come first, so nobody who has yet to say it is asked.
    if (other.name !== "j1" || other === client) {
      await other.settle();
    }
  }
}
for (const client of clients.values()) {
  if (client.socket.readyState === WebSocket.OPEN) {
    client.socket.close(1000);
  }
  const code = await client.closed;
  const got = client.got.map(([kind, text]) => [
    kind,
    text.replace(/"client":\d+/, '"client":0').replace(/"run":"[0-9a-f]{40}"/, '"run":""'),
  ]);
  console.log(JSON.stringify({ client: client.name, code, got }));
}
