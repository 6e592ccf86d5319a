"""Plays one scenario: each step is a method of `Play`, named after who does what.

A step that goes otherwise raises `Failure`. `../README.md` lists the steps; this is what they do.
"""

import itertools
import time

import sapwood_native as native

from . import values
from .values import Failure, data, short
from .wire import VALUE_SECONDS_MAX, FakeBroker, Redis, Wire

TIMEOUT_MS = VALUE_SECONDS_MAX * 1000


def equal(got, wanted, what):
    if got != wanted:
        raise Failure(f"{what}: wanted {short(wanted)}\n  got {short(got)}")


def next_command(client, subscription):
    return {"do": "next", "client": client, "subscription": subscription, "timeout_ms": TIMEOUT_MS}


def numbered(number, length):
    """A payload that says its number, and is as long as wanted."""
    head = b"%d " % number
    return head + data({"pattern": max(0, length - len(head))})


def number_of(payload):
    return int(payload.split(b" ", 1)[0])


def check_gaps(events, count):
    """Reads messages numbered from 0 to the last of `count`, and gaps, which must stand for exactly what is missing."""
    wanted, pending, lost = 0, 0, 0
    while wanted < count:
        event = next(events)
        if isinstance(event, native.Gap):
            pending += event.events
            continue
        number = number_of(event.payload)
        if number - wanted != pending:
            raise Failure(f"number {number} came behind {wanted - 1}, and gaps of {pending} between them")
        equal(event.payload, numbered(number, len(event.payload)), f"the payload of number {number}")
        lost += pending
        wanted, pending = number + 1, 0
    if lost == 0:
        raise Failure(f"nothing was lost of {count} events, so the gap was not tried")


