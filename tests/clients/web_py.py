"""websockets and httpx: text commands, JSON, native frames, requests, server-sent events, authentication, reconnecting;
requests, urllib3 and sseclient-py: server-sent events."""

import asyncio
import base64
import contextlib
import json

import httpx
import requests
import sseclient
import urllib3
import websockets
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support import ALL_BYTES, MEBIBYTE, SECONDS_MAX, equal, expect_error, password, port, restart_broker, run

URL = f"http://127.0.0.1:{port}"
WS = f"ws://127.0.0.1:{port}/ws"
BEARER = {} if password is None else {"Authorization": f"Bearer {password}"}


def opened(protocol, **options):
    return connect(
        WS,
        subprotocols=[protocol],
        additional_headers=BEARER,
        max_size=None,
        open_timeout=SECONDS_MAX,
        **options,
    )


def client(**options):
    return httpx.AsyncClient(base_url=URL, headers=BEARER, timeout=SECONDS_MAX, **options)


async def ask(socket, text, answer):
    """Sends a message that is answered by this next."""
    await socket.send(text)
    equal(await socket.recv(), answer, text)


@contextlib.asynccontextmanager
async def events(*topics, headers=None):
    """The events of topics, as they come: pairs of what stands before `: ` and behind it, an event at a time."""
    params = [("topic", topic) for topic in topics]
    async with client() as http, http.stream("GET", "/v1/topics", params=params, headers=headers) as response:
        equal(response.status_code, 200)
        equal(response.headers["content-type"], "text/event-stream")
        lines = response.aiter_lines()

        async def next_event():
            fields = {}
            async for line in lines:
                if line.startswith(":"):
                    continue
                if line == "":
                    if fields:
                        return fields
                    continue
                name, value = line.split(": ", 1)
                fields[name] = value
            raise AssertionError("the stream ended")

        yield lambda: asyncio.wait_for(next_event(), SECONDS_MAX)


async def check_text():
    async with opened("sapwood.text") as subscriber, opened("sapwood.text") as publisher:
        equal(subscriber.subprotocol, "sapwood.text")
        await subscriber.send("SUBSCRIBE news other")
        await ask(subscriber, "PING", "PONG")
        for payload in ["hello there, it works", "", "größe\nline two", MEBIBYTE.hex()]:
            await publisher.send(f"PUBLISH news {payload}")
            equal(await subscriber.recv(), payload, "a text")
        await publisher.send(b"PUBLISH other " + ALL_BYTES)
        equal(await subscriber.recv(), ALL_BYTES, "what is no text")
        await subscriber.send("UNSUBSCRIBE")
        await ask(subscriber, "PING", "PONG")
        await publisher.send("PUBLISH news gone")
        await ask(publisher, "PING", "PONG")
        await ask(subscriber, "PING behind", "PONG behind")
        await publisher.send("NOSUCH")
        answer = await publisher.recv()
        equal(answer.startswith("ERR unknown command 'NOSUCH'"), True, answer)


async def check_json():
    async with opened("sapwood.json") as one, opened("sapwood.json") as two:
        await one.send(json.dumps({"op": "subscribe", "filter": "news.*", "id": 1}))
        equal(json.loads(await one.recv()), {"op": "ok", "id": 1, "count": 1})
        message = {
            "topic": "news.today",
            "reply": "to.me",
            "headers": [["trace", "7"], ["Trace", "größe"]],
            "last": True,
            "data_b64": base64.b64encode(ALL_BYTES).decode(),
        }
        await two.send(json.dumps({"op": "publish", "id": 2, **message}))
        equal(json.loads(await two.recv()), {"op": "ok", "id": 2, "count": 1})
        equal(json.loads(await one.recv()), {"op": "message", **message})
        await two.send(json.dumps({"op": "publish", "topic": "$KV.x", "id": 3}))
        equal(json.loads(await two.recv())["code"], "topic_reserved")


async def check_fragments_and_pings():
    async with opened("sapwood.text") as socket:
        await socket.send("SUBSCRIBE parts")

        async def parts():
            for part in ["PUBLISH parts ", "one, ", "two, ", "three"]:
                yield part

        await socket.send(parts())
        equal(await socket.recv(), "one, two, three")
        latency = await asyncio.wait_for(await socket.ping(b"payload"), SECONDS_MAX)
        equal(latency >= 0, True)


async def check_a_client_that_closes_is_answered():
    socket = await opened("sapwood.text")
    await socket.close(code=1001, reason="away")
    equal(socket.close_code, 1001)


async def check_publish_by_post():
    async with opened("sapwood.json") as subscriber, client() as http:
        await subscriber.send(json.dumps({"op": "subscribe", "filter": "posted.>", "id": 1}))
        await subscriber.recv()
        headers = {"Sapwood-Reply": "answers", "Sapwood-Header": "trace: 7"}
        answer = await http.post("/v1/topics/posted.a%20b", content="größe".encode(), headers=headers)
        equal((answer.status_code, answer.json()), (200, {"count": 1}))
        wanted = {"topic": "posted.a b", "reply": "answers", "headers": [["trace", "7"]], "data": "größe"}
        equal(json.loads(await subscriber.recv()), {"op": "message", **wanted})

        async def chunks():
            for _ in range(64):
                yield MEBIBYTE[:16384]

        answer = await http.post("/v1/topics/posted.long", content=chunks())
        equal(answer.json(), {"count": 1})
        got = json.loads(await subscriber.recv())
        equal(base64.b64decode(got["data_b64"]) == MEBIBYTE, True, "a chunked body")
        answer = await http.post("/v1/topics/%24KV.x", content=b"")
        equal((answer.status_code, answer.json()["error"]["code"]), (403, "topic_reserved"))


