// nats.js over TCP: subjects, queue groups, requests, headers, limits, draining, reconnecting, authentication.

import assert from 'node:assert/strict';

import {
  ALL_BYTES, Heard, PAYLOADS, equal, password, port, require, restartBroker, run, within,
} from './support.mjs';

const { connect: natsConnect, createInbox, errors, headers: newHeaders } = require('@nats-io/transport-node');

const server = `127.0.0.1:${port}`;
const credentials = password === undefined ? {} : { user: 'default', pass: password };
const MEBIBYTE = PAYLOADS[4];
// What the broker of this test was told.
const MAX_PAYLOAD = 2 * MEBIBYTE.length;
const REQUEST_MS_MAX = 15_000;

/** A connection for the time of `use`; that the client reports no error is part of every check. */
async function connected(use, options) {
  const nc = await within('connect', natsConnect({ servers: server, ...credentials, ...options }));
  const reported = [];
  const watching = (async () => {
    for await (const status of nc.status()) if (status.type === 'error') reported.push(status.error);
  })();
  try {
    return await use(nc);
  } finally {
    await within('close', nc.close());
    await within('the end of the status', watching);
    equal(reported, [], 'errors that the client reported');
  }
}

const two = (use) => connected((publisher) => connected((subscriber) => use(publisher, subscriber)));
const three = (use) => two((first, second) => connected((third) => use(first, second, third)));

/** What a subscription hears, in order; the broker knows of it. */
async function subscribed(nc, subject, options) {
  const heard = [];
  const subscription = nc.subscribe(subject, {
    callback: (error, message) => heard.push(error ?? message),
    ...options,
  });
  await within('flush', nc.flush());
  return { heard, subscription, take: () => heard.splice(0).map(data) };
}

/** Answers all requests to a subject. */
async function answering(nc, subject, answer, options) {
  const subscription = nc.subscribe(subject, { callback: (error, message) => answer(message), ...options });
  await within('flush', nc.flush());
  return subscription;
}

let fences = 0;

/** Returns when the subscribers have got all that the publisher has published so far. */
async function fence(publisher, ...subscribers) {
  const subject = `fence.${(fences += 1)}`;
  const heard = new Heard();
  const subscriptions = subscribers.map((nc) => nc.subscribe(subject, { callback: heard.push }));
  await Promise.all(subscribers.map((nc) => within('flush', nc.flush())));
  publisher.publish(subject, subject);
  await heard.several(subscribers.length);
  for (const subscription of subscriptions) subscription.unsubscribe();
}

const data = (message) => Buffer.from(message.data);
const texts = (buffers) => buffers.map(String);
const numbers = (count) => Array.from({ length: count }, (_, number) => String(number));
const ask = (nc, subject, payload, more) =>
  within('an answer', nc.request(subject, payload, { timeout: REQUEST_MS_MAX, ...more }));

async function expectError(kind, text, promise) {
  const error = await within('a refusal', promise).then(
    (got) => assert.fail(`wanted ${kind.name}, got ${got}`),
    (reason) => reason,
  );
  assert(error instanceof kind, `wanted ${kind.name}, got ${error.stack}`);
  equal(error.message, text);
  return error;
}

async function expectNoResponders(nc, subject, more) {
  const started = Date.now();
  const text = `no responders: '${subject}'`;
  const refused = nc.request(subject, 'anybody?', { timeout: REQUEST_MS_MAX, ...more });
  const error = await expectError(errors.RequestError, text, refused);
  equal(error.isNoResponders(), true, 'no responders');
  assert(error.cause instanceof errors.NoRespondersError, String(error.cause));
  assert(Date.now() - started < REQUEST_MS_MAX / 3, 'it was a time-out');
}

async function whatTheBrokerSaysOfItself() {
  await connected(async (nc) => {
    const { max_payload: payloadMax, headers, proto, port: said, auth_required: auth } = nc.info;
    equal([payloadMax, headers, proto, said], [MAX_PAYLOAD, true, 1, port], 'INFO');
    equal(auth ?? false, password !== undefined, 'auth_required');
    assert((await within('rtt', nc.rtt())) >= 0);
  }, { name: 'named' });
}

