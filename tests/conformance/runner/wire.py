"""Connections of the runner itself: to a broker, as a broker that follows a script, and of the Redis protocol.

Frames go through the Python implementation in `../python`, whose checks are strict: whatever the other side sends that
the page does not allow is a failure by itself.
"""

import socket
import threading
import time

import sapwood_native as native

from . import values
from .values import Failure, short

# How long one awaited thing may take before the scenario is declared failed.
VALUE_SECONDS_MAX = 10
READ_BYTES = 256 * 1024


class Stream:
    """A socket that gives whole frames."""

    def __init__(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.reader = native.FrameReader()

    def send(self, frames, write="together"):
        """Writes frames given as bytes: in one write, in one for each, or byte by byte."""
        self.connection.settimeout(VALUE_SECONDS_MAX)
        match write:
            case "together":
                pieces = [b"".join(frames)]
            case "each":
                pieces = frames
            case "bytes":
                joined = b"".join(frames)
                pieces = [joined[at : at + 1] for at in range(len(joined))]
        for piece in pieces:
            self.connection.sendall(piece)

    def next_frame(self):
        """The next frame, or None where the other side ended the connection."""
        deadline = time.monotonic() + VALUE_SECONDS_MAX
        while True:
            try:
                frame = self.reader.next()
                if frame is not None:
                    return frame
                self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
                data = self.connection.recv(READ_BYTES)
            except native.ProtocolError as error:
                raise Failure(f"the other side sent what it must not send: {error}") from error
            except TimeoutError:
                raise Failure(f"nothing came within {VALUE_SECONDS_MAX} s") from None
            except ConnectionError:
                data = b""
            if not data:
                if not self.reader.is_between_frames():
                    raise Failure("the connection ended within a frame")
                return None
            self.reader.feed(data)

    def expect(self, table):
        came = self.next_frame()
        if came is None or not values.is_as_described(table, came):
            shown = "the end of the connection" if came is None else short(came)
            raise Failure(f"wanted {short(table)}\n  got {shown}")
        return came

    def expect_end(self):
        came = self.next_frame()
        if came is not None:
            raise Failure(f"wanted the end of the connection\n  got {short(came)}")

    def read_to_end(self):
        """Reads whatever comes until the other side's end, which must come."""
        self.connection.settimeout(VALUE_SECONDS_MAX)
        try:
            while self.connection.recv(READ_BYTES):
                pass
        except TimeoutError:
            raise Failure(f"the connection did not end within {VALUE_SECONDS_MAX} s") from None
        except ConnectionError:
            # A reset is an end too.
            pass

    def close(self):
        self.connection.close()


class Wire(Stream):
    """A client's connection to a broker, frame by frame. It numbers its own requests from 1,000,001 on."""

    def __init__(self, port):
        super().__init__(socket.create_connection(("127.0.0.1", port), VALUE_SECONDS_MAX))
        self.last_request = 1_000_000
        self.is_open = False

    def open(self, hello):
        self.send([values.frame_bytes({"kind": "HELLO"} | hello)])
        welcome = self.expect({"kind": "WELCOME", "version": 1})
        self.is_open = True
        return welcome

    def request(self, table):
        """Sends a request under a number of its own, and returns its answer, which must be the next frame."""
        self.last_request += 1
        self.send([values.frame_bytes(table | {"request": self.last_request})])
        came = self.next_frame()
        if getattr(came, "request", None) != self.last_request:
            raise Failure(f"wanted the answer to {short(table)}\n  got {short(came)}")
        return came

    def finish(self):
        """Ends the connection. If it was let in, the whole broker has forgotten its subscriptions then."""
        try:
            if self.is_open:
                self.send([native.encode(native.Drain(self.last_request + 1))])
            self.hang_up()
        except OSError:
            # It has ended already.
            pass

    def hang_up(self):
        """Ends the connection, and waits until the broker has ended its side too."""
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.read_to_end()
        except OSError:
            # It has ended already.
            pass
        finally:
            self.close()


class FakeBroker:
    """A broker that follows a script, to see what a client library sends and how it takes what it gets.

    While it waits for a frame it answers PINGs, and subscriptions to inboxes, which a library may make when it likes.
    At the script's end it goes on to answer requests until the client leaves.
    """

    def __init__(self, script):
        self.script = script
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(VALUE_SECONDS_MAX)
        self.failure = None
        self.done = threading.Event()
        self.stream = None
        # The last frame that was expected, for what the script sends back.
        self.last = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @property
    def port(self):
        return self.listener.getsockname()[1]

    def run(self):
        try:
            for number, entry in enumerate(self.script, 1):
                try:
                    self.follow(entry)
                except (Failure, OSError) as failure:
                    raise Failure(f"entry {number} of the fake broker's script: {failure}") from failure
            self.done.set()
            self.listener.close()
            self.answer_to_the_end()
        except Exception as failure:
            self.failure = failure
        finally:
            self.done.set()
            self.listener.close()
            if self.stream is not None:
                self.stream.close()

    def follow(self, entry):
        match entry:
            case {"accept": _}:
                self.stream = Stream(self.listener.accept()[0])
            case {"welcome": options}:
                self.stream = Stream(self.listener.accept()[0])
                self.last = self.stream.expect({"kind": "HELLO"})
                self.stream.send([values.frame_bytes({"kind": "WELCOME"} | options)])
            case {"expect": table}:
                self.last = self.expect(table)
            case {"send": tables}:
                frames = [values.frame_bytes(self.filled(table)) for table in tables]
                self.stream.send(frames, entry.get("write", "together"))
            case {"expect_end": _}:
                self.expect_end()
            case {"close": _}:
                self.stream.close()
            case _:
                raise ValueError(f"{entry!r} is no entry of a fake broker's script")

    def expect(self, table):
        while True:
            came = self.stream.next_frame()
            if came is not None and values.is_as_described(table | self.dynamic(table, came), came):
                return came
            if not self.answered(came, table["kind"]):
                shown = "the end of the connection" if came is None else short(came)
                raise Failure(f"wanted {short(table)}\n  got {shown}")

    @staticmethod
    def dynamic(table, came):
        """What a request for replies must have, but in a form of the library's choice: a reply topic."""
        if table.get("reply") == "any" and getattr(came, "message", None) and came.message.reply:
            return {"reply": {"hex": came.message.reply.hex()}}
        return {}

    def answered(self, came, wanted_kind):
        match came:
            case native.Ping():
                self.acknowledge(came, 0)
            case native.Subscribe(subscription=native.Subscribing(filter=filter)) if filter.startswith(b"_INBOX."):
                self.acknowledge(came, 1)
            case _:
                return False
        return wanted_kind != "PING"

    def acknowledge(self, request, count):
        self.stream.send([native.encode(native.Ack(request.request, count))])

    def expect_end(self):
        """The client has to end the connection. What it wrote before does not matter."""
        self.stream.read_to_end()

    def filled(self, table):
        """What refers to the last expected frame, replaced by what that frame has."""
        filled = dict(table)
        if table.get("request") == "same":
            filled["request"] = self.last.request
        if table.get("member") == "same":
            filled["member"] = self.last.subscription.member
        if table.get("topic") == {"same": "reply"}:
            filled["topic"] = {"hex": self.last.message.reply.hex()}
        return filled

    def answer_to_the_end(self):
        try:
            while (came := self.stream.next_frame()) is not None:
                if not isinstance(came, (native.Event, native.Publish)):
                    self.acknowledge(came, 0)
        except (Failure, OSError):
            # The library may leave at any time and in any way.
            pass

    def finish(self):
        """Waits until the script has been followed to its end."""
        if not self.done.wait(2 * VALUE_SECONDS_MAX):
            raise Failure("the fake broker's script did not come to its end")
        if self.failure is not None:
            raise self.failure

    def close(self):
        self.listener.close()
        if self.stream is not None:
            self.stream.close()
        self.thread.join(2 * VALUE_SECONDS_MAX)


class Redis:
    """As much of the Redis protocol, version 2, as a publisher and a subscriber need."""

    def __init__(self, port):
        self.connection = socket.create_connection(("127.0.0.1", port), VALUE_SECONDS_MAX)
        self.file = self.connection.makefile("rb")

    def command(self, *words):
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.connection.sendall(b"".join(parts))

    def answer(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise Failure("the Redis connection ended")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+" | b"-":
                return line[:-2].decode()
            case b":":
                return int(rest)
            case b"$":
                return self.file.read(int(rest) + 2)[:-2].decode("latin-1")
            case b"*":
                return [self.answer() for _ in range(int(rest))]
        raise Failure(f"the broker sent {short(line)} to a Redis client")

    def close(self):
        self.file.close()
        self.connection.close()