async def check_events():
    async with events("ev.*", "other") as next_event, client() as http:
        for topic, content in [("ev.a", b"one"), ("other", b"two\nlines"), ("ev.b", b"\x00\xff")]:
            await http.post(f"/v1/topics/{topic}", content=content)
        got = [await next_event() for _ in range(3)]
        data = [json.loads(event["data"]) for event in got]
        wanted = [
            {"topic": "ev.a", "data": "one"},
            {"topic": "other", "data": "two\nlines"},
            {"topic": "ev.b", "data_b64": "AP8="},
        ]
        equal(data, wanted)
        ids = [int(event["id"]) for event in got]
        equal(ids, sorted(set(ids)), "ids grow")
    async with events("ev.*", headers={"Last-Event-ID": str(ids[-1])}) as next_event:
        equal(await next_event(), {"event": "gap", "data": '{"events":null}'})


def post(topic, content):
    response = requests.post(f"{URL}/v1/topics/{topic}", data=content, headers=BEARER, timeout=SECONDS_MAX)
    equal(response.status_code, 200)


def hears_at_once(next_data, name):
    """Each event is heard before the next is published: whoever waits for more of the stream never hears it."""
    for content in ["one", "two\nlines", "", "x" * 100_000]:
        post(f"sync.{name}", content)
        equal(json.loads(next_data()), {"topic": f"sync.{name}", "data": content}, name)


SYNC = {"headers": {"Accept": "text/event-stream", **BEARER}, "timeout": SECONDS_MAX}


def check_sseclient_over_requests():
    with requests.get(f"{URL}/v1/topics/sync.requests", stream=True, **SYNC) as response:
        equal(response.status_code, 200)
        events = sseclient.SSEClient(response).events()
        hears_at_once(lambda: next(events).data, "requests")
        # A broker that ends says so; of one that is killed the client can tell that its stream is not whole.
        restart_broker()
        expect_error(requests.exceptions.ChunkedEncodingError, "", lambda: list(events))


def check_sseclient_over_urllib3():
    pool = urllib3.PoolManager()
    response = pool.request("GET", f"{URL}/v1/topics/sync.urllib3", preload_content=False, **SYNC)
    equal(response.status, 200)
    client = sseclient.SSEClient(response)
    events = client.events()
    hears_at_once(lambda: next(events).data, "urllib3")
    client.close()


def check_lines_of_requests():
    with requests.get(f"{URL}/v1/topics/sync.lines", stream=True, **SYNC) as response:
        lines = response.iter_lines(decode_unicode=True)

        def next_data():
            return next(line for line in lines if line.startswith("data: ")).removeprefix("data: ")

        hears_at_once(next_data, "lines")


async def check_monitoring():
    async with opened("sapwood.json") as socket, client() as http:
        await socket.send(json.dumps({"op": "hello", "name": "counted", "id": 1}))
        number = json.loads(await socket.recv())["client"]
        await socket.send(json.dumps({"op": "subscribe", "filter": "counted", "id": 2}))
        await socket.recv()
        for _ in range(3):
            await http.post("/v1/topics/counted", content=b"x")
        for _ in range(3):
            await socket.recv()
        connz = (await http.get("/connz", params={"cid": number, "subs": "1"})).json()
        [shown] = connz["connections"]
        equal((shown["name"], shown["subscriptions"], shown["out_msgs"], shown["in_msgs"]), ("counted", 1, 3, 0))
        equal(shown["subscriptions_list"], ["counted"])
        varz = (await http.get("/varz")).json()
        equal(varz["connections"] >= 2 and varz["in_msgs"] >= 3, True, varz)
        equal((await http.get("/health")).json(), {"status": "ok"})
        info = (await http.get("/info")).json()
        equal(info["shards"], len(info["counters"]["each"]))


async def check_authentication():
    if password is None:
        return
    async with httpx.AsyncClient(base_url=URL) as http:
        equal((await http.get("/health")).status_code, 200)
        equal((await http.get("/varz")).status_code, 401)
        for auth in [("default", "wrong"), ("nobody", password)]:
            equal((await http.get("/varz", auth=auth)).status_code, 401)
        equal((await http.get("/varz", auth=("default", password))).status_code, 200)
    try:
        await connect(WS, additional_headers={"Authorization": "Bearer wrong"})
        raise AssertionError("a wrong password opened a WebSocket")
    except InvalidStatus as error:
        equal(error.response.status_code, 401)
    async with connect(WS, subprotocols=["sapwood.json"]) as socket:
        await socket.send(json.dumps({"op": "hello", "password": password, "id": 1}))
        equal(json.loads(await socket.recv())["op"], "welcome")
    async with connect(WS) as socket:
        await socket.send(f"AUTH {password}")
        await ask(socket, "PING", "PONG")
    async with connect(WS) as socket:
        await socket.send("AUTH wrong")
        equal((await socket.recv()).startswith("ERR "), True)
        try:
            await socket.recv()
            raise AssertionError("a wrong password was let in")
        except ConnectionClosed as closed:
            equal(closed.rcvd.code, 1008)


async def check_reconnecting():
    async def hear(socket):
        await socket.send("SUBSCRIBE back")
        await ask(socket, "PING", "PONG")
        return socket

    sockets = aiter(opened("sapwood.text"))
    first = await hear(await anext(sockets))
    await asyncio.to_thread(restart_broker)
    try:
        await first.recv()
        raise AssertionError("the connection outlived the broker")
    except ConnectionClosed:
        pass
    second = await hear(await asyncio.wait_for(anext(sockets), SECONDS_MAX))
    async with client() as http:
        await http.post("/v1/topics/back", content=b"again")
    equal(await second.recv(), "again")
    await second.close()


assert websockets.__version__
run(globals())
