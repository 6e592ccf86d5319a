"""nats-py: subjects, queue groups, requests, headers, limits, draining, reconnecting, authentication."""

import asyncio
import contextlib
import itertools
import json
import time

import nats
import nats.micro
from nats import errors

from support import ALL_BYTES, MEBIBYTE, PAYLOADS, SECONDS_MAX, equal, password, port, restart_broker, run

URL = f"nats://127.0.0.1:{port}"
CREDENTIALS = {} if password is None else dict(user="default", password=password)
# What the broker of this test was told.
MAX_PAYLOAD = 2 * 1024 * 1024

fences = itertools.count()


@contextlib.asynccontextmanager
async def connect(**options):
    """A connection; that the client reports no error is part of every check."""
    reported = []

    async def note(error):
        reported.append(error)

    nc = await nats.connect(URL, **{"error_cb": note, **CREDENTIALS, **options})
    try:
        yield nc
    finally:
        if not nc.is_closed:
            await nc.close()
    equal(reported, [], "errors that the client reported")


@contextlib.asynccontextmanager
async def two():
    async with connect() as publisher, connect() as subscriber:
        yield publisher, subscriber


async def settle(nc):
    """Returns when the broker has done all that was asked of it so far."""
    # The first PING goes ahead of what the client has not written yet, the second stands behind it.
    await nc.flush(SECONDS_MAX)
    await nc.flush(SECONDS_MAX)


async def subscribed(nc, subject, **options):
    """A subscription that the broker knows of."""
    subscription = await nc.subscribe(subject, **options)
    await settle(nc)
    return subscription


async def next_message(subscription):
    return await subscription.next_msg(timeout=SECONDS_MAX)


async def fence(publisher, *subscribers):
    """Returns when the subscribers have got all that the publisher has published so far."""
    subject = f"fence.{next(fences)}"
    subscriptions = [await subscribed(nc, subject) for nc in subscribers]
    await publisher.publish(subject, subject.encode())
    for subscription in subscriptions:
        await next_message(subscription)
        await subscription.unsubscribe()


async def waiting(subscription):
    """All messages that have come and have not been taken."""
    return [await next_message(subscription) for _ in range(subscription.pending_msgs)]


async def data_of(subscription):
    return [message.data for message in await waiting(subscription)]


def numbers(count):
    return [b"%d" % number for number in range(count)]


async def expect_error(kind, text, awaitable):
    """It must raise an error of exactly this kind, with exactly this text."""
    try:
        got = await awaitable
    except errors.Error as error:
        equal((type(error), str(error)), (kind, text), "error")
        return
    raise AssertionError(f"wanted {kind} {text!r}, got {got!r}")


async def expect_no_responders(nc, subject, **options):
    started = time.monotonic()
    request = nc.request(subject, b"anybody?", timeout=SECONDS_MAX, **options)
    await expect_error(errors.NoRespondersError, "nats: no responders available for request", request)
    assert time.monotonic() - started < SECONDS_MAX / 3, "it was a time-out"


async def check_what_the_broker_says_of_itself():
    async with connect(name="named") as nc:
        equal((nc.max_payload, str(nc.client_ip)), (MAX_PAYLOAD, "127.0.0.1"), "INFO")
        assert nc.client_id > 0, nc.client_id
        equal(nc.connected_server_version.major, 2)
        assert 0 < await nc.rtt(SECONDS_MAX) < SECONDS_MAX


async def check_publish_and_subscribe():
    async with two() as (publisher, subscriber):
        first = await subscribed(subscriber, "news.größe")
        second = await subscribed(subscriber, "news.größe")
        other = await subscribed(subscriber, "news.other")
        payloads = [*PAYLOADS, b"MSG news 1 5\r\nhello\r\n"]
        for payload in payloads:
            await publisher.publish("news.größe", payload)
            for subscription in (first, second):
                message = await next_message(subscription)
                equal((message.subject, message.reply, message.headers), ("news.größe", "", None))
                equal(message.data, payload, "payload")
        await second.unsubscribe()
        await settle(subscriber)
        await publisher.publish("news.größe", b"once more", reply="where.to")
        await fence(publisher, subscriber)
        equal([(m.data, m.reply) for m in await waiting(first)], [(b"once more", "where.to")])
        equal(second.delivered, len(payloads), "nothing after it had unsubscribed")
        equal(await waiting(other), [], "another subject")


