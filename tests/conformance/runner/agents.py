"""Agents as child processes: a client library behind a JSON line protocol, which `../README.md` describes."""

import collections
import json
import queue
import shlex
import subprocess
import threading

from .values import Failure, short

# The runner's patience is longer than the one it asks of the agent, so that an agent's own words come first.
ANSWER_SECONDS_MAX = 30
AGENT_VERSION = 1
KEPT_LINES_MAX = 200
SHOWN_LINES_MAX = 20


class Agent:
    """One agent process. It carries out one command at a time."""

    def __init__(self, name, command_line):
        self.name = name
        self.errors = collections.deque(maxlen=KEPT_LINES_MAX)
        self.last_id = 0
        self.process = subprocess.Popen(
            shlex.split(command_line),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self.answers = queue.Queue()
        self.readers = [
            threading.Thread(target=self.read_answers, daemon=True),
            threading.Thread(target=self.read_errors, daemon=True),
        ]
        for reader in self.readers:
            reader.start()
        description = self.ask({"do": "describe"})
        if description.get("agent") != AGENT_VERSION:
            raise Failure(f"the agent {name} does not speak version {AGENT_VERSION}: {description}")
        self.features = frozenset(description["features"])

    def read_answers(self):
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(None)

    def read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line.rstrip("\n"))

    def ask(self, command):
        """Sends a command and returns the answer, which may be an error of the library's."""
        self.last_id += 1
        line = json.dumps({"id": self.last_id} | command)
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answered = self.answers.get(timeout=ANSWER_SECONDS_MAX)
        except OSError as error:
            raise Failure(f"the agent takes no commands: {error}") from error
        except queue.Empty:
            raise Failure(f"the agent did not answer {short(line)} within {ANSWER_SECONDS_MAX} s") from None
        if answered is None:
            raise Failure(f"the agent ended at {short(line)}")
        try:
            answer = json.loads(answered)
        except ValueError as error:
            raise Failure(f"the agent answered {short(answered)}, which is no JSON") from error
        if answer.get("id") != self.last_id:
            raise Failure(f"the agent answered {short(answer)} to the command with id {self.last_id}")
        if answer.get("error") == "agent":
            raise Failure(f"the agent failed at {short(line)}: {answer.get('text')}")
        return answer

    def last_words(self):
        """How it ended if it did, and the last of what it wrote to stderr."""
        status = self.process.poll()
        ended = [] if status is None else [f"the agent ended with {status}"]
        return "\n".join(ended + [f"agent: {line}" for line in list(self.errors)[-SHOWN_LINES_MAX:]])

    def kill(self):
        self.process.kill()
        self.process.wait()
        for reader in self.readers:
            reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                pipe.close()
            except OSError:
                # A command that the agent did not take any more cannot be written.
                pass
