"""The native protocol of Sapwood, version 1: frames to bytes and back, and which filters match which topics.

Written from `src/wire/NATIVE.md` alone, for tests. It proves that the page is enough to write a client, and it is the
second opinion that the broker's own implementation is held against. It does no input or output and must not know how
the broker does anything; `sapwood_client.py` beside it is a client on top of it.

Start at `encode`, `decode` and `FrameReader`. What breaks a rule of the page raises `ProtocolError` with the code that
the page gives it. `encode_unchecked` writes what it is given, for tests of the other side's checks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

VERSION = 1
FRAME_BYTES_MAX = 67_239_936
HELLO_BYTES_MAX = 16 * 1024
PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
TOPIC_BYTES_MAX = 1_024
TOPIC_TOKENS_MAX = 64
LABEL_BYTES_MAX = 255
MAGIC = b"SAPW"


class Kind(IntEnum):
    HELLO = 0x01
    PUBLISH = 0x02
    SUBSCRIBE = 0x03
    UNSUBSCRIBE = 0x04
    PING = 0x05
    DRAIN = 0x06
    MESSAGE = 0x10
    WELCOME = 0x81
    ACK = 0x82
    ERROR = 0x83
    TURN = 0x84
    GAP = 0x85
    DRAINING = 0x86


class Code(IntEnum):
    MALFORMED = 100
    FRAME_TOO_LONG = 101
    UNKNOWN_KIND = 102
    VERSION = 103
    HELLO_EXPECTED = 104
    AUTHENTICATION = 105
    CONNECTIONS_FULL = 106
    HELLO_LATE = 107
    TOPIC_INVALID = 200
    TOPIC_RESERVED = 201
    PAYLOAD_TOO_LONG = 202
    HEADERS_INVALID = 203
    SUBSCRIPTIONS_FULL = 204
    FILTERS_FULL = 205


class Policy(IntEnum):
    CLOSE = 1
    DROP_OLDEST = 2
    LATEST = 3


class When(IntEnum):
    """When a PUBLISH is answered."""

    ALWAYS = 1
    UNHEARD = 2


class Flag(IntEnum):
    REPLY = 1
    HEADERS = 2
    LAST = 4


class ProtocolError(Exception):
    """A rule of the protocol was broken; `code` is what the page calls it. Nothing has changed."""

    def __init__(self, code: int, text: str):
        super().__init__(f"{code} {name_of(code)}: {text}")
        self.code = int(code)
        self.text = text


def name_of(code: int) -> str:
    try:
        return Code(code).name.lower()
    except ValueError:
        return "unknown code"


def malformed(text: str) -> ProtocolError:
    return ProtocolError(Code.MALFORMED, text)


# Frames. Bytes are `bytes`; what a frame does not carry is `None`.


@dataclass(frozen=True)
class Message:
    """What is published. `headers` is None without the flag, and a tuple of (name, value) pairs with it."""

    topic: bytes
    payload: bytes = b""
    reply: bytes | None = None
    headers: tuple[tuple[bytes, bytes], ...] | None = None
    last: bool = False

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header with this name, in upper or lower case."""
        named = (value for known, value in self.headers or () if known.lower() == name.lower())
        return next(named, None)


@dataclass(frozen=True)
class Subscribing:
    filter: bytes
    group: bytes = b""
    member: int = 0


@dataclass(frozen=True)
class Hello:
    oldest: int = VERSION
    newest: int = VERSION
    user: bytes | None = None
    password: bytes | None = None
    name: str | None = None
    library: str | None = None
    policy: int | None = None


@dataclass(frozen=True)
class Publish:
    request: int
    when: int
    message: Message


@dataclass(frozen=True)
class Subscribe:
    request: int
    subscription: Subscribing


@dataclass(frozen=True)
class Unsubscribe:
    request: int
    subscription: Subscribing


@dataclass(frozen=True)
class Ping:
    request: int


@dataclass(frozen=True)
class Drain:
    request: int


@dataclass(frozen=True)
class Event:
    """A MESSAGE frame, in either direction."""

    message: Message


@dataclass(frozen=True)
class Welcome:
    version: int
    broker: str | None = None
    client: int | None = None
    run: str | None = None
    payload_max: int | None = None


@dataclass(frozen=True)
class Ack:
    request: int
    count: int


@dataclass(frozen=True)
class Error:
    request: int
    code: int
    text: str


@dataclass(frozen=True)
class Turn:
    member: int
    message: Message


@dataclass(frozen=True)
class Gap:
    events: int


@dataclass(frozen=True)
class Draining:
    milliseconds: int