async def check_wildcards():
    subjects = ["a", "a.b", "a.b.c", "a.x.c", "a.b.c.d", "b", "b.b", "A.b", "ab.b"]
    wanted = {
        "a.*": ["a.b"],
        "*.b": ["a.b", "b.b", "A.b", "ab.b"],
        "*.*": ["a.b", "b.b", "A.b", "ab.b"],
        "a.*.c": ["a.b.c", "a.x.c"],
        "a.>": ["a.b", "a.b.c", "a.x.c", "a.b.c.d"],
        "a.*.>": ["a.b.c", "a.x.c", "a.b.c.d"],
        "*": ["a", "b"],
        ">": subjects,
    }
    async with two() as (publisher, subscriber):
        subscriptions = {subject: await subscribed(subscriber, subject) for subject in wanted}
        for subject in subjects:
            await publisher.publish(subject, subject.encode())
        await fence(publisher, subscriber)
        for pattern, subscription in subscriptions.items():
            got = await waiting(subscription)
            equal([m.data.decode() for m in got], [m.subject for m in got])
            # The fence is heard as well.
            got = [m.subject for m in got if not m.subject.startswith("fence.")]
            equal(got, wanted[pattern], pattern)


async def check_queue_groups():
    async with connect() as publisher, contextlib.AsyncExitStack() as stack:
        members = [await stack.enter_async_context(connect()) for _ in range(3)]
        workers = [await subscribed(nc, "jobs.*", queue="workers") for nc in members]
        plain = await subscribed(members[0], "jobs.>")
        alone = await subscribed(members[1], "jobs.one", queue="others")
        for payload in numbers(300):
            await publisher.publish("jobs.one", payload)
        await fence(publisher, *members)
        shares = [await data_of(worker) for worker in workers]
        equal(sorted(sum(shares, []), key=int), numbers(300), "each exactly once in all")
        for share in shares:
            equal(share, sorted(share, key=int), "order within a member")
            assert len(share) >= 50, [len(share) for share in shares]
        equal(await data_of(plain), numbers(300), "who is in no group hears all")
        equal(await data_of(alone), numbers(300), "another group hears all")
        await members[0].drain()
        await workers[1].unsubscribe()
        await settle(members[1])
        for payload in numbers(50):
            await publisher.publish("jobs.one", payload)
        await fence(publisher, members[2])
        equal(await data_of(workers[2]), numbers(50), "the last member hears all")


async def check_requests():
    async with two() as (asker, answerer):
        async def answer(message):
            await message.respond(b"re: " + message.data)

        await subscribed(answerer, "service.*", cb=answer)
        asked = [asker.request("service.echo", payload, timeout=SECONDS_MAX) for payload in numbers(200)]
        answers = await asyncio.gather(*asked)
        equal([a.data for a in answers], [b"re: " + payload for payload in numbers(200)])
        for payload in (b"", ALL_BYTES):
            old = await asker.request("service.echo", payload, timeout=SECONDS_MAX, old_style=True)
            equal(old.data, b"re: " + payload)
        own = await answerer.request("service.own", b"myself", timeout=SECONDS_MAX)
        equal(own.data, b"re: myself")


async def check_many_replies():
    async with two() as (asker, answerer), connect() as another:
        async def answer(message):
            for number in range(5):
                await message.respond(message.data + b" %d" % number)
            await message.respond(b"")

        for nc in (answerer, another):
            await subscribed(nc, "many", cb=answer)
        inbox = asker.new_inbox()
        replies = await asker.subscribe(inbox)
        await asker.publish("many", b"reply", reply=inbox)
        got = [(await next_message(replies)).data for _ in range(12)]
        wanted = [b"reply %d" % number for number in range(5)] + [b""]
        equal(sorted(got), sorted(2 * wanted))
        await fence(answerer, asker)
        await fence(another, asker)
        equal(await waiting(replies), [], "no more than that")


