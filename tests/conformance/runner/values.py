"""From the tables of `scenarios.toml` to frames, bytes and the agents' JSON, and the comparison of both with what came.

Nothing here reads or writes anything. `../README.md` describes the tables.
"""

import base64
import re

import sapwood_native as native

# All byte values, with a length that divides no buffer's, so that a displaced piece is noticed.
PATTERN = bytes(range(256)) + b"\xff"

MESSAGE_FIELDS = ("topic", "payload", "reply", "headers", "last")
SHOWN_CHARACTERS_MAX = 300


class Failure(Exception):
    """A scenario went otherwise than the page says."""


def data(value):
    """The bytes that a value of a scenario stands for: a text, or a table with one key."""
    match value:
        case str():
            return value.encode()
        case {"hex": digits}:
            return bytes.fromhex(digits)
        case {"pattern": length}:
            return (PATTERN * (length // len(PATTERN) + 1))[:length]
        case {"repeat": text, "times": times}:
            return text.encode() * times
    raise ValueError(f"{value!r} stands for no bytes")


def optional(value):
    return None if value is None else data(value)


def headers(value):
    return None if value is None else tuple((data(name), data(content)) for name, content in value)


def message(table):
    return native.Message(
        topic=data(table["topic"]),
        payload=data(table.get("payload", "")),
        reply=optional(table.get("reply")),
        headers=headers(table.get("headers")),
        last=table.get("last", False),
    )


def policy(name):
    return native.Policy[name.upper().replace("-", "_")] if isinstance(name, str) else name


def code(name):
    return native.Code[name.upper()] if isinstance(name, str) else name


def subscribing(table):
    return native.Subscribing(data(table["filter"]), data(table.get("group", "")), table.get("member", 0))


def label(value):
    return None if value is None else data(value).decode()


def hello(table):
    return native.Hello(
        oldest=table.get("oldest", native.VERSION),
        newest=table.get("newest", native.VERSION),
        user=optional(table.get("user")),
        password=optional(table.get("password")),
        name=label(table.get("name")),
        library=label(table.get("library")),
        policy=policy(table.get("policy")),
    )


def frame(table):
    """The frame that a table describes. It may be one that must not be sent."""
    match table["kind"]:
        case "HELLO":
            return hello(table)
        case "PUBLISH":
            return native.Publish(table["request"], table.get("when", 1), message(table))
        case "SUBSCRIBE":
            return native.Subscribe(table["request"], subscribing(table))
        case "UNSUBSCRIBE":
            return native.Unsubscribe(table["request"], subscribing(table))
        case "PING":
            return native.Ping(table["request"])
        case "DRAIN":
            return native.Drain(table["request"])
        case "MESSAGE":
            return native.Event(message(table))
        case "WELCOME":
            fields = ("broker", "client", "run", "payload_max")
            return native.Welcome(table.get("version", 1), **{name: table.get(name) for name in fields})
        case "ACK":
            return native.Ack(table["request"], table.get("count", 0))
        case "ERROR":
            return native.Error(table.get("request", 0), code(table["code"]), table.get("text", "refused"))
        case "TURN":
            return native.Turn(table["member"], message(table))
        case "GAP":
            return native.Gap(table["events"])
        case "DRAINING":
            return native.Draining(table["milliseconds"])
    raise ValueError(f"{table!r} describes no frame")


def frame_bytes(table):
    if "hex" in table:
        return bytes.fromhex(table["hex"])
    return native.encode_unchecked(frame(table))


def is_as_described(table, came):
    """Whether a frame is what a table describes. A message is compared whole, other fields where the table has them."""
    wanted_class = next(c for c, kind in native.KIND_OF.items() if kind.name == table["kind"])
    if type(came) is not wanted_class:
        return False
    if isinstance(came, native.Error) and not came.text.strip():
        return False
    fields = dict(vars(came))
    subscription = fields.pop("subscription", None)
    if subscription is not None:
        fields |= vars(subscription)
    for name, wanted in table.items():
        if name != "kind" and name not in MESSAGE_FIELDS:
            if fields.get(name) != plain(name, wanted):
                return False
    return "message" not in fields or fields["message"] == message(table)


def plain(name, value):
    if name == "code":
        return code(value)
    if name == "policy":
        return policy(value)
    return data(value) if name in ("user", "password", "filter", "group") else value


# The agents' JSON. Every field that holds bytes is base64.


def to_base64(value):
    return base64.b64encode(value).decode()


def message_json(table):
    made = message(table)
    fields = {"topic": to_base64(made.topic), "payload": to_base64(made.payload), "last": made.last}
    if made.reply is not None:
        fields["reply"] = to_base64(made.reply)
    if made.headers is not None:
        fields["headers"] = headers_json(made.headers)
    return fields


def headers_json(pairs):
    return [[to_base64(name), to_base64(value)] for name, value in pairs]


def message_from_json(given):
    pairs = given.get("headers")
    reply = given.get("reply")
    return native.Message(
        topic=base64.b64decode(given["topic"], validate=True),
        payload=base64.b64decode(given["payload"], validate=True),
        reply=None if reply is None else base64.b64decode(reply, validate=True),
        headers=None if pairs is None else tuple(tuple(base64.b64decode(part) for part in pair) for pair in pairs),
        last=given.get("last", False),
    )


def frame_json(table):
    """A frame as agents decode and encode it."""
    fields = {}
    for name, value in table.items():
        if name in ("user", "password", "filter", "group"):
            fields[name] = to_base64(data(value))
        elif name in ("client", "events"):
            fields[name] = str(value)
        elif name == "code":
            fields[name] = int(code(value))
        elif name not in MESSAGE_FIELDS:
            fields[name] = value
    if "topic" in table:
        fields["message"] = message_json(table)
    return fields


def without_defaults(fields):
    """What is absent, null, false or empty means the same in an agent's JSON, but for headers and payloads."""
    kept = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            kept[name] = without_defaults(value)
        elif value not in (None, False, "") and not (name == "member" and value == 0):
            kept[name] = value
        elif value == "" and name in ("text", "reply"):
            kept[name] = value
    return kept


# For people.


def short(value):
    text = repr(value)
    text = re.sub(r"(b'[^']{60})[^']{40,}'", r"\1...'", text)
    if len(text) <= SHOWN_CHARACTERS_MAX:
        return text
    return f"{text[:SHOWN_CHARACTERS_MAX]}... ({len(text)} characters)"


def golden_frames(page):
    """The name and bytes of each example in NATIVE.md."""
    block = re.search(r"```golden\n(.*?)```", page, re.DOTALL)
    if block is None:
        raise ValueError("the page has no block of golden frames")
    frames = {}
    for line in block[1].splitlines():
        words = line.partition("#")[0].split()
        if words:
            frames[words[0]] = bytes.fromhex("".join(words[1:]))
    return frames
