// ioredis: pub/sub, pipelines, transactions, auto-pipelining, reconnecting.

import {
  ALL_BYTES, Heard, PAYLOADS, equal, password, port, protocol, rejects, require, restartBroker, run, until, within,
} from './support.mjs';

const { Redis } = require('ioredis');

const options = (more = {}) => ({ host: '127.0.0.1', port, protocol, password, retryStrategy: () => 50, ...more });

async function connected(use, more) {
  const client = new Redis(options({ lazyConnect: true, ...more }));
  const errors = [];
  client.on('error', (error) => errors.push(error));
  await within('connect', client.connect());
  try {
    return await use(client, errors);
  } finally {
    client.disconnect();
  }
}

const two = (use) => connected((publisher) => connected((subscriber) => use(publisher, subscriber)));

async function connectionCommands() {
  await connected(async (client) => {
    equal(await client.ping(), 'PONG');
    equal(await client.ping('payload'), 'payload');
    equal(await client.echo('hello'), 'hello');
    equal(await client.client('GETNAME'), 'first');
    equal(await client.client('SETNAME', 'second'), 'OK');
    equal(typeof (await client.client('ID')), 'number');
    equal((await client.client('LIST')).includes('name=second'), true);
    equal((await client.client('INFO')).includes('db=2'), true);
    equal(await client.client('NO-EVICT', 'ON'), 'OK');
    equal(await client.select(0), 'OK');
    equal((await client.info()).includes('redis_version'), true);
    equal((await client.config('GET', 'save'))[0], 'save');
    equal((await client.command('COUNT')) > 0, true);
    equal(await client.flushall(), 'OK');
    equal(await client.flushdb(), 'OK');
    equal(await client.quit(), 'OK');
  }, { connectionName: 'first', db: 2 });
}

async function subscribesAndUnsubscribes() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    subscriber.on('message', (channel, message) => heard.push(['message', channel, message]));
    subscriber.on('pmessage', (...args) => heard.push(['pmessage', ...args]));
    equal(await subscriber.subscribe('news', 'weather'), 2, 'subscriptions');
    equal(await publisher.publish('news', 'hello there'), 1);
    equal(await heard.next(), ['message', 'news', 'hello there']);
    equal(await subscriber.psubscribe('n?ws', 'wea*'), 4);
    equal(await publisher.publish('news', 'twice'), 2);
    equal(await heard.several(2), [['message', 'news', 'twice'], ['pmessage', 'n?ws', 'news', 'twice']]);
    equal(await subscriber.subscribe('news'), 4, 'subscribed already');
    equal(await subscriber.unsubscribe('unknown'), 4);
    equal(await subscriber.unsubscribe('news'), 3);
    equal(await publisher.publish('news', 'pattern only'), 1);
    equal((await heard.next())[0], 'pmessage');
    equal(await subscriber.punsubscribe('n?ws', 'wea*'), 1);
    equal(await publisher.publish('news', 'nobody'), 0);
    equal(await subscriber.ping(), protocol === 2 ? ['pong', ''] : 'PONG');
    // Without arguments ioredis waits for the count 0, so only one kind may be left.
    equal(await subscriber.unsubscribe(), 0);
    await subscriber.psubscribe('a*', 'b*');
    equal(await subscriber.punsubscribe(), 0);
    equal(await subscriber.echo('a plain client again'), 'a plain client again');
    equal(await subscriber.subscribe('news'), 1);
    equal(await publisher.publish('news', 'again'), 1);
    equal(await heard.next(), ['message', 'news', 'again']);
    equal(heard.isEmpty, true);
  });
}

async function payloads() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    for (const event of ['messageBuffer', 'pmessageBuffer', 'smessageBuffer']) {
      subscriber.on(event, (...args) => heard.push(args.slice(-2)));
    }
    await subscriber.subscribe(ALL_BYTES);
    await subscriber.psubscribe('*');
    await subscriber.ssubscribe(ALL_BYTES);
    for (const payload of PAYLOADS) {
      equal(await publisher.publish(ALL_BYTES, payload), 2);
      equal(await publisher.spublish(ALL_BYTES, payload), 1);
      for (const [channel, message] of await heard.several(3)) {
        equal(Buffer.from(channel), ALL_BYTES, 'channel');
        equal(message, payload);
      }
      equal(await publisher.echoBuffer(payload), payload);
    }
  });
}

async function shardChannels() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    subscriber.on('smessage', heard.push);
    equal(await subscriber.ssubscribe('orders', 'bills'), 2);
    equal(await publisher.spublish('orders', 'shard'), 1);
    equal(await heard.next(), ['orders', 'shard']);
    equal(await publisher.publish('orders', 'plain'), 0, 'a namespace of their own');
    equal((await publisher.pubsub('SHARDCHANNELS')).sort(), ['bills', 'orders']);
    equal(await publisher.pubsub('SHARDNUMSUB', 'orders', 'none'), ['orders', 1, 'none', 0]);
    equal(await subscriber.sunsubscribe('orders'), 1);
    equal(await subscriber.sunsubscribe(), 0);
    equal(await publisher.spublish('orders', 'nobody'), 0);
  });
}

