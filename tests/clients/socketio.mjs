// Socket.IO on two server processes joined by @socket.io/redis-adapter, and sockets of each of them.
// Arguments: the broker's port, the RESP version, `plain` or `sharded`.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { ALL_BYTES, Heard, equal, require, run, until, within } from './support.mjs';

const { io } = require('socket.io-client');

async function startServer() {
  const script = fileURLToPath(new URL('socketio_server.mjs', import.meta.url));
  const child = spawn(process.execPath, [script, ...process.argv.slice(2)], { stdio: ['pipe', 'pipe', 'inherit'] });
  const told = new Heard();
  const listening = new Heard();
  createInterface({ input: child.stdout }).on('line', (line) => {
    const value = JSON.parse(line);
    if (value.port) listening.push(value.port);
    else told.push(value.told);
  });
  return { child, told, port: await listening.next('the server listens') };
}

async function connect(server) {
  const socket = io(`http://127.0.0.1:${server.port}`, { transports: ['websocket'], reconnection: false });
  const heard = new Heard();
  const all = new Heard();
  const gone = new Heard();
  socket.on('from-room', heard.push);
  socket.on('from-all', all.push);
  socket.on('disconnect', gone.push);
  socket.on('question', (answer) => answer(socket.id));
  await within('a socket connects', new Promise((resolve, reject) => {
    socket.on('connect', resolve);
    socket.on('connect_error', reject);
  }));
  return {
    heard, all, gone, id: socket.id,
    emit: (...args) => socket.emit(...args),
    ask: (...args) => within(args[0], socket.emitWithAck(...args)),
    close: () => socket.close(),
  };
}

const servers = await Promise.all([startServer(), startServer()]);
const [left, right] = servers;

/** Two sockets of each server. */
async function four() {
  return Promise.all([connect(left), connect(left), connect(right), connect(right)]);
}

async function serversSeeEachOther() {
  const socket = await connect(left);
  await until('the other server answers', async () => (await socket.ask('ask-others')).length === 1);
  socket.close();
}

async function oneRoom() {
  const sockets = await four();
  const [a, b, c, d] = sockets;
  for (const socket of [a, c, d]) await socket.ask('join', 'room');
  // A join is heard by the other server a moment later.
  await until('all three are in the room', async () => (await a.ask('sockets', 'room')).length === 3);
  await until('all three are in the room', async () => (await c.ask('sockets', 'room')).length === 3);
  a.emit('to-room', 'room', 'from left');
  equal([await c.heard.next(), await d.heard.next()], ['from left', 'from left']);
  c.emit('to-room', 'room', 'from right');
  equal([await a.heard.next(), await d.heard.next()], ['from right', 'from right']);
  for (let number = 0; number < 200; number += 1) {
    a.emit('to-room', 'room', number);
  }
  for (const socket of [c, d]) {
    equal(await socket.heard.several(200), Array.from({ length: 200 }, (_, number) => number), 'order');
  }
  equal([a, b].every((socket) => socket.heard.isEmpty), true, 'nobody hears himself, nor rooms of others');
  const binary = Buffer.concat(Array.from({ length: 256 }, () => ALL_BYTES));
  c.emit('to-room', 'room', binary, { nested: [1, 'two', null] });
  const [got, rest] = await a.heard.next();
  equal(Buffer.from(got), binary);
  equal(rest, { nested: [1, 'two', null] });
  await d.heard.next();
  const answers = await b.ask('ask-room', 'room');
  equal(answers.sort(), [a.id, c.id, d.id].sort(), 'acknowledgements of a room');
  for (const socket of sockets) socket.close();
}

async function everybody() {
  const sockets = await four();
  for (const speaker of sockets) {
    speaker.emit('to-all', `from ${speaker.id}`);
    for (const socket of sockets) equal(await socket.all.next(), `from ${speaker.id}`);
  }
  for (const socket of sockets) socket.close();
}

async function serverToServer() {
  const [a, , c] = await four();
  a.emit('tell-others', 'hello', { n: 1 });
  equal(await right.told.next(), ['hello', { n: 1 }]);
  c.emit('tell-others', 'back');
  equal(await left.told.next(), ['back']);
  const [answer] = await a.ask('ask-others');
  equal(answer, { pid: right.child.pid, asked: process.argv[4] });
  for (const socket of [a, c]) socket.close();
}

async function roomsAreManagedFromAfar() {
  const [a, b, c, d] = await four();
  for (const socket of [b, d]) await socket.ask('join', 'old');
  await until('both are in the room', async () => (await a.ask('sockets', 'old')).length === 2);
  a.emit('move-all', 'old', 'new');
  await until('both are in the new room', async () => (await c.ask('sockets', 'new')).length === 2);
  c.emit('end-room', 'new');
  await b.gone.next('a disconnection');
  await d.gone.next('a disconnection');
  await until('nobody is left', async () => (await a.ask('sockets', 'new')).length === 0);
  for (const socket of [a, c]) socket.close();
}

process.on('exit', () => servers.forEach(({ child }) => child.kill('SIGKILL')));
await run([serversSeeEachOther, oneRoom, everybody, serverToServer, roomsAreManagedFromAfar]);
