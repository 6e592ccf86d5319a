// node-redis (npm `redis`): pub/sub, transactions, pipelining, pools, reconnecting.

import {
  ALL_BYTES, Heard, PAYLOADS, equal, password, port, protocol, rejects, require, restartBroker, run, until, within,
} from './support.mjs';

const { createClient, createClientPool } = require('redis');

const options = (more = {}) => ({
  RESP: protocol,
  password,
  ...more,
  socket: { host: '127.0.0.1', port, reconnectStrategy: 50, ...more.socket },
});

async function connected(use, more) {
  const client = createClient(options(more));
  const errors = [];
  client.on('error', (error) => errors.push(error));
  await within('connect', client.connect());
  try {
    return await use(client, errors);
  } finally {
    client.destroy();
  }
}

/** A client to subscribe with and one to publish with. */
const two = (use) => connected((publisher) => connected((subscriber) => use(publisher, subscriber)));

async function connectionCommands() {
  await connected(async (client) => {
    equal(await client.ping(), 'PONG');
    equal(await client.ping('payload'), 'payload');
    equal(await client.echo('hello'), 'hello');
    equal(await client.clientGetName(), 'first');
    equal(await client.clientSetName('second'), 'OK');
    const info = await client.clientInfo();
    equal([info.name, info.db, info.id], ['second', 2, await client.clientId()]);
    equal((await client.clientList()).filter((other) => other.name === 'second').length, 1);
    await client.select(0);
    equal((await client.info()).includes('redis_version'), true);
    equal('save' in (await client.configGet('save')), true);
    equal((await client.commandCount()) > 0, true);
    equal(await client.flushAll(), 'OK');
    equal(await client.flushDb(), 'OK');
  }, { name: 'first', database: 2 });
}

async function subscribesAndUnsubscribes() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    await subscriber.subscribe(['news', 'weather'], heard.push);
    equal(await publisher.publish('news', 'hello there'), 1);
    equal(await heard.next(), ['hello there', 'news']);
    const patterns = new Heard();
    await subscriber.pSubscribe('n?ws', patterns.push);
    await subscriber.pSubscribe(['wea*', 'other*'], patterns.push);
    equal(await publisher.publish('news', 'twice'), 2);
    equal([await heard.next(), await patterns.next()], [['twice', 'news'], ['twice', 'news']]);
    // A second listener of a channel is the client's own affair: one subscription, both hear.
    const second = new Heard();
    await subscriber.subscribe('news', second.push);
    equal(await publisher.publish('news', 'both'), 2);
    equal([await heard.next(), await second.next()], [['both', 'news'], ['both', 'news']]);
    equal(await patterns.next(), ['both', 'news']);
    await subscriber.unsubscribe('news', second.push);
    equal(await publisher.publish('news', 'one'), 2);
    equal(await heard.next(), ['one', 'news']);
    await subscriber.unsubscribe('unknown');
    await subscriber.unsubscribe('news');
    equal(await publisher.publish('news', 'pattern only'), 1);
    equal((await patterns.several(2))[1], ['pattern only', 'news']);
    await subscriber.pUnsubscribe('n?ws');
    equal(await publisher.publish('news', 'nobody'), 0);
    await subscriber.pUnsubscribe();
    await subscriber.unsubscribe();
    equal(await publisher.publish('weather', 'nobody'), 0);
    // Under RESP2 its parser still hands out buffers.
    equal(String(await subscriber.ping()), 'PONG');
    await subscriber.subscribe('news', heard.push);
    equal(await publisher.publish('news', 'again'), 1);
    equal(await heard.next(), ['again', 'news']);
    equal(heard.isEmpty && patterns.isEmpty && second.isEmpty, true);
  });
}

async function payloads() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    await subscriber.subscribe('binary', heard.push, true);
    await subscriber.pSubscribe('bin*', heard.push, true);
    await subscriber.sSubscribe('binary', heard.push, true);
    for (const payload of PAYLOADS) {
      equal(await publisher.publish('binary', payload), 2);
      equal(await publisher.sPublish('binary', payload), 1);
      for (const [message] of await heard.several(3)) equal(message, payload);
    }
    equal(await publisher.publish(ALL_BYTES, 'nobody'), 0);
  });
}

async function shardChannels() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    const plain = new Heard();
    await subscriber.sSubscribe(['orders', 'bills'], heard.push);
    await subscriber.subscribe('orders', plain.push);
    equal(await publisher.sPublish('orders', 'shard'), 1);
    equal(await heard.next(), ['shard', 'orders']);
    equal(await publisher.publish('orders', 'plain'), 1);
    equal(await plain.next(), ['plain', 'orders']);
    equal((await publisher.pubSubShardChannels()).sort(), ['bills', 'orders']);
    equal(await publisher.pubSubShardChannels('o*'), ['orders']);
    equal(await publisher.pubSubShardNumSub(['orders', 'none']), { orders: 1, none: 0 });
    await subscriber.sUnsubscribe('orders');
    equal(await publisher.sPublish('orders', 'nobody'), 0);
    await subscriber.sUnsubscribe();
    equal(await publisher.pubSubShardChannels(), []);
  });
}

async function introspection() {
  await two(async (publisher, subscriber) => {
    await subscriber.subscribe(['s.a', 's.b'], () => {});
    await subscriber.pSubscribe(['s.*', 't.*'], () => {});
    equal((await publisher.pubSubChannels()).sort(), ['s.a', 's.b']);
    equal(await publisher.pubSubChannels('*.b'), ['s.b']);
    equal(await publisher.pubSubNumSub(['s.a', 's.c']), { 's.a': 1, 's.c': 0 });
    equal(await publisher.pubSubNumPat(), 2);
  });
}