async function introspection() {
  await two(async (publisher, subscriber) => {
    await subscriber.subscribe('s.a', 's.b');
    await subscriber.psubscribe('s.*', 't.*');
    equal((await publisher.pubsub('CHANNELS')).sort(), ['s.a', 's.b']);
    equal(await publisher.pubsub('CHANNELS', '*.b'), ['s.b']);
    equal(await publisher.pubsub('NUMSUB', 's.a', 's.c'), ['s.a', 1, 's.c', 0]);
    equal(await publisher.pubsub('NUMPAT'), 2);
  });
}

async function pipelinesAndTransactions() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    subscriber.on('message', heard.push);
    await subscriber.subscribe('piped');
    const add = (pipeline) => pipeline.publish('piped', 'a').echo('between').publish('piped', 'b');
    const results = [
      await add(publisher.pipeline()).exec(),
      await add(publisher.multi()).exec(),
    ];
    for (const replies of results) equal(replies, [[null, 1], [null, 'between'], [null, 1]]);
    equal((await heard.several(4)).map(([, message]) => message), ['a', 'b', 'a', 'b']);
    // Written one by one, with +QUEUED in between.
    await publisher.multi({ pipeline: false });
    equal(await publisher.publish('piped', 'c'), 'QUEUED');
    equal(await publisher.exec(), [[null, 1]]);
    equal(await heard.next(), ['piped', 'c']);
    const [[good, value], [bad]] = await publisher.pipeline().echo('x').call('SELECT', '99').exec();
    equal([good, value, String(bad).includes('DB index is out of range')], [null, 'x', true]);
    await rejects('EXECABORT', publisher.multi().call('NOSUCH').echo('x').exec());
    equal(await publisher.watch('key'), 'OK');
    equal(await publisher.multi().echo('watched').exec(), [[null, 'watched']]);
    equal(await publisher.unwatch(), 'OK');
    const replies = await Promise.all(Array.from({ length: 1000 }, (_, n) => publisher.publish('piped', n)));
    equal(replies, Array(1000).fill(1));
    const got = (await heard.several(1000)).map(([, message]) => Number(message));
    equal(got, Array.from({ length: 1000 }, (_, n) => n));
  });
}

async function autoPipelining() {
  await connected(async (client) => {
    const replies = await Promise.all(Array.from({ length: 500 }, (_, n) => client.echo(String(n))));
    equal(replies, Array.from({ length: 500 }, (_, n) => String(n)));
  }, { enableAutoPipelining: true });
}

async function killsClients() {
  await connected(async (killer) => {
    await connected(async (victim) => {
      const id = await victim.client('ID');
      equal(await killer.client('KILL', 'ID', id), 1);
      await until('a new connection', async () => (await victim.client('ID')) !== id);
      equal(await killer.client('KILL', 'ID', id), 0);
    });
  });
}

async function subscriberModeIsRefused() {
  await connected(async (client) => {
    await client.subscribe('only');
    if (protocol === 2) await rejects('subscriber mode', client.publish('only', 'x'));
    else equal(await client.publish('only', 'x'), 1);
  });
}

async function errors() {
  await connected(async (client) => {
    await rejects("unknown command 'NOSUCH', with args beginning with: 'a' 'b'", client.call('NOSUCH', 'a', 'b'));
    await rejects("wrong number of arguments for 'publish' command", client.call('PUBLISH', 'a'));
    await rejects('DB index is out of range', client.select(99));
    await rejects('Client names cannot contain spaces', client.client('SETNAME', 'a b'));
    await rejects('unknown subcommand', client.call('PUBSUB', 'NOSUCH'));
    equal(await client.ping(), 'PONG');
  });
}

async function reconnects() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    for (const event of ['message', 'pmessage', 'smessage']) {
      subscriber.on(event, (...args) => heard.push(args.at(-1)));
    }
    await subscriber.subscribe('kept');
    await subscriber.psubscribe('kept.*');
    await subscriber.ssubscribe('kept');
    await restartBroker();
    await until('the subscriptions are resumed', async () => {
      const state = [
        await publisher.pubsub('NUMSUB', 'kept'), await publisher.pubsub('NUMPAT'),
        await publisher.pubsub('SHARDNUMSUB', 'kept'),
      ];
      return String(state) === 'kept,1,1,kept,1';
    });
    await publisher.publish('kept', 'exact');
    await publisher.publish('kept.x', 'pattern');
    await publisher.spublish('kept', 'shard');
    equal((await heard.several(3)).sort(), ['exact', 'pattern', 'shard']);
  });
}

async function passwords() {
  if (password === undefined) return;
  for (const wrong of [undefined, 'wrong']) {
    const client = new Redis(options({ password: wrong, lazyConnect: true, retryStrategy: null }));
    // The promise tells only that the connection was closed.
    const told = new Heard();
    client.on('error', told.push);
    client.connect().catch(() => {});
    const text = String(await told.next('an error'));
    equal(text.includes(wrong ? 'WRONGPASS' : 'NOAUTH'), true, text);
    client.disconnect();
  }
  const url = `redis://default:${encodeURIComponent(password)}@127.0.0.1:${port}/3`;
  const client = new Redis(url, { protocol });
  client.on('error', () => {});
  equal(await client.ping(), 'PONG');
  client.disconnect();
}

await run([
  connectionCommands, subscribesAndUnsubscribes, payloads, shardChannels, introspection, pipelinesAndTransactions,
  autoPipelining, killsClients, subscriberModeIsRefused, errors, reconnects, passwords,
]);