class Play:
    """The actors of one scenario."""

    def __init__(self, broker, agent):
        self.broker = broker
        self.agent = agent
        self.wires = {}
        self.fakes = {}
        self.redis = {}
        self.clients = set()

    def step(self, step):
        for actor in ("wire", "client", "fake", "broker", "redis", "all"):
            if actor in step:
                getattr(self, f"{actor}_{step.get('do', 'script')}")(step)
                return
        raise ValueError(f"{step!r} has no actor")

    def finish(self):
        """Ends all connections so that the next scenario finds a broker without subscriptions."""
        for client in sorted(self.clients):
            self.agent.ask({"do": "drain", "client": client})
            self.agent.ask({"do": "close", "client": client})
        for wire in self.wires.values():
            wire.finish()
        self.close()

    def close(self):
        for actor in itertools.chain(self.wires.values(), self.fakes.values(), self.redis.values()):
            actor.close()

    # The runner's own connections.

    def wire(self, step):
        return self.wires[step["wire"]]

    def wire_connect(self, step):
        self.wires[step["wire"]] = Wire(self.broker.port)

    def wire_open(self, step):
        self.wire_connect(step)
        welcome = self.wire(step).open(step.get("hello", {}))
        for option in step.get("tells", []):
            if getattr(welcome, option) is None:
                raise Failure(f"WELCOME has no option {option}")

    def wire_send(self, step):
        frames = [values.frame_bytes(table) for table in step["frames"]]
        self.wire(step).send(frames, step.get("write", "together"))

    def wire_expect(self, step):
        for table in step["frames"]:
            self.wire(step).expect(table)

    def wire_expect_unordered(self, step):
        """Reads as many frames as are listed, each of which must be one of them."""
        left = list(step["frames"])
        while left:
            came = self.wire(step).next_frame()
            described = next((table for table in left if values.is_as_described(table, came)), None)
            if described is None:
                raise Failure(f"wanted one of {short(left)}\n  got {short(came)}")
            left.remove(described)

    def wire_expect_end(self, step):
        self.wire(step).expect_end()

    def wire_cut_off(self, step):
        """Reads to the end of a connection that the broker closed, which may stand within a frame."""
        self.wire(step).read_to_end()

    def wire_hang_up(self, step):
        self.wires.pop(step["wire"]).hang_up()

    def wire_publish_until(self, step):
        """Publishes again and again, until as many subscriptions match as wanted."""
        deadline = time.monotonic() + VALUE_SECONDS_MAX
        while True:
            answer = self.wire(step).request({"kind": "PUBLISH", "when": 1} | self.message_fields(step))
            if getattr(answer, "count", None) == step["count"]:
                return
            if not isinstance(answer, native.Ack) or time.monotonic() > deadline:
                raise Failure(f"wanted ACK with count {step['count']} in the end\n  got {short(answer)}")

    def wire_split(self, step):
        """Sends a frame in two writes, split at each byte. The first part goes with a PING, whose answer is awaited."""
        wire, frame = self.wire(step), values.frame_bytes(step["frame"])
        for at in range(1, len(frame)):
            wire.send([native.encode(native.Ping(at)), frame[:at]])
            wire.expect({"kind": "ACK", "request": at})
            wire.send([frame[at:]])
            for table in step["answers"]:
                wire.expect(table)

    def wire_publish(self, step):
        count = step.get("count")
        self.answer(step, {"kind": "PUBLISH", "when": 1} | self.message_fields(step), count)

    def wire_subscribe(self, step):
        fields = {name: step[name] for name in ("filter", "group", "member") if name in step}
        self.answer(step, {"kind": "SUBSCRIBE"} | fields, step.get("count"))

    def wire_unsubscribe(self, step):
        fields = {name: step[name] for name in ("filter", "group", "member") if name in step}
        self.answer(step, {"kind": "UNSUBSCRIBE"} | fields, step.get("count"))

    def wire_ends(self, step):
        """Unsubscribes, and reads the events that come before the answer."""
        wire = self.wire(step)
        fields = {name: step[name] for name in ("filter", "group", "member") if name in step}
        wire.send([values.frame_bytes({"kind": "UNSUBSCRIBE", "request": 1} | fields)])
        while isinstance(came := wire.next_frame(), (native.Event, native.Turn)):
            pass
        equal(came, native.Ack(1, 0), "the answer to UNSUBSCRIBE")

    def wire_ping(self, step):
        self.answer(step, {"kind": "PING"}, 0)

    def wire_drain(self, step):
        self.answer(step, {"kind": "DRAIN"}, step["count"])

    def answer(self, step, table, count):
        """Makes a request, and compares its answer with the step's `fails` or count."""
        answer = self.wire(step).request(table)
        if "fails" in step:
            equal(getattr(answer, "code", None), values.code(step["fails"]), f"the code in the answer {short(answer)}")
        elif not isinstance(answer, native.Ack) or count not in (None, answer.count):
            raise Failure(f"wanted ACK with count {count}\n  got {short(answer)}")

    @staticmethod
    def message_fields(step):
        return {name: step[name] for name in values.MESSAGE_FIELDS if name in step}

    def wire_hears(self, step):
        self.wire(step).expect({"kind": "MESSAGE"} | self.message_fields(step))

    def wire_series(self, step):
        """Publishes numbered messages without waiting between them. With a `count`, each is acknowledged with it."""
        wire, frames = self.wire(step), []
        topics = step["topics"] if "topics" in step else [step["topic"]]
        for number in range(step["events"]):
            topic = topics[number % len(topics)]
            message = native.Message(data(topic), numbered(number, step.get("bytes", 0)))
            confirmed = native.Publish(number + 1, native.When.ALWAYS, message)
            frames.append(native.encode(confirmed if "count" in step else native.Event(message)))
        wire.send(frames)
        if "count" in step:
            for number in range(step["events"]):
                wire.expect({"kind": "ACK", "request": number + 1, "count": step["count"]})

    def wire_numbers(self, step):
        """Reads numbered messages, of which none may be missing."""
        for number in range(step["events"]):
            came = self.wire(step).next_frame()
            if not isinstance(came, native.Event) or number_of(came.message.payload) != number:
                raise Failure(f"wanted number {number}\n  got {short(came)}")

    def wire_gaps(self, step):
        wire, answers = self.wire(step), list(step.get("answers", []))

        def events():
            while True:
                frame = wire.next_frame()
                match frame:
                    case native.Gap():
                        yield frame
                    case native.Event(message=message):
                        yield message
                    case native.Ack() if answers and values.is_as_described(answers[0], frame):
                        answers.pop(0)
                    case _:
                        raise Failure(f"wanted MESSAGE, GAP or one of {short(answers)}\n  got {short(frame)}")

        check_gaps(events(), step["events"])
        for table in answers:
            wire.expect(table)

    def wire_losses(self, step):
        """Reads a series on several topics: with the gaps it is whole, and the newest of each topic is there."""
        received, lost, newest = 0, 0, {}
        while received + lost < step["events"]:
            frame = self.wire(step).next_frame()
            match frame:
                case native.Gap(events=events):
                    lost += events
                case native.Event(message=message):
                    received += 1
                    number = number_of(message.payload)
                    if number <= newest.get(message.topic, -1):
                        raise Failure(f"number {number} of {message.topic} came behind {newest[message.topic]}")
                    newest[message.topic] = number
                case _:
                    raise Failure(f"wanted MESSAGE or GAP\n  got {short(frame)}")
        equal(received + lost, step["events"], "messages and lost ones")
        topics = [data(topic) for topic in step["topics"]]
        firsts = range(step["events"] - len(topics), step["events"])
        equal(newest, {topics[number % len(topics)]: number for number in firsts}, "the newest of each topic")
        if lost == 0:
            raise Failure(f"nothing was lost of {step['events']} events, so the gap was not tried")

    def all_turns(self, step):
        """Reads the TURNs of several connections. `members` says how many come for each `connection/member`."""
        wanted, came, numbers = step["members"], {}, []
        for name in sorted({key.partition("/")[0] for key in wanted}):
            share = sum(count for key, count in wanted.items() if key.startswith(f"{name}/"))
            last = -1
            for _ in range(share):
                frame = self.wires[name].next_frame()
                if not isinstance(frame, native.Turn):
                    raise Failure(f"wanted a TURN at {name}, behind {came} of {wanted}\n  got {short(frame)}")
                key = f"{name}/{frame.member}"
                came[key] = came.get(key, 0) + 1
                number = number_of(frame.message.payload)
                if number <= last:
                    raise Failure(f"number {number} came behind {last} at {name}")
                last = number
                numbers.append(number)
        equal(came, {key: count for key, count in wanted.items() if count}, "turns by member")
        equal(sorted(numbers), list(range(len(numbers))), "the numbers that came")

    def all_match(self, step):
        """Subscribes to each filter of a table, and publishes to each topic: ACK counts the filters that match it."""
        wire, publisher = self.wires[step["subscriber"]], self.wires[step["publisher"]]
        for number, entry in enumerate(step["filters"], 1):
            answer = wire.request({"kind": "SUBSCRIBE", "filter": entry["filter"]})
            equal(answer, native.Ack(wire.last_request, number), f"the answer to the filter {entry['filter']!r}")
        for topic in step["topics"]:
            filters = [entry["filter"] for entry in step["filters"] if topic in entry["matches"]]
            answer = publisher.request({"kind": "PUBLISH", "when": 1, "topic": topic})
            wanted = native.Ack(publisher.last_request, len(filters))
            equal(answer, wanted, f"the answer to the topic {topic!r}, which matches {filters}")
            if filters:
                wire.expect({"kind": "MESSAGE", "topic": topic})

    # Clients of the library under test.

    def ask(self, step, command, may_fail=False):
        command = {"do": step["do"], "client": step["client"]} | command
        answer = self.agent.ask(command)
        if "fails" in step:
            self.check_failure(step["fails"], answer)
        elif "error" in answer and not may_fail:
            raise Failure(f"{short(command)} failed: {answer}")
        return answer

    @staticmethod
    def check_failure(wanted, answer):
        if wanted in ("closed", "no_responders", "timeout"):
            equal(answer.get("error"), wanted, f"the error of {short(answer)}")
        else:
            equal(answer.get("code"), values.code(wanted), f"the code of {short(answer)}")

    def client_connect(self, step):
        port = self.fakes[step["to"]].port if "to" in step else self.broker.port
        command = {"address": f"127.0.0.1:{port}"}
        for name in ("user", "password"):
            if name in step:
                command[name] = values.to_base64(data(step[name]))
        for name in ("name", "policy"):
            if name in step:
                command[name] = step[name]
        self.ask(step, command)
        if "fails" not in step:
            self.clients.add(step["client"])

    def client_publish(self, step):
        self.ask(step, {"message": values.message_json(step)})

    def client_publish_confirmed(self, step):
        answer = self.ask(step, {"message": values.message_json(step)})
        if "count" in step:
            equal(answer["count"], step["count"], "the count")

    def client_pipeline(self, step):
        messages = [values.message_json(table) for table in step["messages"]]
        answer = self.ask(step, {"messages": messages})
        equal(len(answer["answers"]), len(step["answers"]), "the number of answers")
        for wanted, got in zip(step["answers"], answer["answers"]):
            if "fails" in wanted:
                self.check_failure(wanted["fails"], got)
            else:
                equal(got.get("count"), wanted["count"], "the count")

    def client_subscribe(self, step):
        command = {"subscription": step["subscription"], "filter": values.to_base64(data(step["filter"]))}
        if "group" in step:
            command["group"] = values.to_base64(data(step["group"]))
        self.ask(step, command)

    def client_unsubscribe(self, step):
        self.ask(step, {"subscription": step["subscription"]})

    def client_next(self, step):
        answer = self.ask(step, {"subscription": step["subscription"], "timeout_ms": TIMEOUT_MS})
        self.check_event(step, answer)

    def client_next_unordered(self, step):
        command = next_command(step["client"], step["subscription"])
        left = [values.message(table) for table in step["messages"]]
        while left:
            answer = self.agent.ask(command)
            came = "message" in answer and values.message_from_json(answer["message"])
            if came not in left:
                raise Failure(f"wanted one of {short(left)}\n  got {short(answer)}")
            left.remove(came)

    def client_request(self, step):
        self.ask(step, {"request": step["request"], "message": values.message_json(step)})

    def client_next_reply(self, step):
        answer = self.ask(step, {"request": step["request"], "timeout_ms": TIMEOUT_MS})
        self.check_event(step, answer)

    @staticmethod
    def check_event(step, answer):
        """Compares an event with the step's `gap`, `end` or message, of which it need not say the topic."""
        if "fails" in step:
            return
        if "gap" in step:
            equal(answer.get("gap"), step["gap"], f"the gap of {short(answer)}")
        elif "end" in step:
            equal(answer.get("end"), True, f"the end in {short(answer)}")
        else:
            if "message" not in answer:
                raise Failure(f"wanted the message {short(step)}\n  got {short(answer)}")
            came = values.message_from_json(answer["message"])
            described = {"topic": {"hex": came.topic.hex()}} | Play.message_fields(step)
            if step.get("reply") == "any" and came.reply:
                described["reply"] = {"hex": came.reply.hex()}
            equal(came, values.message(described), "the message")

    def client_respond(self, step):
        command = {"subscription": step["subscription"], "payload": values.to_base64(data(step.get("payload", "")))}
        command["last"] = step.get("last", False)
        if "headers" in step:
            command["headers"] = values.headers_json(values.headers(step["headers"]))
        self.ask(step, command)

    def client_ping(self, step):
        self.ask(step, {})

    def client_drain(self, step):
        self.ask(step, {})

    def client_close(self, step):
        self.ask(step, {})
        self.clients.discard(step["client"])

    def client_wait(self, step):
        answer = self.ask(step, {"for": step["for"], "timeout_ms": TIMEOUT_MS})
        if "code" in step:
            equal(answer.get("code"), values.code(step["code"]), "the code")
        if "milliseconds" in step and "milliseconds" in answer:
            equal(answer.get("milliseconds"), step["milliseconds"], "the milliseconds")

    def client_gaps(self, step):
        command = next_command(step["client"], step["subscription"])

        def events():
            while True:
                answer = self.agent.ask(command)
                if "gap" in answer:
                    yield native.Gap(answer["gap"])
                elif "message" in answer:
                    yield values.message_from_json(answer["message"])
                else:
                    raise Failure(f"wanted a message or a gap\n  got {short(answer)}")

        check_gaps(events(), step["events"])

    def client_match(self, step):
        """Asks the library itself which of a table's filters match which topics."""
        for entry in step["filters"]:
            for topic in step["topics"] + step["reserved"]:
                filter = entry["filter"]
                command = {"filter": values.to_base64(data(filter)), "topic": values.to_base64(data(topic))}
                answer = self.agent.ask({"do": "matches"} | command)
                equal(answer.get("matches"), topic in entry["matches"], f"whether {filter!r} matches {topic!r}")

    def all_shares(self, step):
        """Reads the events of several members. `members` says how many come for each `client/subscription`."""
        numbers = []
        for key, count in step["members"].items():
            client, _, subscription = key.partition("/")
            for _ in range(count):
                answer = self.agent.ask(next_command(client, subscription))
                if "message" not in answer:
                    raise Failure(f"wanted one of {count} messages for {key}\n  got {short(answer)}")
                numbers.append(number_of(values.message_from_json(answer["message"]).payload))
        equal(sorted(numbers), list(range(len(numbers))), "the numbers that came")

    # Others.

    def fake_script(self, step):
        self.fakes[step["fake"]] = FakeBroker(step["script"])

    def fake_finish(self, step):
        self.fakes[step["fake"]].finish()

    def broker_stop(self, step):
        self.broker.stop()

    def broker_ended(self, step):
        self.broker.wait_ended()

    def redis_connect(self, step):
        self.redis[step["redis"]] = Redis(self.broker.ports["redis"])

    def redis_command(self, step):
        redis = self.redis[step["redis"]]
        redis.command(*[data(word) for word in step["words"]])
        equal(redis.answer(), step["answer"], f"the answer to {short(step['words'])}")

    def redis_hears(self, step):
        equal(self.redis[step["redis"]].answer(), step["push"], "the push")