async def check_no_responders():
    async with two() as (asker, answerer):
        await expect_no_responders(asker, "nobody")
        await expect_no_responders(asker, "nobody", old_style=True)
        await expect_no_responders(asker, "nobody", headers={"Some": "header"})
        inbox = await subscribed(asker, "inbox.of.mine")
        await asker.publish("nobody", reply="inbox.of.mine")
        message = await next_message(inbox)
        equal((message.data, message.headers), (b"", {"Status": "503"}))

        async def answer(message):
            await message.respond(b"here")

        for round in range(20):
            # What is flushed holds for all connections, on whatever shard they are.
            subscription = await subscribed(answerer, f"now.{round}", cb=answer)
            got = await asker.request(f"now.{round}", timeout=SECONDS_MAX)
            equal(got.data, b"here")
            await subscription.unsubscribe()
            await settle(answerer)
            await expect_no_responders(asker, f"now.{round}")


async def check_headers():
    there = {"First": "1", "Second": "b: c", "third-one": "größe", "Empty": ""}
    async with two() as (asker, answerer):
        async def answer(message):
            equal(message.headers, there, "headers there")
            await answerer.publish(message.reply, message.data, headers={"Back": "one", "Again": "two"})

        await subscribed(answerer, "with.headers", cb=answer)
        for payload in (b"", b"payload", MEBIBYTE):
            got = await asker.request("with.headers", payload, timeout=SECONDS_MAX, headers=there)
            equal(got.data, payload)
            equal(got.headers, {"Back": "one", "Again": "two"}, "headers back")


async def check_flush():
    async with two() as (publisher, subscriber):
        for round in range(50):
            subscription = await subscribed(subscriber, f"flushed.{round}")
            await publisher.publish(f"flushed.{round}", b"x")
            await publisher.flush(SECONDS_MAX)
            equal(publisher.pending_data_size, 0, "what waits after a flush")
            equal((await next_message(subscription)).data, b"x")


async def check_auto_unsubscribe():
    async with two() as (publisher, subscriber):
        three = await subscriber.subscribe("limited")
        await three.unsubscribe(limit=3)
        later = await subscribed(subscriber, "limited.later")
        for payload in numbers(2):
            await publisher.publish("limited.later", payload)
        equal([(await next_message(later)).data for _ in range(2)], numbers(2))
        await later.unsubscribe(limit=5)
        await settle(subscriber)
        for payload in numbers(9):
            await publisher.publish("limited", payload)
            await publisher.publish("limited.later", payload)
        await fence(publisher, subscriber)
        equal(await data_of(three), numbers(3), "messages of a subscription for three")
        equal(await data_of(later), numbers(3), "messages after the first two of five")
        # That the broker has ended them shows in that nobody is there.
        await expect_no_responders(publisher, "limited")
        await expect_no_responders(publisher, "limited.later")


async def check_no_echo():
    async with connect(no_echo=True) as silent, connect() as loud:
        silents = await subscribed(silent, "echo.>")
        louds = await subscribed(loud, "echo.*")
        await silent.publish("echo.a", b"of the silent")
        await settle(silent)
        await loud.publish("echo.a", b"of the loud")
        await fence(silent, loud)
        await fence(loud, silent)
        equal(await data_of(silents), [b"of the loud"])
        equal(sorted(await data_of(louds)), [b"of the loud", b"of the silent"])


