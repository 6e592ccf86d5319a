"""redis-py's blocking client: pub/sub, pipelines, connection handling."""

import queue
import threading

import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from support import (
    ALL_BYTES, MEBIBYTE, PAYLOADS, SECONDS_MAX, equal, expect_error, password, port, protocol,
    restart_broker, run, until,
)


def connect(**options):
    return redis.Redis(port=port, protocol=protocol, password=password, **options)


def next_message(pubsub):
    """The next message, also of the kinds that confirm a subscription."""
    return until("a message", lambda: pubsub.get_message(timeout=1))


def confirmed(pubsub, kind, *names):
    for name in names:
        message = next_message(pubsub)
        equal((message["type"], message["channel"]), (kind, name), "confirmation")


def check_connection_commands():
    with connect(decode_responses=True, client_name="first", db=3) as r:
        equal(r.ping(), True)
        equal(r.echo("hello"), "hello")
        equal(r.client_getname(), "first")
        equal(r.client_setname("second"), True)
        equal(r.client_getname(), "second")
        info = r.client_info()
        equal((info["name"], str(info["db"])), ("second", "3"), "CLIENT INFO")
        equal(int(info["id"]), r.client_id())
        names = [client["name"] for client in r.client_list()]
        equal(names.count("second"), 1, "CLIENT LIST")
        equal([c["name"] for c in r.client_list(client_id=[r.client_id()])], ["second"])
        equal(r.select(0), True)
        assert "redis_version" in r.info(), "INFO has no redis_version"
        assert r.command_count() > 0
        assert "save" in r.config_get("save")
        equal(r.flushall(), True)
        equal(r.flushdb(), True)
        equal(r.pubsub_channels(), [])


def check_client_kill():
    with connect() as killer, connect() as victim:
        old = victim.client_id()
        equal(killer.client_kill_filter(_id=old), 1, "CLIENT KILL ID")
        # redis-py connects again by itself.
        assert until("a new connection", victim.client_id) != old
        equal(killer.client_kill_filter(_id=old), 0, "CLIENT KILL of a connection that is gone")
        address = victim.client_info()["addr"]
        equal(killer.client_kill(address), True)
        expect_error(redis.ResponseError, "No such client", lambda: killer.client_kill(address))


def check_subscribe_and_unsubscribe():
    with connect() as r, r.pubsub() as p:
        p.subscribe("news", "weather")
        equal(next_message(p), dict(type="subscribe", pattern=None, channel=b"news", data=1))
        equal(next_message(p), dict(type="subscribe", pattern=None, channel=b"weather", data=2))
        equal(r.publish("news", "hello there"), 1, "receivers")
        equal(
            next_message(p),
            dict(type="message", pattern=None, channel=b"news", data=b"hello there"),
        )
        equal(r.publish("nobody", "x"), 0, "receivers of a channel that nobody hears")
        p.psubscribe("n?ws", "wea*")
        confirmed(p, "psubscribe", b"n?ws", b"wea*")
        equal(r.publish("news", "twice"), 2, "receivers")
        got = [next_message(p), next_message(p)]
        equal([m["type"] for m in got], ["message", "pmessage"])
        equal([m["data"] for m in got], [b"twice", b"twice"])
        equal((got[1]["pattern"], got[1]["channel"]), (b"n?ws", b"news"))
        # Again what is there already, and away with what is not.
        p.subscribe("news")
        equal(next_message(p)["data"], 4)
        p.unsubscribe("unknown")
        equal(next_message(p), dict(type="unsubscribe", pattern=None, channel=b"unknown", data=4))
        p.unsubscribe("news")
        equal(next_message(p), dict(type="unsubscribe", pattern=None, channel=b"news", data=3))
        equal(r.publish("news", "once"), 1)
        equal(next_message(p)["type"], "pmessage")
        p.punsubscribe()
        equal({next_message(p)["channel"] for _ in range(2)}, {b"n?ws", b"wea*"})
        p.unsubscribe()
        confirmed(p, "unsubscribe", b"weather")
        equal(p.subscribed, False)
        equal(r.publish("news", "nobody"), 0)
        # An unsubscribed connection can subscribe again.
        p.subscribe("news")
        confirmed(p, "subscribe", b"news")
        equal(r.publish("news", "again"), 1)
        equal(next_message(p)["data"], b"again")