@dataclass(frozen=True)
class Unknown:
    """A frame of a kind that the page does not name. A client skips it."""

    kind: int
    body: bytes


KIND_OF = {
    Hello: Kind.HELLO,
    Publish: Kind.PUBLISH,
    Subscribe: Kind.SUBSCRIBE,
    Unsubscribe: Kind.UNSUBSCRIBE,
    Ping: Kind.PING,
    Drain: Kind.DRAIN,
    Event: Kind.MESSAGE,
    Welcome: Kind.WELCOME,
    Ack: Kind.ACK,
    Error: Kind.ERROR,
    Turn: Kind.TURN,
    Gap: Kind.GAP,
    Draining: Kind.DRAINING,
}


# Names.


def check_topic(topic: bytes) -> None:
    if len(topic) > TOPIC_BYTES_MAX:
        raise ProtocolError(Code.TOPIC_INVALID, f"{len(topic)} bytes, at most {TOPIC_BYTES_MAX}")
    tokens = topic.count(b".") + 1
    if tokens > TOPIC_TOKENS_MAX:
        raise ProtocolError(Code.TOPIC_INVALID, f"{tokens} tokens, at most {TOPIC_TOKENS_MAX}")


def check_filter(filter: bytes) -> None:
    check_topic(filter)
    if b">" in filter.split(b".")[:-1]:
        raise ProtocolError(Code.TOPIC_INVALID, "the wildcard > stands before the filter's end")


def matches(filter: bytes, topic: bytes) -> bool:
    """Whether an event of this topic is one of this filter's."""
    wanted, tokens = filter.split(b"."), topic.split(b".")
    if topic.startswith(b"$") and wanted[0] in (b"*", b">"):
        return False
    if wanted[-1] == b">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(w in (b"*", t) for w, t in zip(wanted, tokens))