async function publishAndSubscribe() {
  await two(async (publisher, subscriber) => {
    const first = await subscribed(subscriber, 'news.größe');
    const second = await subscribed(subscriber, 'news.größe');
    const other = await subscribed(subscriber, 'news.other');
    const payloads = [...PAYLOADS, Buffer.from('MSG news 1 5\r\nhello\r\n')];
    for (const payload of payloads) {
      publisher.publish('news.größe', payload);
      await fence(publisher, subscriber);
      for (const { heard, take } of [first, second]) {
        equal(heard.map((m) => [m.subject, m.reply ?? '', m.headers]), [['news.größe', '', undefined]]);
        equal(take()[0], payload);
      }
    }
    second.subscription.unsubscribe();
    publisher.publish('news.größe', 'once more', { reply: 'where.to' });
    await fence(publisher, subscriber);
    equal(first.heard.map((m) => [m.string(), m.reply]), [['once more', 'where.to']]);
    equal(second.heard, [], 'nothing after it had unsubscribed');
    equal(other.heard, [], 'another subject');
  });
}

async function wildcards() {
  const subjects = ['a', 'a.b', 'a.b.c', 'a.x.c', 'a.b.c.d', 'b', 'b.b', 'A.b', 'ab.b'];
  const wanted = {
    'a.*': ['a.b'],
    '*.b': ['a.b', 'b.b', 'A.b', 'ab.b'],
    '*.*': ['a.b', 'b.b', 'A.b', 'ab.b'],
    'a.*.c': ['a.b.c', 'a.x.c'],
    'a.>': ['a.b', 'a.b.c', 'a.x.c', 'a.b.c.d'],
    'a.*.>': ['a.b.c', 'a.x.c', 'a.b.c.d'],
    '*': ['a', 'b'],
    '>': subjects,
  };
  await two(async (publisher, subscriber) => {
    const subscriptions = {};
    for (const pattern of Object.keys(wanted)) subscriptions[pattern] = await subscribed(subscriber, pattern);
    for (const subject of subjects) publisher.publish(subject, subject);
    await fence(publisher, subscriber);
    for (const [pattern, { heard }] of Object.entries(subscriptions)) {
      equal(heard.map((m) => m.string()), heard.map((m) => m.subject));
      // The fence is heard as well.
      equal(heard.map((m) => m.subject).filter((s) => !s.startsWith('fence.')), wanted[pattern], pattern);
    }
  });
}

async function queueGroups() {
  await connected((publisher) => three(async (...members) => {
    const workers = [];
    for (const nc of members) workers.push(await subscribed(nc, 'jobs.*', { queue: 'workers' }));
    const plain = await subscribed(members[0], 'jobs.>');
    const alone = await subscribed(members[1], 'jobs.one', { queue: 'others' });
    for (const number of numbers(300)) publisher.publish('jobs.one', number);
    await fence(publisher, ...members);
    const byNumber = (a, b) => Number(a) - Number(b);
    const shares = workers.map(({ take }) => texts(take()));
    equal(shares.flat().sort(byNumber), numbers(300), 'each exactly once in all');
    for (const share of shares) {
      equal(share, share.toSorted(byNumber), 'order within a member');
      assert(share.length >= 50, `shares of ${shares.map((each) => each.length)}`);
    }
    equal(texts(plain.take()), numbers(300), 'who is in no group hears all');
    equal(texts(alone.take()), numbers(300), 'another group hears all');
    for (const index of [0, 1]) {
      workers[index].subscription.unsubscribe();
      await within('flush', members[index].flush());
    }
    for (const number of numbers(50)) publisher.publish('jobs.one', number);
    await fence(publisher, ...members);
    equal(texts(workers[2].take()), numbers(50), 'the last member hears all');
  }));
}

async function requests() {
  await two(async (asker, answerer) => {
    const answer = (message) => message.respond(Buffer.concat([Buffer.from('re: '), message.data]));
    await answering(answerer, 'service.*', answer);
    const answers = await Promise.all(numbers(200).map((number) => ask(asker, 'service.echo', number)));
    equal(answers.map((m) => m.string()), numbers(200).map((number) => `re: ${number}`));
    for (const payload of [Buffer.alloc(0), ALL_BYTES]) {
      const got = await ask(asker, 'service.echo', payload, { noMux: true, reply: createInbox() });
      equal(data(got), Buffer.concat([Buffer.from('re: '), payload]));
    }
    equal((await ask(answerer, 'service.own', 'myself')).string(), 're: myself');
  });
}

