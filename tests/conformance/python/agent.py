"""The agent of the Python implementation: JSON commands on stdin, one JSON answer each on stdout.

`../README.md` is its contract. It translates and decides nothing: what it is asked for is one call of
`sapwood_client`, and what that call says is the answer.
"""

import base64
import json
import sys
import traceback

import sapwood_native as native
from sapwood_client import Client, Closed, NoResponders, Timeout
from sapwood_native import Gap, Message, ProtocolError

FEATURES = ["codec", "draining", "headers", "matches", "payload_max", "refused"]


def to_text(data):
    return base64.b64encode(data).decode()


def to_bytes(text):
    return base64.b64decode(text, validate=True)


def optional(convert, value):
    return None if value is None else convert(value)


def message_of(given):
    headers = given.get("headers")
    return Message(
        topic=to_bytes(given["topic"]),
        payload=to_bytes(given.get("payload", "")),
        reply=optional(to_bytes, given.get("reply")),
        headers=headers_of(headers),
        last=given.get("last", False),
    )


def headers_of(headers):
    if headers is None:
        return None
    return tuple((to_bytes(name), to_bytes(value)) for name, value in headers)


def message_json(message):
    headers = message.headers
    return {
        "topic": to_text(message.topic),
        "payload": to_text(message.payload),
        "reply": optional(to_text, message.reply),
        "headers": None if headers is None else [[to_text(n), to_text(v)] for n, v in headers],
        "last": message.last,
    }


def policy_json(policy):
    return native.Policy(policy).name.lower().replace("_", "-")


def policy_of(name):
    return native.Policy[name.upper().replace("-", "_")]


# How the fields of frames look in JSON, where they are not plain numbers or texts: (to JSON, from JSON).
FIELDS = {
    "user": (to_text, to_bytes),
    "password": (to_text, to_bytes),
    "policy": (policy_json, policy_of),
    "client": (str, int),
    "events": (str, int),
    "message": (message_json, message_of),
}


def frame_json(frame):
    fields = {"kind": native.KIND_OF[type(frame)].name}
    for name, value in vars(frame).items():
        if isinstance(value, native.Subscribing):
            fields |= {"filter": to_text(value.filter), "group": to_text(value.group), "member": value.member}
        else:
            write = FIELDS.get(name, (lambda same: same,))[0]
            fields[name] = optional(write, value)
    return fields


def frame_of(given):
    fields = {name: value for name, value in given.items() if name != "kind"}
    kind = native.Kind[given["kind"]]
    (frame_class,) = (c for c, k in native.KIND_OF.items() if k == kind)
    if kind in (native.Kind.SUBSCRIBE, native.Kind.UNSUBSCRIBE):
        subscription = native.Subscribing(
            to_bytes(fields["filter"]), to_bytes(fields.get("group", "")), fields.get("member", 0)
        )
        return frame_class(fields["request"], subscription)
    for name, value in fields.items():
        if name in FIELDS:
            fields[name] = optional(FIELDS[name][1], value)
    return frame_class(**fields)


class Agent:
    """Clients, subscriptions and requests by the names that the runner gives them."""

    def __init__(self):
        self.clients = {}
        self.subscriptions = {}
        self.requests = {}
        # What `respond` answers: the last message that each subscription gave.
        self.last_messages = {}

    def run(self, command):
        return getattr(self, "do_" + command["do"])(command)

    def client(self, command):
        return self.clients[command["client"]]

    def subscription(self, command):
        return self.subscriptions[command["client"], command["subscription"]]

    def do_describe(self, command):
        return {"library": "sapwood-native-python", "agent": 1, "features": FEATURES}

    def do_connect(self, command):
        host, _, port = command["address"].rpartition(":")
        self.clients[command["client"]] = Client.connect(
            host,
            int(port),
            user=optional(to_bytes, command.get("user")),
            password=optional(to_bytes, command.get("password")),
            name=command.get("name"),
            policy=optional(policy_of, command.get("policy")),
        )
        return {}

    def do_publish(self, command):
        self.client(command).publish(message_of(command["message"]))
        return {}

    def do_publish_confirmed(self, command):
        return {"count": self.client(command).publish_confirmed(message_of(command["message"]))}

    def do_pipeline(self, command):
        messages = [message_of(message) for message in command["messages"]]
        outcomes = self.client(command).publish_confirmed_many(messages)
        return {"answers": [error_json(o) if isinstance(o, ProtocolError) else {"count": o} for o in outcomes]}

    def do_subscribe(self, command):
        group = to_bytes(command.get("group", ""))
        subscription = self.client(command).subscribe(to_bytes(command["filter"]), group)
        self.subscriptions[command["client"], command["subscription"]] = subscription
        return {}

    def do_unsubscribe(self, command):
        self.subscription(command).unsubscribe()
        return {}

    def do_next(self, command):
        event = self.subscription(command).next(command["timeout_ms"] / 1000)
        match event:
            case None:
                return {"end": True}
            case Gap(events=events):
                return {"gap": events}
            case Message():
                self.last_messages[command["client"], command["subscription"]] = event
                return {"message": message_json(event)}

    def do_request(self, command):
        message = message_of(command["message"])
        replies = self.client(command).request(message.topic, message.payload, message.headers)
        self.requests[command["client"], command["request"]] = replies
        return {}

    def do_next_reply(self, command):
        reply = self.requests[command["client"], command["request"]].next(command["timeout_ms"] / 1000)
        return {"end": True} if reply is None else {"message": message_json(reply)}

    def do_respond(self, command):
        message = self.last_messages[command["client"], command["subscription"]]
        headers = headers_of(command.get("headers"))
        self.client(command).respond(message, to_bytes(command["payload"]), headers, command["last"])
        return {}

    def do_ping(self, command):
        self.client(command).ping()
        return {}

    def do_drain(self, command):
        self.client(command).drain()
        return {}

    def do_close(self, command):
        self.client(command).close()
        return {}

    def do_wait(self, command):
        client, seconds = self.client(command), command["timeout_ms"] / 1000
        match command["for"]:
            case "draining":
                return {"milliseconds": client.wait_draining(seconds)}
            case "refused":
                return {"code": client.wait_refused(seconds).code}
            case "closed":
                closed = client.wait_closed(seconds)
                return {"code": closed.error and closed.error.code}

    def do_matches(self, command):
        return {"matches": native.matches(to_bytes(command["filter"]), to_bytes(command["topic"]))}

    def do_decode(self, command):
        return {"frame": frame_json(native.decode(to_bytes(command["bytes"])))}

    def do_encode(self, command):
        return {"bytes": to_text(native.encode(frame_of(command["frame"])))}


def error_json(error):
    match error:
        case ProtocolError():
            return {"error": "refused", "code": error.code, "text": str(error)}
        case Closed():
            return {"error": "closed", "code": error.error and error.error.code, "text": str(error)}
        case NoResponders():
            return {"error": "no_responders", "text": str(error)}
        case Timeout():
            return {"error": "timeout", "text": str(error)}
        case OSError():
            return {"error": "closed", "text": str(error)}
    return {"error": "agent", "text": "".join(traceback.format_exception(error))}


def main():
    agent = Agent()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = agent.run(command)
        except Exception as error:
            answer = error_json(error)
        print(json.dumps({"id": command["id"]} | answer), flush=True)


if __name__ == "__main__":
    main()
