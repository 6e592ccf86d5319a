"""nats-py as one end of a conversation between nodes: publishes, asks, or answers until its stdin ends.

    nats_tree.py PORT publish|request|answer SUBJECT [TEXT]
"""

import asyncio
import sys

import nats

SECONDS_MAX = 10

port, verb, subject, *texts = sys.argv[1:]


async def answer(nc):
    async def shout(message):
        await message.respond(message.data.upper())

    await nc.subscribe(subject, cb=shout)
    await nc.flush(SECONDS_MAX)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def main():
    nc = await nats.connect(f"nats://127.0.0.1:{port}")
    if verb == "publish":
        await nc.publish(subject, texts[0].encode())
        await nc.flush(SECONDS_MAX)
    elif verb == "request":
        message = await nc.request(subject, texts[0].encode(), timeout=SECONDS_MAX)
        print(message.data.decode(), flush=True)
    else:
        await answer(nc)
    await nc.close()


asyncio.run(main())