async function manyReplies() {
  await three(async (asker, answerer, another) => {
    const answer = (message) => {
      for (let number = 0; number < 5; number += 1) message.respond(`${message.string()} ${number}`);
      message.respond();
    };
    const collect = async (options) => {
      const replies = await asker.requestMany('many', 'reply', { maxWait: REQUEST_MS_MAX, ...options });
      const got = [];
      for await (const message of replies) got.push(message.string());
      return got;
    };
    const wanted = ['reply 0', 'reply 1', 'reply 2', 'reply 3', 'reply 4', ''];
    await answering(answerer, 'many', answer);
    equal(await within('an empty reply', collect({ strategy: 'sentinel' })), wanted, 'to the empty one');
    await answering(another, 'many', answer);
    for (const noMux of [false, true]) {
      const got = await within('12 replies', collect({ strategy: 'count', maxMessages: 12, noMux }));
      equal(got.sort(), [...wanted, ...wanted].sort());
    }
    const inbox = createInbox();
    const replies = await subscribed(asker, inbox);
    asker.publish('many', 'reply', { reply: inbox });
    await within('flush', asker.flush());
    await fence(asker, answerer, another);
    await fence(answerer, asker);
    await fence(another, asker);
    equal(texts(replies.take()).sort(), [...wanted, ...wanted].sort(), 'no more than that');
  });
}

async function noResponders() {
  await two(async (asker, answerer) => {
    await expectNoResponders(asker, 'nobody');
    await expectNoResponders(asker, 'nobody', { noMux: true });
    const some = newHeaders();
    some.set('Some', 'header');
    await expectNoResponders(asker, 'nobody', { headers: some });
    const heard = new Heard();
    asker.subscribe('inbox.of.mine', { callback: (error, message) => heard.push(message) });
    asker.publish('nobody', '', { reply: 'inbox.of.mine' });
    const message = await heard.next();
    equal([message.data.length, message.headers.code, message.headers.keys()], [0, 503, []]);
    for (let round = 0; round < 20; round += 1) {
      // What is flushed holds for all connections, on whatever shard they are.
      const subscription = await answering(answerer, `now.${round}`, (asked) => asked.respond('here'));
      equal((await ask(asker, `now.${round}`)).string(), 'here');
      subscription.unsubscribe();
      await within('flush', answerer.flush());
      await expectNoResponders(asker, `now.${round}`);
    }
  });
}

async function headers() {
  const there = newHeaders();
  for (const value of ['one', 'two: 2', 'größe']) there.append('Several', value);
  there.set('single-one', 'alone');
  there.set('Empty', '');
  await two(async (asker, answerer) => {
    const seen = [];
    await answering(answerer, 'with.headers', (message) => {
      const { headers: got } = message;
      seen.push([got.keys().sort(), got.values('Several'), got.get('single-one'), got.get('Empty')]);
      const back = newHeaders(200, 'fine');
      for (const value of ['b', 'a', 'b']) back.append('Back', value);
      message.respond(message.data, { headers: back });
    });
    for (const payload of [Buffer.alloc(0), Buffer.from('payload'), MEBIBYTE]) {
      const got = await ask(asker, 'with.headers', payload, { headers: there });
      equal(data(got), payload);
      equal([got.headers.keys(), got.headers.values('Back')], [['Back'], ['b', 'a', 'b']], 'headers back');
      equal([got.headers.code, got.headers.description], [200, 'fine'], 'status back');
    }
    const wanted = [['Empty', 'Several', 'single-one'], ['one', 'two: 2', 'größe'], 'alone', ''];
    equal(seen, [wanted, wanted, wanted], 'headers there');
  });
}

async function flush() {
  await two(async (publisher, subscriber) => {
    for (let round = 0; round < 50; round += 1) {
      const heard = new Heard();
      subscriber.subscribe(`flushed.${round}`, { max: 1, callback: (error, message) => heard.push(message) });
      await within('flush', subscriber.flush());
      publisher.publish(`flushed.${round}`, 'x');
      await within('flush', publisher.flush());
      equal((await heard.next()).string(), 'x');
    }
  });
}

async function autoUnsubscribe() {
  await two(async (publisher, subscriber) => {
    const limited = await subscribed(subscriber, 'limited', { max: 3 });
    const later = await subscribed(subscriber, 'limited.later');
    for (const number of numbers(2)) publisher.publish('limited.later', number);
    await fence(publisher, subscriber);
    equal(texts(later.take()), numbers(2));
    later.subscription.unsubscribe(5);
    await within('flush', subscriber.flush());
    for (const number of numbers(9)) {
      publisher.publish('limited', number);
      publisher.publish('limited.later', number);
    }
    await within('the end of the first', limited.subscription.closed);
    await within('the end of the second', later.subscription.closed);
    await fence(publisher, subscriber);
    equal(texts(limited.take()), numbers(3), 'messages of a subscription for three');
    equal(texts(later.take()), numbers(3), 'messages after the first two of five');
    equal(subscriber.stats().inMsgs, 10, 'eight messages and two fences, and nothing that the client drops');
    // That the broker has ended them shows in that nobody is there.
    await expectNoResponders(publisher, 'limited');
    await expectNoResponders(publisher, 'limited.later');
  });
}

