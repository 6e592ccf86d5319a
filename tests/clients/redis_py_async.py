"""redis-py's asyncio client: pub/sub, async iteration, pipelines, connection handling."""

import asyncio

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import AuthenticationError, ResponseError

from support import PAYLOADS, equal, password, port, protocol, restart_broker, run


def connect(**options):
    return redis.Redis(port=port, protocol=protocol, password=password, **options)


async def next_message(pubsub):
    while True:
        message = await pubsub.get_message(timeout=1)
        if message is not None:
            return message


async def confirmed(pubsub, kind, *names):
    for name in names:
        message = await next_message(pubsub)
        equal((message["type"], message["channel"]), (kind, name), "confirmation")


async def until(check):
    """Round trips until it is true; the deadline is that of the whole scenario."""
    while not await check():
        pass


async def expect_error(kind, part, awaitable):
    try:
        got = await awaitable
    except kind as error:
        assert part in str(error), f"wanted an error with {part!r}, got {error!r}"
        return
    raise AssertionError(f"wanted an error with {part!r}, got {got!r}")


async def check_connection_commands():
    async with connect(decode_responses=True, client_name="async", db=1) as r:
        equal(await r.ping(), True)
        equal(await r.echo("hello"), "hello")
        equal(await r.client_getname(), "async")
        equal(await r.client_setname("renamed"), True)
        info = await r.client_info()
        equal((info["name"], str(info["db"])), ("renamed", "1"))
        equal([c["name"] for c in await r.client_list()].count("renamed"), 1)
        async with connect() as victim:
            old = await victim.client_id()
            equal(await r.client_kill_filter(_id=old), 1)
            assert await victim.client_id() != old, "redis-py connects again by itself"
        assert "redis_version" in await r.info()


async def check_subscribe_and_unsubscribe():
    async with connect() as r, r.pubsub() as p:
        await p.subscribe("news", "weather")
        equal((await next_message(p))["data"], 1)
        equal((await next_message(p))["data"], 2)
        await p.psubscribe("n*")
        await confirmed(p, "psubscribe", b"n*")
        await p.ssubscribe("news")
        await confirmed(p, "ssubscribe", b"news")
        for payload in PAYLOADS:
            equal(await r.publish("news", payload), 2)
            equal(await r.spublish("news", payload), 1)
            for kind in ("message", "pmessage", "smessage"):
                message = await next_message(p)
                equal((message["type"], message["data"]), (kind, payload))
        await p.unsubscribe("news")
        await confirmed(p, "unsubscribe", b"news")
        await p.punsubscribe()
        await confirmed(p, "punsubscribe", b"n*")
        await p.sunsubscribe()
        await confirmed(p, "sunsubscribe", b"news")
        equal(await r.publish("news", "x"), 0)
        await p.unsubscribe()
        await confirmed(p, "unsubscribe", b"weather")
        equal(p.subscribed, False)


async def check_async_iterator():
    async with connect(decode_responses=True) as r, r.pubsub() as p:
        await p.subscribe("iterated")
        await p.psubscribe("iter*")
        await confirmed(p, "subscribe", "iterated")
        await confirmed(p, "psubscribe", "iter*")

        async def publish():
            for number in range(100):
                equal(await r.publish("iterated", number), 2)

        publisher = asyncio.create_task(publish())
        got = []
        async for message in p.listen():
            got.append((message["type"], int(message["data"])))
            if len(got) == 200:
                break
        await publisher
        equal(got, [(kind, n) for n in range(100) for kind in ("message", "pmessage")])


async def check_run_with_handlers():
    got = asyncio.Queue()
    async with connect(decode_responses=True) as r, r.pubsub(ignore_subscribe_messages=True) as p:
        await p.subscribe(handled=got.put_nowait)

        async def asynchronous(message):
            await got.put(message)

        await p.psubscribe(**{"h*": asynchronous})
        task = asyncio.create_task(p.run())

        async def subscribed():
            return await r.pubsub_numsub("handled") == [("handled", 1)] and await r.pubsub_numpat() == 1

        await until(subscribed)
        equal(await r.publish("handled", "x"), 2)
        equal([(await got.get())["type"], (await got.get())["type"]], ["message", "pmessage"])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def check_many_subscribers():
    async with connect(decode_responses=True) as r:
        subscribers = [r.pubsub() for _ in range(50)]
        for p in subscribers:
            await p.subscribe("crowd")
            await confirmed(p, "subscribe", "crowd")
        equal(await r.pubsub_numsub("crowd"), [("crowd", 50)])

        async def ten(p):
            return [(await next_message(p))["data"] for _ in range(10)]

        hearing = [asyncio.create_task(ten(p)) for p in subscribers]
        for number in range(10):
            equal(await r.publish("crowd", number), 50)
        for heard in await asyncio.gather(*hearing):
            equal(heard, [str(number) for number in range(10)])
        await asyncio.gather(*(p.aclose() for p in subscribers))
        await until(lambda: is_empty(r))