def check_headers(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    for name, value in headers:
        if not name or any(not 0x21 <= byte <= 0x7E or byte == 0x3A for byte in name):
            raise ProtocolError(Code.HEADERS_INVALID, f"the name {name!r}")
        if any(byte in b"\r\n\0" for byte in value):
            raise ProtocolError(Code.HEADERS_INVALID, f"the value of {name!r}")


def check_message(message: Message, payload_max: int = PAYLOAD_BYTES_MAX) -> None:
    check_topic(message.topic)
    if message.reply is not None:
        check_topic(message.reply)
    if message.headers is not None:
        check_headers(message.headers)
    if len(message.payload) > payload_max:
        raise ProtocolError(Code.PAYLOAD_TOO_LONG, f"{len(message.payload)} bytes, at most {payload_max}")


# Writing.


def sized8(value: bytes) -> bytes:
    return struct.pack("<B", len(value)) + value


def sized16(value: bytes) -> bytes:
    return struct.pack("<H", len(value)) + value


def encode_headers(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(sized8(name) + sized16(value) for name, value in headers)


def encode_message(message: Message) -> bytes:
    flags = 0
    parts = [b"", sized16(message.topic)]
    if message.reply is not None:
        flags |= Flag.REPLY
        parts.append(sized16(message.reply))
    if message.headers is not None:
        flags |= Flag.HEADERS
        parts.append(sized16(encode_headers(message.headers)))
    if message.last:
        flags |= Flag.LAST
    parts[0] = struct.pack("<B", flags)
    parts.append(message.payload)
    return b"".join(parts)


def encode_subscription(subscription: Subscribing) -> bytes:
    head = struct.pack("<I", subscription.member)
    return head + sized8(subscription.group) + subscription.filter


def encode_options(options: list[tuple[int, bytes | None]]) -> bytes:
    given = [(number, value) for number, value in options if value is not None]
    return b"".join(struct.pack("<B", number) + sized16(value) for number, value in given)


def encode_hello(hello: Hello) -> bytes:
    policy = None if hello.policy is None else struct.pack("<B", hello.policy)
    options = [
        (1, hello.user),
        (2, hello.password),
        (3, None if hello.name is None else hello.name.encode()),
        (4, None if hello.library is None else hello.library.encode()),
        (5, policy),
    ]
    return MAGIC + struct.pack("<BB", hello.oldest, hello.newest) + encode_options(options)


def encode_welcome(welcome: Welcome) -> bytes:
    options = [
        (1, None if welcome.broker is None else welcome.broker.encode()),
        (2, None if welcome.client is None else struct.pack("<Q", welcome.client)),
        (3, None if welcome.run is None else welcome.run.encode()),
        (4, None if welcome.payload_max is None else struct.pack("<I", welcome.payload_max)),
    ]
    return struct.pack("<B", welcome.version) + encode_options(options)


def encode_fields(frame) -> bytes:
    match frame:
        case Hello():
            return encode_hello(frame)
        case Publish():
            head = struct.pack("<IB", frame.request, frame.when)
            return head + encode_message(frame.message)
        case Subscribe() | Unsubscribe():
            return struct.pack("<I", frame.request) + encode_subscription(frame.subscription)
        case Ping() | Drain():
            return struct.pack("<I", frame.request)
        case Event():
            return encode_message(frame.message)
        case Welcome():
            return encode_welcome(frame)
        case Ack():
            return struct.pack("<II", frame.request, frame.count)
        case Error():
            return struct.pack("<IH", frame.request, frame.code) + frame.text.encode()
        case Turn():
            return struct.pack("<I", frame.member) + encode_message(frame.message)
        case Gap():
            return struct.pack("<Q", frame.events)
        case Draining():
            return struct.pack("<I", frame.milliseconds)
    raise TypeError(f"{frame!r} is no frame")


def encode_unchecked(frame) -> bytes:
    """The frame's bytes, whatever its fields say. Raises `struct.error` where a field does not fit its number."""
    if isinstance(frame, Unknown):
        kind, fields = frame.kind, frame.body
    else:
        kind, fields = KIND_OF[type(frame)], encode_fields(frame)
    return struct.pack("<IB", 1 + len(fields), kind) + fields


def encode(frame) -> bytes:
    """The frame's bytes. Raises `ProtocolError` where the other side would refuse it."""
    check(frame)
    data = encode_unchecked(frame)
    longest = HELLO_BYTES_MAX if isinstance(frame, Hello) else FRAME_BYTES_MAX
    if len(data) - 4 > longest:
        raise ProtocolError(Code.FRAME_TOO_LONG, f"{len(data) - 4} bytes, at most {longest}")
    return data


def check(frame) -> None:
    """Raises `ProtocolError` where a field has a value that the page forbids."""
    match frame:
        case Hello():
            check_hello(frame)
        case Publish():
            check_request(frame.request)
            if frame.when not in tuple(When):
                raise malformed(f"when is {frame.when}")
            check_message(frame.message)
        case Subscribe() | Unsubscribe():
            check_request(frame.request)
            check_subscription(frame.subscription)
        case Ping() | Drain() | Ack():
            check_request(frame.request)
        case Event() | Turn():
            check_message(frame.message)
        case Welcome():
            if frame.run is not None and not is_run(frame.run):
                raise malformed(f"run is {frame.run!r}, not 40 hexadecimal digits")


def check_request(request: int) -> None:
    if request == 0:
        raise malformed("request 0")


def check_subscription(subscription: Subscribing) -> None:
    check_filter(subscription.filter)
    if not subscription.group and subscription.member:
        raise malformed(f"member {subscription.member} of no group")


def check_hello(hello: Hello) -> None:
    if hello.oldest > hello.newest:
        raise ProtocolError(Code.VERSION, f"no version is from {hello.oldest} to {hello.newest}")
    for label in (hello.name, hello.library):
        if label is not None and len(label.encode()) > LABEL_BYTES_MAX:
            raise malformed(f"a name of {len(label.encode())} bytes")
    if hello.policy is not None and hello.policy not in tuple(Policy):
        raise malformed(f"policy {hello.policy}")


def is_run(run: str) -> bool:
    return len(run) == 40 and all(digit in "0123456789abcdefABCDEF" for digit in run)


# Reading.


class Fields:
    """Takes the fields of one frame, from the front."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def take(self, length: int) -> bytes:
        if len(self.data) - self.at < length:
            raise malformed(f"a field of {length} bytes, {len(self.data) - self.at} are left")
        taken = self.data[self.at : self.at + length]
        self.at += length
        return taken

    def number(self, form: str) -> int:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def sized(self, form: str) -> bytes:
        return self.take(self.number(form))

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def is_empty(self) -> bool:
        return self.at == len(self.data)

    def end(self) -> None:
        if not self.is_empty():
            raise malformed(f"{len(self.data) - self.at} bytes too many")


def text_of(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise malformed(f"a text is not UTF-8: {error}") from error


def decode_message(fields: Fields) -> Message:
    flags = fields.number("B")
    if flags & ~7:
        raise malformed(f"flags {flags:#x}")
    topic = fields.sized("H")
    reply = fields.sized("H") if flags & Flag.REPLY else None
    headers = decode_headers(fields.sized("H")) if flags & Flag.HEADERS else None
    return Message(topic, fields.rest(), reply, headers, bool(flags & Flag.LAST))


def decode_headers(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    fields = Fields(data)
    headers = []
    while not fields.is_empty():
        headers.append((fields.sized("B"), fields.sized("H")))
    return tuple(headers)


def decode_subscription(fields: Fields) -> Subscribing:
    member = fields.number("I")
    group = fields.sized("B")
    return Subscribing(fields.rest(), group, member)


def decode_options(fields: Fields) -> dict[int, Fields]:
    """Values by id. Those with an id that the page does not name are returned too, and then not asked for."""
    options = {}
    while not fields.is_empty():
        number = fields.number("B")
        if number in options:
            raise malformed(f"option {number} stands twice")
        options[number] = Fields(fields.sized("H"))
    return options


def option(options: dict[int, Fields], number: int, form: str):
    """The option's value, or None: `bytes`, `text`, or a number in a form of `struct`."""
    if number not in options:
        return None
    value = options[number]
    match form:
        case "bytes":
            return value.rest()
        case "text":
            return text_of(value.rest())
        case _:
            found = value.number(form)
            value.end()
            return found


def decode_hello(fields: Fields) -> Hello:
    if fields.take(4) != MAGIC:
        raise malformed("a HELLO without SAPW")
    oldest, newest = fields.number("B"), fields.number("B")
    options = decode_options(fields)
    return Hello(
        oldest,
        newest,
        user=option(options, 1, "bytes"),
        password=option(options, 2, "bytes"),
        name=option(options, 3, "text"),
        library=option(options, 4, "text"),
        policy=option(options, 5, "B"),
    )


def decode_welcome(fields: Fields) -> Welcome:
    version = fields.number("B")
    options = decode_options(fields)
    return Welcome(
        version,
        broker=option(options, 1, "text"),
        client=option(options, 2, "Q"),
        run=option(options, 3, "text"),
        payload_max=option(options, 4, "I"),
    )


def decode_fields(kind: int, fields: Fields):
    match kind:
        case Kind.HELLO:
            return decode_hello(fields)
        case Kind.PUBLISH:
            return Publish(fields.number("I"), fields.number("B"), decode_message(fields))
        case Kind.SUBSCRIBE:
            return Subscribe(fields.number("I"), decode_subscription(fields))
        case Kind.UNSUBSCRIBE:
            return Unsubscribe(fields.number("I"), decode_subscription(fields))
        case Kind.PING:
            return Ping(fields.number("I"))
        case Kind.DRAIN:
            return Drain(fields.number("I"))
        case Kind.MESSAGE:
            return Event(decode_message(fields))
        case Kind.WELCOME:
            return decode_welcome(fields)
        case Kind.ACK:
            return Ack(fields.number("I"), fields.number("I"))
        case Kind.ERROR:
            return Error(fields.number("I"), fields.number("H"), text_of(fields.rest()))
        case Kind.TURN:
            return Turn(fields.number("I"), decode_message(fields))
        case Kind.GAP:
            return Gap(fields.number("Q"))
        case Kind.DRAINING:
            return Draining(fields.number("I"))
    return Unknown(kind, fields.rest())


def decode_body(body: bytes):
    """One frame from what follows its length."""
    fields = Fields(body)
    frame = decode_fields(fields.number("B"), fields)
    fields.end()
    check(frame)
    return frame


class FrameReader:
    """Collects bytes as they come, and gives whole frames."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.at = 0

    def feed(self, data: bytes) -> None:
        # What was taken is removed once for each read, not once for each frame.
        del self.bytes[: self.at]
        self.at = 0
        self.bytes += data

    def next_bytes(self) -> bytes | None:
        """The next frame without its length, or None until more bytes come."""
        waiting = len(self.bytes) - self.at
        if waiting < 4:
            return None
        (length,) = struct.unpack_from("<I", self.bytes, self.at)
        if length == 0:
            raise malformed("a frame without a kind")
        if length > FRAME_BYTES_MAX:
            raise ProtocolError(Code.FRAME_TOO_LONG, f"{length} bytes, at most {FRAME_BYTES_MAX}")
        if waiting < 4 + length:
            return None
        start = self.at + 4
        self.at = start + length
        return bytes(self.bytes[start : self.at])

    def next(self):
        """The next frame, or None until more bytes come."""
        body = self.next_bytes()
        return None if body is None else decode_body(body)

    def is_between_frames(self) -> bool:
        return len(self.bytes) == self.at


def decode(data: bytes):
    """Exactly one frame."""
    reader = FrameReader()
    reader.feed(data)
    frame = reader.next()
    if frame is None or not reader.is_between_frames():
        raise malformed("not exactly one frame")
    return frame