async function noEcho() {
  await connected((silent) => connected(async (loud) => {
    const silents = await subscribed(silent, 'echo.>');
    const louds = await subscribed(loud, 'echo.*');
    silent.publish('echo.a', 'of the silent');
    await within('flush', silent.flush());
    loud.publish('echo.a', 'of the loud');
    await fence(silent, loud);
    await fence(loud, silent);
    equal(texts(silents.take()), ['of the loud']);
    equal(texts(louds.take()).sort(), ['of the loud', 'of the silent']);
  }), { noEcho: true });
}

async function largePayloads() {
  await two(async (publisher, subscriber) => {
    const heard = new Heard();
    subscriber.subscribe('large', { callback: (error, message) => heard.push(message) });
    await within('flush', subscriber.flush());
    const largest = Buffer.concat([MEBIBYTE, MEBIBYTE]);
    for (const payload of [MEBIBYTE, largest]) {
      publisher.publish('large', payload);
      equal(data(await heard.next()), payload);
    }
    const tooMuch = async () => publisher.publish('large', Buffer.concat([largest, Buffer.from('x')]));
    await expectError(errors.InvalidArgumentError, "'payload' max_payload size exceeded", tooMuch());
    publisher.publish('large', 'it goes on');
    equal((await heard.next()).string(), 'it goes on');
  });
}

async function drain() {
  await two(async (publisher, subscriber) => {
    const subscription = subscriber.subscribe('drained.first');
    await within('flush', subscriber.flush());
    for (const number of numbers(1000)) publisher.publish('drained.first', number);
    await fence(publisher, subscriber);
    const handled = [];
    const drained = subscription.drain();
    for await (const message of subscription) handled.push(message.string());
    await within('the drain', drained);
    equal(handled, numbers(1000), 'a drained subscription handles what has come');
    await expectNoResponders(publisher, 'drained.first');

    const second = await subscribed(subscriber, 'drained.second');
    const last = await subscribed(publisher, 'drained.last');
    for (const number of numbers(1000)) publisher.publish('drained.second', number);
    await within('flush', publisher.flush());
    await fence(publisher, subscriber);
    subscriber.publish('drained.last', 'said before the drain');
    await within('the drain', subscriber.drain());
    equal(await within('the end', subscriber.closed()), undefined, 'it ends without an error');
    equal(texts(second.take()), numbers(1000), 'a drained connection handles what has come');
    await fence(publisher, publisher);
    equal(texts(last.take()), ['said before the drain']);
    await expectError(errors.ClosedConnectionError, 'closed connection', (async () => subscriber.publish('x'))());
    await expectNoResponders(publisher, 'drained.second');
  });
}

const RECONNECTING = { reconnectTimeWait: 50, reconnectJitter: 0, maxReconnectAttempts: -1 };

/** Resolves when the connection has been lost and is there again. */
async function isBack(nc) {
  const seen = [];
  for await (const { type } of nc.status()) {
    seen.push(type);
    if (type === 'reconnect') break;
  }
  equal(seen[0], 'disconnect', 'what comes first');
}

async function reconnect() {
  const use = async (publisher, subscriber) => {
    const plain = await subscribed(subscriber, 'kept.one');
    const wildcard = await subscribed(subscriber, 'kept.>');
    const group = await subscribed(subscriber, 'kept.*', { queue: 'group' });
    const gone = await subscribed(subscriber, 'kept.one');
    gone.subscription.unsubscribe();
    await answering(subscriber, 'asked', (message) => message.respond('here'));
    publisher.publish('kept.one', 'before');
    await fence(publisher, subscriber);
    for (const { take } of [plain, wildcard, group]) equal(texts(take()), ['before']);
    equal((await ask(publisher, 'asked')).string(), 'here');
    const back = Promise.all([isBack(publisher), isBack(subscriber)]);
    await restartBroker();
    await within('both connections', back);
    await Promise.all([publisher, subscriber].map((nc) => within('flush', nc.flush())));
    for (const number of numbers(3)) publisher.publish('kept.one', number);
    await fence(publisher, subscriber);
    for (const { take } of [plain, wildcard, group]) equal(texts(take()), numbers(3), 'after the restart');
    equal(gone.heard, []);
    equal((await ask(publisher, 'asked')).string(), 'here');
  };
  await connected((publisher) => connected((subscriber) => use(publisher, subscriber), RECONNECTING), RECONNECTING);
}