def check_payloads():
    with connect() as r, r.pubsub(ignore_subscribe_messages=True) as p:
        p.subscribe(ALL_BYTES)
        p.psubscribe("*")
        p.ssubscribe(ALL_BYTES)
        until("three subscriptions", lambda: not p.get_message(timeout=0.01) and
              r.pubsub_numsub(ALL_BYTES) == [(ALL_BYTES, 1)] and r.pubsub_numpat() == 1 and
              r.pubsub_shardnumsub(ALL_BYTES) == [(ALL_BYTES, 1)])
        for payload in PAYLOADS:
            equal(r.publish(ALL_BYTES, payload), 2)
            for kind in ("message", "pmessage"):
                message = next_message(p)
                equal(message["type"], kind)
                equal((message["channel"], message["data"]), (ALL_BYTES, payload))
            equal(r.spublish(ALL_BYTES, payload), 1)
            message = next_message(p)
            equal((message["type"], message["data"]), ("smessage", payload))
        equal(r.echo(MEBIBYTE), MEBIBYTE)


def check_order_of_many():
    with connect() as r, r.pubsub(ignore_subscribe_messages=True) as p:
        p.subscribe("many")
        until("the subscription", lambda: r.pubsub_numsub("many") == [(b"many", 1)])
        pipe = r.pipeline(transaction=False)
        for number in range(2000):
            pipe.publish("many", number)
        equal(pipe.execute(), [1] * 2000)
        equal([int(next_message(p)["data"]) for _ in range(2000)], list(range(2000)), "order")


def check_shard_channels():
    with connect(decode_responses=True) as r, r.pubsub() as p, r.pubsub() as other:
        p.ssubscribe("orders", "bills")
        confirmed(p, "ssubscribe", "orders", "bills")
        other.subscribe("orders")
        confirmed(other, "subscribe", "orders")
        equal(r.spublish("orders", "shard"), 1, "receivers")
        equal(next_message(p), dict(type="smessage", pattern=None, channel="orders", data="shard"))
        equal(r.publish("orders", "plain"), 1, "shard channels are their own namespace")
        equal(next_message(other)["data"], "plain")
        equal(sorted(r.pubsub_shardchannels()), ["bills", "orders"])
        equal(r.pubsub_shardchannels("o*"), ["orders"])
        equal(r.pubsub_shardnumsub("orders", "none"), [("orders", 1), ("none", 0)])
        p.sunsubscribe("orders")
        confirmed(p, "sunsubscribe", "orders")
        equal(r.spublish("orders", "x"), 0)
        p.sunsubscribe()
        confirmed(p, "sunsubscribe", "bills")


def check_handlers_and_thread():
    got = queue.Queue()
    with connect(decode_responses=True) as r:
        p = r.pubsub(ignore_subscribe_messages=True)
        p.subscribe(**{"handled": got.put})
        p.psubscribe(**{"pattern.*": got.put})
        thread = p.run_in_thread(sleep_time=0.05, daemon=True)
        until("both", lambda: r.pubsub_numsub("handled") == [("handled", 1)] and r.pubsub_numpat() == 1)
        r.publish("handled", "one")
        equal(got.get(timeout=SECONDS_MAX)["data"], "one")
        r.publish("pattern.x", "two")
        message = got.get(timeout=SECONDS_MAX)
        equal((message["pattern"], message["data"]), ("pattern.*", "two"))
        thread.stop()
        thread.join(SECONDS_MAX)
        equal(thread.is_alive(), False, "the thread ends")
        until("no subscription", lambda: r.pubsub_numsub("handled") == [("handled", 0)])


