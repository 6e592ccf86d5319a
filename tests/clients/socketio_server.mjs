// One Socket.IO server of a cluster, joined to the other by Redis pub/sub.
// Arguments: the broker's port, the RESP version, `plain` or `sharded`. Prints its own port.
// Lines on stdin are commands, the answers are lines of JSON on stdout.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import { port, protocol, require } from './support.mjs';

const { createAdapter, createShardedAdapter } = require('@socket.io/redis-adapter');
const { createClient } = require('redis');
const { Server } = require('socket.io');

const kind = process.argv[4];
const publisher = createClient({ RESP: protocol, socket: { host: '127.0.0.1', port } });
const subscriber = publisher.duplicate();
for (const client of [publisher, subscriber]) client.on('error', (error) => console.error(String(error)));
await Promise.all([publisher.connect(), subscriber.connect()]);

const http = createServer();
const io = new Server(http, {
  adapter: kind === 'sharded' ? createShardedAdapter(publisher, subscriber) : createAdapter(publisher, subscriber),
});
const say = (value) => console.log(JSON.stringify(value));

io.on('connection', (socket) => {
  socket.on('join', async (room, done) => {
    await socket.join(room);
    done();
  });
  socket.on('to-room', (room, ...args) => socket.to(room).emit('from-room', ...args));
  socket.on('to-all', (...args) => io.emit('from-all', ...args));
  socket.on('ask-others', async (done) => done(await io.serverSideEmitWithAck('who', kind)));
  socket.on('sockets', async (room, done) => done((await io.in(room).fetchSockets()).map((other) => other.id)));
  socket.on('ask-room', async (room, done) => done(await io.timeout(10_000).in(room).emitWithAck('question')));
  socket.on('move-all', (from, to) => io.in(from).socketsJoin(to));
  socket.on('end-room', (room) => io.in(room).disconnectSockets(true));
  socket.on('tell-others', (...args) => io.serverSideEmit('told', ...args));
});
io.on('who', (asked, done) => done({ pid: process.pid, asked }));
io.on('told', (...args) => say({ told: args }));

http.listen(0, '127.0.0.1', () => say({ port: http.address().port }));
createInterface({ input: process.stdin }).on('close', () => process.exit(0));
