"""A small blocking client of Sapwood's native protocol, on top of `sapwood_native.py`, for tests.

One TCP connection and no thread. It reads only while somebody waits for something, so a caller that does not ask for
events is a slow reader. It does not connect again by itself. Start at `Client.connect`.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections import deque

from sapwood_native import (
    VERSION,
    Ack,
    Code,
    Drain,
    Draining,
    Error,
    Event,
    FrameReader,
    Gap,
    Hello,
    Message,
    Ping,
    ProtocolError,
    Publish,
    Subscribe,
    Subscribing,
    Turn,
    Unknown,
    Unsubscribe,
    Welcome,
    When,
    check_subscription,
    encode,
    malformed,
    matches,
    name_of,
)

READ_BYTES = 256 * 1024
REQUEST_MAX = 0xFFFF_FFFF


class Closed(Exception):
    """The connection has ended. `error` is the broker's last word, if it had one."""

    def __init__(self, text: str, error: Error | None = None):
        super().__init__(text)
        self.error = error


class NoResponders(Exception):
    """Nobody listens to the topic of a request."""


class Timeout(Exception):
    """It did not come in time. It may still come: wait again."""


class Subscription:
    """Events of one filter: `Message` and `Gap`, in the order in which they came."""

    def __init__(self, client: Client, subscribing: Subscribing):
        self.client = client
        self.subscribing = subscribing
        self.events: deque[Message | Gap] = deque()
        self.ended = False

    def next(self, seconds: float | None = None) -> Message | Gap | None:
        """The next event; None when there is none any more. Raises `Timeout` or `Closed`."""
        self.client._read_until(lambda: self.events or self.ended, seconds)
        return self.events.popleft() if self.events else None

    def unsubscribe(self) -> None:
        self.client._unsubscribe(self)


class Replies:
    """The replies to one request, up to the end mark."""

    def __init__(self, client: Client, topic: bytes):
        self.client = client
        self.topic = topic
        self.replies: deque[Message] = deque()
        self.ended = False
        self.unheard = False

    def next(self, seconds: float | None = None) -> Message | None:
        """The next reply; None behind the one with the end mark. Raises `NoResponders`, `Timeout` or `Closed`."""
        self.client._read_until(lambda: self.replies or self.ended or self.unheard, seconds)
        if self.unheard:
            raise NoResponders(repr(self.topic))
        return self.replies.popleft() if self.replies else None


