// Aedes: two MQTT brokers of a cluster, joined by mqemitter-redis over Redis pub/sub through the broker.

import { createServer } from 'node:net';

import { Heard, equal, password, port, require, run, within } from './support.mjs';

const { Aedes } = require('aedes');
const emitterOfRedis = require('mqemitter-redis');
const mqtt = require('mqtt');

async function listening(id) {
  // ioredis 5 fails at its ready check if it subscribes early, with redis-server too.
  const mq = emitterOfRedis({ host: '127.0.0.1', port, password, enableReadyCheck: false });
  const broker = await within('a broker', Aedes.createBroker({ id, mq, heartbeatInterval: 200 }));
  const server = createServer(broker.handle);
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  return { broker, server, address: `mqtt://127.0.0.1:${server.address().port}` };
}

const subscribed = async (client, ...topics) => {
  const heard = new Heard();
  client.on('message', (topic, payload) => heard.push(topic, payload.toString()));
  for (const topic of topics) await within(`subscribe to ${topic}`, client.subscribeAsync(topic));
  return heard;
};

async function aClusterOfTwo() {
  const one = await listening('one');
  const two = await listening('two');
  const here = await within('connect', mqtt.connectAsync(one.address, { clientId: 'here' }));
  const there = await within('connect', mqtt.connectAsync(two.address, { clientId: 'there' }));
  const news = await subscribed(there, 'news/+/today');
  here.publish('news/art/yesterday', 'no');
  here.publish('news/art/today', 'yes');
  equal(await news.next(), ['news/art/today', 'yes']);

  // Each broker says that it lives on $SYS, and the other hears it.
  const beats = new Heard();
  await within('listen', new Promise((resolve) => {
    one.broker.mq.on('$SYS/+/heartbeat', (packet, done) => { beats.push(packet.topic); done(); }, resolve);
  }));
  let topic;
  while (topic !== '$SYS/two/heartbeat') topic = await beats.next('a heartbeat of the other');

  // A client that connects anew elsewhere is taken over there: that is told on $SYS too.
  const gone = new Heard();
  here.on('close', () => gone.push('closed'));
  const again = await within('connect', mqtt.connectAsync(two.address, { clientId: 'here' }));
  equal(await gone.next('the old connection\'s end'), 'closed');

  await Promise.all([here, there, again].map((client) => within('end', client.endAsync(true))));
  for (const { broker, server } of [one, two]) {
    await within('close', new Promise((resolve) => { broker.close(resolve); }));
    server.close();
  }
}

await run([aClusterOfTwo]);