async function pipelinesAndTransactions() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    await subscriber.subscribe('piped', heard.push);
    const multi = () => publisher.multi().publish('piped', 'a').echo('between').publish('piped', 'b');
    for (const replies of [await multi().exec(), await multi().execAsPipeline()]) {
      equal(replies, [1, 'between', 1]);
      equal(await heard.several(2), [['a', 'piped'], ['b', 'piped']]);
    }
    await rejects('DB index is out of range', publisher.multi().echo('x').addCommand(['SELECT', '99']).exec());
    await rejects('unknown command', publisher.multi().addCommand(['NOSUCH']).exec());
    equal(await publisher.echo('fine'), 'fine');
    // Commands of one tick go out in one write.
    const replies = await Promise.all(Array.from({ length: 1000 }, (_, n) => publisher.publish('piped', String(n))));
    equal(replies, Array(1000).fill(1));
    equal((await heard.several(1000)).map(([message]) => Number(message)), Array.from({ length: 1000 }, (_, n) => n));
    await publisher.watch('key');
    equal(await publisher.multi().echo('watched').exec(), ['watched']);
    await publisher.watch('key');
    equal(await publisher.unwatch(), 'OK');
  });
}

async function oneConnectionUnderResp3() {
  if (protocol !== 3) return;
  await connected(async (client) => {
    const heard = new Heard();
    await client.subscribe('self', heard.push);
    equal(await client.publish('self', 'heard by myself'), 1);
    equal(await heard.next(), ['heard by myself', 'self']);
    equal(await client.echo('still a client'), 'still a client');
  });
}

async function killsClients() {
  await connected(async (killer) => {
    await connected(async (victim, errors) => {
      const id = await victim.clientId();
      equal(await killer.clientKill({ filter: 'ID', id }), 1);
      await until('a new connection', async () => (await victim.clientId()) !== id);
      equal(errors.length > 0, true, 'the client notices');
      equal(await killer.clientKill({ filter: 'ID', id }), 0);
    });
  });
}

async function pools() {
  await connected(async (subscriber) => {
    const heard = new Heard();
    await subscriber.subscribe('pooled', heard.push);
    const pool = createClientPool(options(), { minimum: 2, maximum: 5 });
    pool.on('error', () => {});
    await pool.connect();
    const replies = await Promise.all(Array.from({ length: 200 }, (_, n) => pool.publish('pooled', String(n))));
    equal(replies, Array(200).fill(1));
    const got = (await heard.several(200)).map(([message]) => Number(message)).sort((a, b) => a - b);
    equal(got, Array.from({ length: 200 }, (_, n) => n));
    pool.destroy();
  });
}

async function pingInterval() {
  await connected(async (client) => {
    const heard = new Heard();
    client.on('ping-interval', heard.push);
    await client.subscribe('quiet', () => {});
    await heard.several(3);
  }, { pingInterval: 20 });
}

async function errors() {
  await connected(async (client) => {
    await rejects("unknown command 'NOSUCH', with args beginning with: 'a' 'b'", client.sendCommand(['NOSUCH', 'a', 'b']));
    await rejects("wrong number of arguments for 'publish' command", client.sendCommand(['PUBLISH', 'a']));
    await rejects('DB index is out of range', client.select(99));
    await rejects('Client names cannot contain spaces', client.clientSetName('a b'));
    await rejects('EXEC without MULTI', client.sendCommand(['EXEC']));
    equal(await client.ping(), 'PONG');
  });
}

async function reconnects() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    await subscriber.subscribe('kept', heard.push);
    await subscriber.pSubscribe('kept.*', heard.push);
    await subscriber.sSubscribe('kept', heard.push);
    await restartBroker();
    const state = async () => [
      (await publisher.pubSubNumSub('kept')).kept,
      await publisher.pubSubNumPat(),
      (await publisher.pubSubShardNumSub('kept')).kept,
    ];
    await until('the subscriptions are resumed', async () => {
      try {
        return String(await state()) === '1,1,1';
      } catch {
        return false; // The publisher is reconnecting itself.
      }
    });
    await publisher.publish('kept', 'exact');
    await publisher.publish('kept.x', 'pattern');
    await publisher.sPublish('kept', 'shard');
    const got = (await heard.several(3)).map(([message]) => message).sort();
    equal(got, ['exact', 'pattern', 'shard']);
  });
}

async function passwords() {
  if (password === undefined) return;
  for (const wrong of [undefined, 'wrong']) {
    const client = createClient(options({ password: wrong, socket: { reconnectStrategy: false } }));
    client.on('error', () => {});
    await rejects(wrong ? 'WRONGPASS' : 'NOAUTH', client.connect().then(() => client.ping()));
    if (client.isOpen) client.destroy();
  }
  const url = `redis://default:${encodeURIComponent(password)}@127.0.0.1:${port}/3`;
  const client = createClient({ url, RESP: protocol });
  client.on('error', () => {});
  await client.connect();
  equal(await client.ping(), 'PONG');
  await client.close();
}

await run([
  connectionCommands, subscribesAndUnsubscribes, payloads, shardChannels, introspection, pipelinesAndTransactions,
  oneConnectionUnderResp3, killsClients, pools, pingInterval, errors, reconnects, passwords,
]);
