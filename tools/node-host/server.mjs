// A Node server that owns the WebSockets, with Sapwood's core as a WASI module behind them.
//
//   node server.mjs --module sapwood_wasi.wasm [--listen 127.0.0.1:7490] [--token TOKEN ...] [--rate N] [--password PASSWORD]
//
// It prints where it listens, and ends with SIGTERM. README.md says how to build the module. What belongs to one
// site, such as who may connect, stands in middleware.mjs.

import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { WebSocketServer } from "ws";
import { Broker, SUB_PROTOCOLS } from "./sapwood.mjs";
import { authentication, rateLimit } from "./middleware.mjs";

// The longest message of the JSON protocol.
const MESSAGE_BYTES_MAX = 87 * 1024 * 1024;
// Above it a socket takes no more from the broker, below a quarter of it again.
const BUFFERED_BYTES_MAX = 1024 * 1024;

/**
 * Serves a broker's WebSockets.
 * @param {{broker: Broker, middleware?: object[], host?: string, port?: number}} options
 * @returns The server, listening.
 */
export async function serve({ broker, middleware = [], host = "127.0.0.1", port = 7490 }) {
  const server = createServer((_request, response) => {
    response.writeHead(426, { "Content-Type": "text/plain", Upgrade: "websocket" });
    response.end("WebSockets are opened here: sapwood.text or sapwood.json\n");
  });
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MESSAGE_BYTES_MAX,
    perMessageDeflate: false,
    handleProtocols: (asked) => [...asked].find((name) => SUB_PROTOCOLS.has(name)) ?? false,
  });
  server.on("upgrade", (request, stream, head) => {
    const context = { isKnown: false };
    const asked = request.headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim());
    if (asked !== undefined && !asked.some((name) => SUB_PROTOCOLS.has(name))) {
      return refuse(stream, 400, `of sub-protocols ${[...SUB_PROTOCOLS.keys()].join(", ")} are known`);
    }
    for (const layer of middleware) {
      const refusal = layer.connect?.(request, context);
      if (refusal !== undefined) {
        return refuse(stream, refusal.status, refusal.text);
      }
    }
    sockets.handleUpgrade(request, stream, head, (socket) => join(broker, middleware, socket, context));
  });
  await new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  server.on("close", () => broker.end());
  return server;
}

function refuse(stream, status, text) {
  const reasons = { 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 429: "Too Many Requests" };
  const body = `${text}\n`;
  stream.end(
    `HTTP/1.1 ${status} ${reasons[status] ?? "Refused"}\r\nConnection: close\r\nContent-Type: text/plain\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

function join(broker, middleware, socket, context) {
  let isReady = true;
  const look = () => {
    const isWanted = socket.bufferedAmount < (isReady ? BUFFERED_BYTES_MAX : BUFFERED_BYTES_MAX / 4);
    if (isWanted !== isReady) {
      isReady = isWanted;
      broker.setReady(number, isReady);
    }
  };
  const peer = {
    send(payload, isText) {
      socket.send(payload, { binary: !isText }, look);
      if (isReady && socket.bufferedAmount >= BUFFERED_BYTES_MAX) {
        // Told behind the call of the broker that this stands in.
        queueMicrotask(look);
      }
    },
    close(code, reason) {
      socket.close(code, reason);
    },
  };
  const number = broker.open(SUB_PROTOCOLS.get(socket.protocol) ?? 0, context.isKnown, peer);
  socket.on("message", (data, isBinary) => {
    for (const layer of middleware) {
      const refusal = layer.message?.(data, !isBinary, context);
      if (refusal !== undefined) {
        return socket.close(refusal.code, refusal.text);
      }
    }
    broker.message(number, data, !isBinary);
  });
  // What was wrong is said by the close that follows.
  socket.on("error", () => {});
  socket.on("close", () => broker.close(number));
}

async function main() {
  const { values } = parseArgs({
    options: {
      module: { type: "string" },
      listen: { type: "string", default: "127.0.0.1:7490" },
      token: { type: "string", multiple: true, default: [] },
      rate: { type: "string" },
      password: { type: "string" },
    },
  });
  if (values.module === undefined) {
    throw new Error("--module FILE is missing: the module that cargo builds, see README.md");
  }
  const middleware = [];
  if (values.token.length > 0) {
    middleware.push(authentication(values.token));
  }
  if (values.rate !== undefined) {
    middleware.push(rateLimit(Number(values.rate)));
  }
  const broker = await Broker.load(values.module, { password: values.password });
  const colon = values.listen.lastIndexOf(":");
  const host = values.listen.slice(0, colon);
  const server = await serve({ broker, middleware, host, port: Number(values.listen.slice(colon + 1)) });
  const { address, port } = server.address();
  console.log(`node-host ${address}:${port}`);
  process.on("SIGTERM", () => process.exit(0));
  process.on("SIGINT", () => process.exit(0));
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  main().catch((error) => {
    console.error(`node-host: ${error.message}`);
    process.exit(2);
  });
}
