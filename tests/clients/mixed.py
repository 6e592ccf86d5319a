"""redis-py, nats-py and the native client on one topic: each hears what the others publish, and a queue group of
NATS and native members shares turns."""

import asyncio
import json
import os
import subprocess

import nats
import redis.asyncio

from support import SECONDS_MAX, equal, port, run

REDIS_PORT = int(os.environ["SAPWOOD_TEST_REDIS_PORT"])
# Built from the client library for Rust, connected to where SAPWOOD_NATIVE says.
SAPWOOD = os.environ["SAPWOOD_TEST_BINARY"]


class Native:
    """`sapwood sub` with these arguments, until it has printed so many events."""

    def __init__(self, count, *arguments):
        command = [SAPWOOD, "sub", *arguments, "--json", "--count", str(count), "--timeout", f"{SECONDS_MAX}s"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def events(self):
        out, _ = self.process.communicate(timeout=2 * SECONDS_MAX)
        return [json.loads(line) for line in out.splitlines()]


async def listeners(client, topic, count):
    """Returns once so many subscriptions to a topic are known."""
    for _ in range(1000):
        if (await client.pubsub_numsub(topic))[0][1] == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{topic} never had {count} subscriptions")


async def check_each_hears_the_others():
    rd = redis.asyncio.Redis(port=REDIS_PORT, decode_responses=True)
    nc = await nats.connect(f"nats://127.0.0.1:{port}")
    pubsub = rd.pubsub(ignore_subscribe_messages=True)
    await pubsub.subscribe("room.1")
    subscription = await nc.subscribe("room.1")
    native = Native(3, "room.1")
    await listeners(rd, "room.1", 3)

    equal(await rd.publish("room.1", "from redis-py"), 3, "subscriptions that PUBLISH counts")
    await nc.publish("room.1", b"from nats-py", headers={"Colour": "blue"})
    await nc.flush()
    subprocess.run([SAPWOOD, "pub", "room.1", "from native"], check=True)

    wanted = ["from native", "from nats-py", "from redis-py"]
    by_redis = []
    while len(by_redis) < 3:
        message = await pubsub.get_message(timeout=SECONDS_MAX)
        if message:
            by_redis.append(message["data"])
    equal(sorted(by_redis), wanted, "redis-py")
    by_nats = [await subscription.next_msg(timeout=SECONDS_MAX) for _ in range(3)]
    equal(sorted(message.data.decode() for message in by_nats), wanted, "nats-py")
    by_native = native.events()
    equal(sorted(event["data"] for event in by_native), wanted, "native")
    of_nats = [event for event in by_native if event["data"] == "from nats-py"]
    equal("blue" in json.dumps(of_nats[0].get("headers")), True, "the header arrives natively")
    await nc.close()
    await pubsub.aclose()
    await rd.aclose()


async def check_a_queue_group_shares_turns():
    rd = redis.asyncio.Redis(port=REDIS_PORT, decode_responses=True)
    nc = [await nats.connect(f"nats://127.0.0.1:{port}") for _ in range(3)]
    members = [await client.subscribe("work", queue="crew") for client in nc[:2]]
    native = Native(100, "work", "--group", "crew")
    await listeners(rd, "work", 3)
    for number in range(300):
        await nc[2].publish("work", b"%03d" % number)
    await nc[2].flush()
    by_native = [event["data"] for event in native.events()]
    by_nats = []
    for member in members:
        by_nats.append([(await member.next_msg(timeout=SECONDS_MAX)).data.decode() for _ in range(100)])
    equal([len(turns) for turns in [*by_nats, by_native]], [100, 100, 100], "turns of each member")
    wanted = [f"{number:03}" for number in range(300)]
    equal(sorted(sum(by_nats, by_native)), wanted, "each event is one member's")
    for client in nc:
        await client.close()
    await rd.aclose()


if __name__ == "__main__":
    run(globals())
