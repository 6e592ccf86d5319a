"""Cables on which every frame takes its time: pairs of network interfaces in this namespace.

    slow_cables.py MILLISECONDS NEAR:FAR...

It says `ready` once they are there; they are gone when its stdin ends. The kernel's own means, netem, is missing from
many kernels.
"""

import collections
import fcntl
import os
import selectors
import struct
import sys
import time

# From linux/if_tun.h: whole Ethernet frames, nothing before them.
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000

# As many as an interface queues by itself; what comes beyond is lost, as on any cable.
FRAMES_MAX = 1000


def tap(name):
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return end


def take(end, other, waiting, due):
    """Takes what came at one end, for the other."""
    while True:
        try:
            frame = os.read(end, 65536)
        except OSError:
            # Nothing more, or not up yet.
            return
        if len(waiting) < FRAMES_MAX:
            waiting.append((due, other, frame))


def give(waiting):
    while waiting and waiting[0][0] <= time.monotonic():
        _, end, frame = waiting.popleft()
        try:
            os.write(end, frame)
        except OSError:
            # It is down: the frame is lost.
            pass


def main():
    delay = int(sys.argv[1]) / 1000
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    ways = []
    for pair in sys.argv[2:]:
        near, far = (tap(name) for name in pair.split(":"))
        for end, other in ((near, far), (far, near)):
            ways.append(collections.deque())
            selector.register(end, selectors.EVENT_READ, (end, other, ways[-1]))
    print("ready", flush=True)
    while True:
        first = min((way[0][0] for way in ways if way), default=None)
        timeout = None if first is None else max(0, first - time.monotonic())
        for key, _ in selector.select(timeout):
            if key.data is None:
                return
            take(*key.data, time.monotonic() + delay)
        for way in ways:
            give(way)


main()