def check_listen():
    heard = queue.Queue()
    with connect(decode_responses=True) as r, r.pubsub() as p:
        p.subscribe("listened")

        def listen():
            for message in p.listen():
                heard.put(message)
                if message["data"] == "stop":
                    p.unsubscribe()

        thread = threading.Thread(target=listen)
        thread.start()
        equal(heard.get(timeout=SECONDS_MAX)["type"], "subscribe")
        for data in ("one", "two", "stop"):
            equal(r.publish("listened", data), 1)
            equal(heard.get(timeout=SECONDS_MAX)["data"], data)
        equal(heard.get(timeout=SECONDS_MAX)["type"], "unsubscribe")
        thread.join(SECONDS_MAX)
        equal(thread.is_alive(), False, "listen() ends when nothing is subscribed")


def check_pipelines():
    with connect(decode_responses=True) as r, r.pubsub(ignore_subscribe_messages=True) as p:
        p.subscribe("piped")
        until("the subscription", lambda: r.pubsub_numsub("piped") == [("piped", 1)])
        for transaction in (False, True):
            pipe = r.pipeline(transaction=transaction)
            pipe.publish("piped", "a").echo("between").publish("none", "b").publish("piped", "c")
            equal(pipe.execute(), [1, "between", 0, 1], f"transaction={transaction}")
            equal([next_message(p)["data"] for _ in range(2)], ["a", "c"])
            pipe.echo("good").execute_command("SELECT", "99").echo("after")
            good, bad, after = pipe.execute(raise_on_error=False)
            equal((good, after), ("good", "after"))
            assert isinstance(bad, redis.ResponseError), bad
            pipe.execute_command("NOSUCH", "x").echo("good")
            expect_error(redis.ResponseError, "unknown command", pipe.execute)
        with r.pipeline() as pipe:
            pipe.watch("key")
            equal(pipe.echo("at once"), "at once")
            pipe.multi()
            pipe.publish("piped", "watched")
            equal(pipe.execute(), [1])
            equal(next_message(p)["data"], "watched")
            pipe.watch("key")
            pipe.unwatch()

        def last(pipe):
            pipe.multi()
            pipe.publish("piped", "last")

        equal(r.transaction(last, "key"), [1])
        equal(next_message(p)["data"], "last")


def check_introspection():
    with connect(decode_responses=True) as r, r.pubsub() as one, r.pubsub() as two:
        one.subscribe("s.a", "s.b")
        confirmed(one, "subscribe", "s.a", "s.b")
        two.subscribe("s.a")
        two.psubscribe("s.*", "t.*")
        confirmed(two, "subscribe", "s.a")
        confirmed(two, "psubscribe", "s.*", "t.*")
        one.psubscribe("s.*")
        confirmed(one, "psubscribe", "s.*")
        equal(sorted(r.pubsub_channels()), ["s.a", "s.b"])
        equal(r.pubsub_channels("*.b"), ["s.b"])
        equal(r.pubsub_numsub("s.a", "s.b", "s.c"), [("s.a", 2), ("s.b", 1), ("s.c", 0)])
        equal(r.pubsub_numpat(), 2, "NUMPAT counts different patterns")
        equal(r.publish("s.a", "x"), 4)


def check_disconnect_unsubscribes():
    with connect(decode_responses=True) as r:
        with r.pubsub() as p:
            p.subscribe("gone")
            p.psubscribe("gone*")
            confirmed(p, "subscribe", "gone")
            confirmed(p, "psubscribe", "gone*")
            equal(r.publish("gone", "x"), 2)
        until("no subscription", lambda: r.publish("gone", "x") == 0)
        equal(r.pubsub_channels(), [])
        equal(r.pubsub_numpat(), 0)


def check_ping_and_health():
    with connect(decode_responses=True, health_check_interval=1) as r, r.pubsub() as p:
        p.subscribe("healthy")
        confirmed(p, "subscribe", "healthy")
        # Under RESP3 the answer is no array, of which redis-py makes a message with a type "P".
        p.ping()
        equal(next_message(p)["type"], "pong" if protocol == 2 else "P")
        if protocol == 2:
            p.ping("are you there")
            equal(next_message(p)["data"], "are you there")
        # Due at once: the answer to the check is not a message.
        p.connection.next_health_check = 1
        equal(p.get_message(timeout=0.2), None)
        equal(r.publish("healthy", "x"), 1)
        equal(next_message(p)["data"], "x")
        r.connection_pool.disconnect()
        equal(r.ping(), True)