async def check_large_payloads():
    async with two() as (publisher, subscriber):
        subscription = await subscribed(subscriber, "large")
        for payload in (MEBIBYTE, 2 * MEBIBYTE):
            await publisher.publish("large", payload)
            equal((await next_message(subscription)).data, payload)
        too_much = publisher.publish("large", 2 * MEBIBYTE + b"x")
        await expect_error(errors.MaxPayloadError, "nats: maximum payload exceeded", too_much)
        await publisher.publish("large", b"it goes on")
        equal((await next_message(subscription)).data, b"it goes on")


async def check_drain():
    closed = asyncio.Event()
    handled = []

    async def handle(message):
        # It lets everything else run first, so that messages wait.
        await asyncio.sleep(0)
        handled.append(message.data)

    async def note_closed():
        closed.set()

    async with connect() as publisher, connect(closed_cb=note_closed) as subscriber:
        first = await subscriber.subscribe("drained.first", cb=handle)
        await subscribed(subscriber, "drained.second", cb=handle)
        for payload in numbers(1000):
            await publisher.publish("drained.first", payload)
        await settle(publisher)
        await fence(publisher, subscriber)
        await first.drain()
        await settle(subscriber)
        equal(handled, numbers(1000), "a drained subscription handles what has come")
        await expect_no_responders(publisher, "drained.first")
        handled.clear()
        for payload in numbers(1000):
            await publisher.publish("drained.second", payload)
        await fence(publisher, subscriber)
        await subscriber.publish("drained.last", b"")
        await subscriber.drain()
        await asyncio.wait_for(closed.wait(), SECONDS_MAX)
        equal(handled, numbers(1000), "a drained connection handles what has come")
        equal(subscriber.is_closed, True)
        closed_error = "nats: connection closed"
        await expect_error(errors.ConnectionClosedError, closed_error, subscriber.publish("drained.first"))
        await expect_no_responders(publisher, "drained.second")


async def reconnecting(stack):
    """A connection that comes back, and an event that says so."""
    back = asyncio.Event()

    async def note_back():
        back.set()

    async def ignore(error):
        pass

    nc = await stack.enter_async_context(connect(
        error_cb=ignore, reconnected_cb=note_back, reconnect_time_wait=0.05, max_reconnect_attempts=-1))
    return nc, back


async def check_reconnect():
    async with contextlib.AsyncExitStack() as stack:
        publisher, publisher_is_back = await reconnecting(stack)
        subscriber, subscriber_is_back = await reconnecting(stack)
        plain = await subscribed(subscriber, "kept.one")
        wildcard = await subscribed(subscriber, "kept.>")
        group = await subscribed(subscriber, "kept.*", queue="group")
        limited = await subscribed(subscriber, "kept.one")
        await limited.unsubscribe(limit=3)
        gone = await subscribed(subscriber, "kept.one")
        await gone.unsubscribe()
        await publisher.publish("kept.one", b"before")
        await fence(publisher, subscriber)
        every = (plain, wildcard, group, limited)
        for subscription in every:
            equal(await data_of(subscription), [b"before"])
        await asyncio.get_running_loop().run_in_executor(None, restart_broker)
        for is_back in (publisher_is_back, subscriber_is_back):
            await asyncio.wait_for(is_back.wait(), SECONDS_MAX)
        for payload in numbers(3):
            await publisher.publish("kept.one", payload)
        await fence(publisher, subscriber)
        for subscription in every[:3]:
            equal(await data_of(subscription), numbers(3), "after the restart")
        equal(await data_of(limited), numbers(2), "two of its three were left")
        equal(gone.delivered, 0)
        equal((publisher.stats["reconnects"], subscriber.stats["reconnects"]), (1, 1))


async def refused(**options):
    async def ignore(error):
        pass

    refusal = nats.connect(URL, error_cb=ignore, allow_reconnect=False, **options)
    # The client has no kind of its own for this at the start of a connection.
    await expect_error(errors.Error, "nats: 'Authorization Violation'", refusal)