class Client:
    """One connection. Waits in every call but `publish` and `respond`; `seconds` is how long at most."""

    def __init__(self, stream: socket.socket, seconds: float):
        self.stream = stream
        self.seconds = seconds
        self.reader = FrameReader()
        self.welcome = Welcome(0)
        # Requests without an answer yet, in the order in which they were sent, which is the answers' order too.
        self.open: deque[int] = deque()
        self.last_request = 0
        # Answers by request number, from their coming until somebody takes them.
        self.answers: dict[int, Ack | Error] = {}
        self.subscriptions: list[Subscription] = []
        self.last_member = 0
        self.inbox: bytes | None = None
        self.requests: dict[bytes, Replies] = {}
        self.unheard: dict[int, Replies] = {}
        # ERRORs with request 0 that did not end the connection: refused MESSAGEs.
        self.refused: deque[Error] = deque()
        self.draining: int | None = None
        self.closed: Closed | None = None

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        *,
        user: bytes | None = None,
        password: bytes | None = None,
        name: str | None = None,
        policy: int | None = None,
        seconds: float = 10,
    ) -> Client:
        """Raises `OSError`, or `Closed` with the broker's reason."""
        stream = socket.create_connection((host, port), timeout=seconds)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = cls(stream, seconds)
        library = "sapwood-native-python/1"
        hello = Hello(user=user, password=password, name=name, library=library, policy=policy)
        try:
            client._send([encode(hello)])
            client._read_until(lambda: client.welcome.version, None)
        except BaseException:
            stream.close()
            raise
        return client

    # Publishing.

    def publish(self, message: Message) -> None:
        """Sends it; a refusal comes later, into `refused`."""
        self._send([self._checked(Event(message))])

    def publish_confirmed(self, message: Message) -> int:
        """How many subscriptions it matched. Raises `ProtocolError` when it is refused."""
        answer = self.publish_confirmed_many([message])[0]
        if isinstance(answer, ProtocolError):
            raise answer
        return answer

    def publish_confirmed_many(self, messages: list[Message]) -> list[int | ProtocolError]:
        """The same for each, sent together before the first answer is read."""
        outcomes: list[int | ProtocolError | None] = []
        frames, requests = [], []
        for message in messages:
            request = self.last_request % REQUEST_MAX + 1
            try:
                frames.append(self._checked(Publish(request, When.ALWAYS, message)))
                requests.append(self._next_request())
                outcomes.append(None)
            except ProtocolError as error:
                outcomes.append(error)
        self._send(frames)
        answers = iter([self._outcome(request) for request in requests])
        return [next(answers) if outcome is None else outcome for outcome in outcomes]

    # Subscribing.

    def subscribe(self, filter: bytes, group: bytes = b"") -> Subscription:
        member = 0
        if group:
            self.last_member += 1
            member = self.last_member
        subscription = Subscription(self, Subscribing(filter, group, member))
        check_subscription(subscription.subscribing)
        request = self._next_request()
        self._send([encode(Subscribe(request, subscription.subscribing))])
        # Events may stand right behind the ACK, so it has to be known before the ACK is read.
        self.subscriptions.append(subscription)
        try:
            self._take(request)
        except ProtocolError:
            self.subscriptions.remove(subscription)
            raise
        return subscription

    def _unsubscribe(self, subscription: Subscription) -> None:
        if subscription.ended:
            return
        shared = [s for s in self.subscriptions if s.subscribing == subscription.subscribing]
        if len(shared) == 1:
            request = self._next_request()
            self._send([encode(Unsubscribe(request, subscription.subscribing))])
            self._take(request)
        self.subscriptions.remove(subscription)
        subscription.ended = True

    # Requests for replies.

    def request(self, topic: bytes, payload: bytes = b"", headers=None) -> Replies:
        """Sends a request; its replies are read from what this returns."""
        if self.inbox is None:
            inbox = b"_INBOX." + secrets.token_hex(16).encode()
            request = self._next_request()
            self._send([encode(Subscribe(request, Subscribing(inbox + b".*")))])
            self._take(request)
            self.inbox = inbox
        request = self.last_request % REQUEST_MAX + 1
        reply = self.inbox + b".%d" % request
        frame = self._checked(Publish(request, When.UNHEARD, Message(topic, payload, reply, headers)))
        replies = Replies(self, topic)
        self.requests[reply] = replies
        self.unheard[self._next_request()] = replies
        self._send([frame])
        return replies

    def respond(self, to: Message, payload: bytes = b"", headers=None, last: bool = True) -> None:
        if to.reply is None:
            raise ValueError("the message asks for no reply")
        self.publish(Message(to.reply, payload, None, headers, last))

    # The connection.

    def ping(self) -> None:
        request = self._next_request()
        self._send([encode(Ping(request))])
        self._take(request)

    def drain(self) -> int:
        """Ends all subscriptions, and returns how many the connection had. What was on its way can still be read."""
        request = self._next_request()
        self._send([encode(Drain(request))])
        count = self._take(request)
        for subscription in self.subscriptions:
            subscription.ended = True
        self.subscriptions.clear()
        self.inbox = None
        return count

    def close(self) -> None:
        self.stream.close()
        self.closed = self.closed or Closed("closed here")

    def wait_draining(self, seconds: float | None = None) -> int:
        """Within how many milliseconds the broker closes, once it has said so."""
        self._read_until(lambda: self.draining is not None, seconds)
        return self.draining

    def wait_refused(self, seconds: float | None = None) -> Error:
        """The refusal of a message that `publish` sent."""
        self._read_until(lambda: self.refused, seconds)
        return self.refused.popleft()

    def wait_closed(self, seconds: float | None = None) -> Closed:
        try:
            self._read_until(lambda: False, seconds)
        except Closed as closed:
            return closed

    # Inside.

    def _checked(self, frame) -> bytes:
        """The frame's bytes, if the broker will take its payload."""
        payload, most = frame.message.payload, self.welcome.payload_max
        if most is not None and len(payload) > most:
            raise ProtocolError(Code.PAYLOAD_TOO_LONG, f"{len(payload)} bytes, at most {most}")
        return encode(frame)

    def _next_request(self) -> int:
        self.last_request = self.last_request % REQUEST_MAX + 1
        self.open.append(self.last_request)
        return self.last_request

    def _send(self, frames: list[bytes]) -> None:
        if self.closed:
            raise self.closed
        try:
            self.stream.settimeout(self.seconds)
            self.stream.sendall(b"".join(frames))
        except OSError as error:
            self._find_last_words(error)
            raise self.closed from error

    def _find_last_words(self, error: OSError) -> None:
        """After a write failed: what the broker said before it closed."""
        deadline = time.monotonic() + self.seconds
        try:
            while not self.closed:
                self._read_frames(deadline)
        except Timeout:
            self.closed = Closed(str(error))

    def _outcome(self, request: int) -> int | ProtocolError:
        self._read_until(lambda: request in self.answers, None)
        match self.answers.pop(request):
            case Ack(count=count):
                return count
            case Error(code=code, text=text):
                return ProtocolError(code, text)

    def _take(self, request: int) -> int:
        outcome = self._outcome(request)
        if isinstance(outcome, ProtocolError):
            raise outcome
        return outcome

    def _read_until(self, is_done, seconds: float | None) -> None:
        deadline = time.monotonic() + (self.seconds if seconds is None else seconds)
        while not is_done():
            if self.closed:
                raise self.closed
            self._read_frames(deadline)

    def _read_frames(self, deadline: float) -> None:
        """Reads once. What ends the connection goes into `closed`, because the frames before it still count."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise Timeout("nothing came in time")
        try:
            self.stream.settimeout(left)
            data = self.stream.recv(READ_BYTES)
        except TimeoutError:
            raise Timeout("nothing came in time") from None
        except OSError as error:
            self.closed = Closed(str(error))
            return
        if not data:
            whole = self.reader.is_between_frames()
            self.closed = Closed("the broker closed the connection" + ("" if whole else " within a frame"))
            return
        self.reader.feed(data)
        try:
            while not self.closed and (frame := self.reader.next()) is not None:
                self._handle(frame)
        except ProtocolError as error:
            self.stream.close()
            self.closed = Closed(f"the broker broke the protocol: {error}")

    def _handle(self, frame) -> None:
        match frame:
            case Unknown():
                pass
            case Welcome():
                if self.welcome.version or frame.version != VERSION:
                    raise malformed(f"an unexpected {frame}")
                self.welcome = frame
            case Error(request=0) if frame.code < 200:
                self.closed = Closed(f"{frame.code} {name_of(frame.code)}: {frame.text}", frame)
            case Error(request=0):
                self.refused.append(frame)
            case Ack() | Error():
                self._handle_answer(frame)
            case Event():
                self._handle_event(frame.message)
            case Turn():
                for subscription in self.subscriptions:
                    if subscription.subscribing.group and subscription.subscribing.member == frame.member:
                        subscription.events.append(frame.message)
            case Gap():
                for subscription in self.subscriptions:
                    subscription.events.append(frame)
            case Draining():
                self.draining = frame.milliseconds
            case _:
                raise malformed(f"a broker must not send {frame}")

    def _handle_answer(self, answer: Ack | Error) -> None:
        request = answer.request
        # A PUBLISH that is answered only if nobody listens was heard when a later request is answered.
        while self.open and self.open[0] != request and self.open[0] in self.unheard:
            del self.unheard[self.open.popleft()]
        if not self.open or self.open[0] != request:
            raise malformed(f"an answer to request {request}, when the next one is {list(self.open)[:1]}")
        self.open.popleft()
        replies = self.unheard.pop(request, None)
        if replies is None:
            self.answers[request] = answer
        elif isinstance(answer, Ack):
            replies.unheard = True
        else:
            self.refused.append(answer)
            replies.ended = True
        if isinstance(answer, Error) and answer.code < 200:
            self.closed = Closed(f"{answer.code} {name_of(answer.code)}: {answer.text}", answer)

    def _handle_event(self, message: Message) -> None:
        replies = self.requests.get(message.topic)
        if replies is not None:
            replies.replies.append(message)
            if message.last:
                replies.ended = True
                del self.requests[message.topic]
        for subscription in self.subscriptions:
            if not subscription.subscribing.group and matches(subscription.subscribing.filter, message.topic):
                subscription.events.append(message)