async function authentication() {
  if (password === undefined) {
    await connected((nc) => within('flush', nc.flush()), { user: 'any', pass: 'thing' });
    return;
  }
  const refused = (options) =>
    expectError(errors.AuthorizationError, 'Authorization Violation', natsConnect({ servers: server, ...options }));
  await refused({});
  await refused({ user: 'default', pass: 'wrong' });
  await refused({ user: 'default', pass: '' });
  await refused({ user: 'nobody', pass: password });
  await refused({ token: 'wrong' });
  const token = await within('connect', natsConnect({ servers: server, token: password }));
  const heard = await subscribed(token, 'token');
  await connected(async (publisher) => {
    publisher.publish('token', 'let in');
    await fence(publisher, token);
  });
  equal(texts(heard.take()), ['let in']);
  await within('close', token.close());
}

async function slowConsumer() {
  await two(async (publisher, subscriber) => {
    const reports = new Heard();
    (async () => {
      for await (const status of subscriber.status()) if (status.type === 'slowConsumer') reports.push(status);
    })();
    const slow = subscriber.subscribe('flood', { slow: 10 });
    const quick = await subscribed(subscriber, 'flood');
    for (const number of numbers(100)) publisher.publish('flood', number);
    const report = await reports.next();
    equal([report.sub.getID(), report.pending], [slow.getID(), 11], 'the report');
    await fence(publisher, subscriber);
    equal(texts(quick.take()), numbers(100), 'the others miss nothing');
    // This client reports and goes on: nothing is dropped.
    slow.unsubscribe(100);
    const late = [];
    for await (const message of slow) {
      late.push(message.string());
      if (late.length === 100) break;
    }
    equal(late, numbers(100));
    equal(reports.isEmpty, true, 'one report is all');
  });
}

async function order() {
  await connected((subscriber) => three(async (...publishers) => {
    const all = await subscribed(subscriber, 'order.>');
    for (let number = 0; number < 2000; number += 1) {
      publishers.forEach((nc, name) => {
        // One after the other on different subjects, and of different kinds.
        const options = {};
        if (number % 7 === 0) (options.headers = newHeaders()).set('Number', String(number));
        nc.publish(`order.${name}.${number % 3}`, String(number), options);
      });
    }
    for (const nc of publishers) await fence(nc, subscriber);
    for (let name = 0; name < publishers.length; name += 1) {
      const own = all.heard.filter((message) => message.subject.startsWith(`order.${name}.`));
      equal(own.map((message) => message.string()), numbers(2000), `order of publisher ${name}`);
    }
    equal(all.heard.length, 6000);
  }));
}

/** What the broker refuses and nats-server would not: the library reports it and goes on. */
async function refusals() {
  const nc = await within('connect', natsConnect({ servers: server, ...credentials }));
  const reported = new Heard();
  (async () => {
    for await (const status of nc.status()) if (status.type === 'error') reported.push(status.error);
  })();
  const deep = Array.from({ length: 65 }, () => 't').join('.');
  nc.publish(deep, 'x');
  const error = await reported.next('a report');
  assert(error instanceof errors.PermissionViolationError, String(error));
  equal([error.operation, error.subject], ['publish', deep]);
  const subscription = nc.subscribe('still.there', { max: 1 });
  nc.publish('still.there', 'yes');
  for await (const message of subscription) equal(message.string(), 'yes');
  await within('close', nc.close());
}

/** A client that publishes to itself far more than the broker keeps for it, before it reads anything. */
async function manyToItself() {
  const count = 128_000;
  const payload = Buffer.alloc(1024, 'x');
  await connected(async (nc) => {
    let heard = 0;
    let done;
    const all = new Promise((resolve) => { done = resolve; });
    nc.subscribe('itself', { callback: () => { if ((heard += 1) === count) done(); } });
    for (let number = 0; number < count; number += 1) nc.publish('itself', payload);
    await within('all of them', Promise.race([all, nc.closed()]));
    equal(heard, count);
  });
}

await run([
  whatTheBrokerSaysOfItself, publishAndSubscribe, wildcards, queueGroups, requests, manyReplies, noResponders, headers,
  flush, autoUnsubscribe, noEcho, largePayloads, drain, reconnect, authentication, slowConsumer, order,
  refusals, manyToItself,
]);