async def check_authentication():
    if password is None:
        async with connect(user="any", password="thing") as nc:
            await settle(nc)
        return
    await refused()
    await refused(user="default", password="wrong")
    await refused(user="default", password="")
    await refused(user="nobody", password=password)
    await refused(token="wrong")
    token = await nats.connect(URL, token=password, allow_reconnect=False)
    subscription = await subscribed(token, "token")
    async with connect() as publisher:
        await publisher.publish("token", b"let in")
        equal((await next_message(subscription)).data, b"let in")
    await token.close()


async def check_slow_consumer():
    reported = []

    async def note(error):
        reported.append(error)

    async with connect() as publisher, connect(error_cb=note) as subscriber:
        slow = await subscribed(subscriber, "flood", pending_msgs_limit=10)
        heavy = await subscribed(subscriber, "flood", pending_bytes_limit=200)
        quick = await subscribed(subscriber, "flood")
        payloads = [b"%099d" % number for number in range(100)]
        for payload in payloads:
            await publisher.publish("flood", payload)
        await fence(publisher, subscriber)
        equal({type(error) for error in reported}, {errors.SlowConsumerError})
        equal([error.sub for error in reported].count(slow), 90, "messages over its limit")
        equal([error.sub for error in reported].count(heavy), 98, "bytes over its limit")
        equal(len(reported), 188)
        equal(await data_of(slow), payloads[:10])
        equal(await data_of(heavy), payloads[:2])
        equal(await data_of(quick), payloads, "the others miss nothing")


async def check_order():
    async with contextlib.AsyncExitStack() as stack:
        subscriber = await stack.enter_async_context(connect())
        publishers = [await stack.enter_async_context(connect()) for _ in range(3)]
        all_of_them = await subscribed(subscriber, "order.>")

        async def publish(name, nc):
            for number in range(700):
                # One after the other on different subjects, and of different kinds.
                headers = {"Number": str(number)} if number % 7 == 0 else None
                await nc.publish(f"order.{name}.{number % 3}", b"%d" % number, headers=headers)
            await settle(nc)

        await asyncio.gather(*(publish(name, nc) for name, nc in enumerate(publishers)))
        got = [await next_message(all_of_them) for _ in range(2100)]
        for name in range(3):
            own = [m.data for m in got if m.subject.startswith(f"order.{name}.")]
            equal(own, numbers(700), f"order of publisher {name}")


async def check_service():
    """NATS Services: they answer on subjects that begin with $SRV."""
    async with connect() as one, connect() as other, connect() as client:

        async def double(request):
            await request.respond(request.data * 2, headers={"Who": "double"})

        for nc in (one, other):
            service = await nats.micro.add_service(nc, name="doubling", version="1.0.0", description="twice")
            await service.add_endpoint(name="double", handler=double)
            await settle(nc)
        answer = await client.request("double", b"abc", timeout=SECONDS_MAX)
        equal((answer.data, answer.headers), (b"abcabc", {"Who": "double"}))
        inbox = await subscribed(client, client.new_inbox())
        for subject in ("$SRV.PING", "$SRV.INFO.doubling", "$SRV.STATS.doubling"):
            await client.publish(subject, reply=inbox.subject)
            found = [json.loads((await next_message(inbox)).data) for _ in range(2)]
            equal([answer["name"] for answer in found], ["doubling"] * 2, subject)
            equal(len({answer["id"] for answer in found}), 2, "one answer from each")
        await expect_no_responders(client, "$SRV.PING.nobody")


async def check_refusals():
    """What the broker refuses and nats-server would not: the library reports it and goes on."""
    reported = []

    async def note(error):
        reported.append(str(error))

    async with connect(error_cb=note) as nc:
        deep = ".".join(["t"] * 65)
        for publishing in (nc.publish(deep, b"x"), nc.publish("x" * 1025, b"x"), nc.publish("$KV.a", b"x")):
            await publishing
        subscription = await subscribed(nc, "still.there")
        await nc.publish("still.there", b"yes")
        equal((await next_message(subscription)).data, b"yes")
        equal(len(reported), 3)
        for text in reported:
            assert text.startswith("nats: permissions violation for publish to "), text


run(dict(globals()))
