"""nats-py that is given one node's address: learns another from INFO, and reconnects there when its node ends.

    nats_reconnect.py HOST:PORT OTHER_HOST:OTHER_PORT
"""

import asyncio
import sys

import nats

SECONDS_MAX = 15

first, other = sys.argv[1:]


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


async def main():
    nc = await nats.connect(f"nats://{first}", reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    heard = asyncio.Queue()

    async def hear(message):
        await heard.put(message.data)

    await nc.subscribe("news", cb=hear)
    async with asyncio.timeout(SECONDS_MAX):
        await until(lambda: any(server.netloc == other for server in nc.servers))
        print("knows both", flush=True)
        await until(lambda: nc.is_connected and nc.connected_url.netloc == other)
        await nc.publish("news", b"here")
        assert await heard.get() == b"here"
    print("is there and hears itself", flush=True)
    await nc.close()


asyncio.run(main())