async def is_empty(r):
    return await r.pubsub_channels() == []


async def check_pipelines():
    async with connect(decode_responses=True) as r, r.pubsub(ignore_subscribe_messages=True) as p:
        await p.subscribe("piped")
        equal(await p.get_message(timeout=1), None)
        for transaction in (False, True):
            async with r.pipeline(transaction=transaction) as pipe:
                pipe.publish("piped", "a").echo("between").publish("piped", "c")
                equal(await pipe.execute(), [1, "between", 1])
                equal([(await next_message(p))["data"] for _ in range(2)], ["a", "c"])
                pipe.echo("good").execute_command("SELECT", "99")
                good, bad = await pipe.execute(raise_on_error=False)
                equal(good, "good")
                assert isinstance(bad, ResponseError), bad
                pipe.execute_command("NOSUCH").echo("good")
                await expect_error(ResponseError, "unknown command", pipe.execute())
        async with r.pipeline() as pipe:
            await pipe.watch("key")
            pipe.multi()
            pipe.echo("watched")
            equal(await pipe.execute(), ["watched"])


async def check_introspection():
    async with connect(decode_responses=True) as r, r.pubsub() as p:
        await p.subscribe("s.a", "other")
        await confirmed(p, "subscribe", "s.a")
        equal(await r.pubsub_channels("s.*"), ["s.a"])
        equal(await r.pubsub_numsub("s.a", "s.b"), [("s.a", 1), ("s.b", 0)])
        await p.ssubscribe("shard")
        await until(lambda: shard_is_heard(r))
        equal(await r.pubsub_shardchannels(), ["shard"])


async def shard_is_heard(r):
    return await r.pubsub_shardnumsub("shard") == [("shard", 1)]


async def check_concurrent_commands():
    pool = redis.BlockingConnectionPool(
        port=port, protocol=protocol, password=password, max_connections=5, decode_responses=True)
    r = redis.Redis.from_pool(pool)
    echoes = await asyncio.gather(*(r.echo(str(number)) for number in range(500)))
    equal(echoes, [str(number) for number in range(500)])
    await r.aclose()


async def check_errors():
    async with connect() as r:
        await expect_error(ResponseError, "unknown command 'NOSUCH'", r.execute_command("NOSUCH"))
        await expect_error(ResponseError, "wrong number of arguments", r.execute_command("PUBLISH"))
        await expect_error(ResponseError, "DB index is out of range", r.select(99))
        equal(await r.ping(), True)


async def check_reconnect():
    retry = Retry(ConstantBackoff(0.05), 200)
    async with connect(retry=retry, decode_responses=True) as r, \
            r.pubsub(ignore_subscribe_messages=True) as p:
        await p.subscribe("kept")
        await p.psubscribe("kept.*")
        await p.ssubscribe("kept")
        equal([await p.get_message(timeout=1) for _ in range(3)], [None] * 3)
        restart_broker()

        async def resumed():
            await p.get_message(timeout=0.05)
            return (await r.pubsub_numsub("kept"), await r.pubsub_numpat(),
                    await r.pubsub_shardnumsub("kept")) == ([("kept", 1)], 1, [("kept", 1)])

        await until(resumed)
        await r.publish("kept", "exact")
        await r.publish("kept.x", "pattern")
        await r.spublish("kept", "shard")
        equal({(await next_message(p))["data"] for _ in range(3)}, {"exact", "pattern", "shard"})


async def check_password():
    if password is None:
        return
    for wrong in (None, "wrong"):
        # By default redis-py tries again, with seconds in between.
        retry = Retry(NoBackoff(), 0)
        async with redis.Redis(port=port, protocol=protocol, password=wrong, retry=retry) as r:
            await expect_error(AuthenticationError, "", r.ping())
    async with redis.from_url(f"redis://default:{password}@127.0.0.1:{port}?protocol={protocol}") as r:
        equal(await r.ping(), True)


run(dict(globals()))