def check_errors():
    with connect(decode_responses=True) as r:
        wrong = redis.ResponseError
        expect_error(wrong, "unknown command 'NOSUCH', with args beginning with: 'a' 'b'",
                     lambda: r.execute_command("NOSUCH", "a", "b"))
        expect_error(wrong, "wrong number of arguments for 'publish' command",
                     lambda: r.execute_command("PUBLISH", "a"))
        expect_error(wrong, "wrong number of arguments for 'subscribe' command",
                     lambda: r.execute_command("SUBSCRIBE"))
        expect_error(wrong, "DB index is out of range", lambda: r.select(99))
        expect_error(wrong, "Client names cannot contain spaces", lambda: r.client_setname("a b"))
        expect_error(wrong, "unknown subcommand", lambda: r.execute_command("PUBSUB", "NOSUCH"))
        expect_error(wrong, "EXEC without MULTI", lambda: r.execute_command("EXEC"))
        expect_error(wrong, "unsupported protocol version", lambda: r.execute_command("HELLO", "9"))
        equal(r.ping(), True, "the connection still works")


def check_pools():
    pool = redis.BlockingConnectionPool(
        port=port, protocol=protocol, password=password, max_connections=4, timeout=SECONDS_MAX)
    with connect() as r, r.pubsub(ignore_subscribe_messages=True) as p:
        p.subscribe("pooled")
        until("the subscription", lambda: r.pubsub_numsub("pooled") == [(b"pooled", 1)])
        publisher = redis.Redis(connection_pool=pool)
        wrong = []

        def publish(name):
            wrong.extend(n for n in range(200) if publisher.publish("pooled", f"{name} {n}") != 1)

        threads = [threading.Thread(target=publish, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        got = [next_message(p)["data"].decode().split() for _ in range(1600)]
        for thread in threads:
            thread.join()
        equal(wrong, [], "publishes that one subscriber did not hear")
        for name in range(8):
            # A thread's publishes wait for each other, so their order holds across connections.
            numbers = [int(number) for thread, number in got if thread == str(name)]
            equal(numbers, list(range(200)), f"order of thread {name}")
    pool.disconnect()


def check_reconnect():
    retry = Retry(ConstantBackoff(0.05), 200)
    options = dict(retry=retry, decode_responses=True)
    with connect(**options) as r, r.pubsub(ignore_subscribe_messages=True) as p:
        p.subscribe("kept")
        p.psubscribe("kept.*")
        p.ssubscribe("kept")
        until("the subscription", lambda: r.pubsub_shardnumsub("kept") == [("kept", 1)])
        restart_broker()

        def resumed():
            p.get_message(timeout=0.05)
            return (r.pubsub_numsub("kept"), r.pubsub_numpat(), r.pubsub_shardnumsub("kept")) == (
                [("kept", 1)], 1, [("kept", 1)])

        until("the subscriptions are resumed", resumed)
        r.publish("kept", "exact")
        r.publish("kept.x", "pattern")
        r.spublish("kept", "shard")
        equal({next_message(p)["data"] for _ in range(3)}, {"exact", "pattern", "shard"})


def check_password():
    if password is None:
        return
    for wrong in (None, "wrong"):
        # By default redis-py tries again, with seconds in between.
        retry = Retry(NoBackoff(), 0)
        with redis.Redis(port=port, protocol=protocol, password=wrong, retry=retry) as r:
            expect_error(redis.AuthenticationError, "", r.ping)
            pubsub = r.pubsub()
            expect_error(
                redis.AuthenticationError, "",
                lambda: (pubsub.subscribe("a"), pubsub.get_message(timeout=SECONDS_MAX)))
            pubsub.close()
    with redis.Redis(port=port, protocol=protocol, username="default", password=password) as r:
        equal(r.ping(), True)
    with redis.Redis.from_url(f"redis://:{password}@127.0.0.1:{port}/2?protocol={protocol}") as r:
        equal(r.ping(), True)


run(dict(globals()))
