"""Real brokers as child processes: `sapwood serve` on free ports of the loopback address."""

import collections
import os
import queue
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from .values import Failure

# A loaded machine with two cores needs a few seconds at worst.
START_SECONDS_MAX = 20
END_SECONDS_MAX = 10
KEPT_LINES_MAX = 200
SHOWN_LINES_MAX = 20


def drain(stream, keep):
    for line in stream:
        keep(line.rstrip("\n"))
    keep(None)


class Broker:
    """One running broker. `profile` is a table of `[brokers]`: a password, and what its configuration file holds."""

    def __init__(self, program, shards, profile):
        self.directory = tempfile.TemporaryDirectory(prefix="sapwood-conformance-")
        config = Path(self.directory.name, "sapwood.toml")
        settings = [f"{key} = {value!r}" for key, value in profile.get("settings", {}).items()]
        limits = [f"{key} = {value!r}" for key, value in profile.get("limits", {}).items()]
        config.write_text("\n".join([*settings, "[limits]", *limits, ""]))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SAPWOOD_")}
        if "password" in profile:
            environment["SAPWOOD_PASSWORD"] = profile["password"]
        listeners = ["--native", "127.0.0.1:0", "--redis", "127.0.0.1:0"]
        listeners += ["--nats", "off", "--http", "off", "--node", "off"]
        self.process = subprocess.Popen(
            [program, "serve", *listeners, "--shards", str(shards), "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
        )
        self.errors = collections.deque(maxlen=KEPT_LINES_MAX)
        self.lines = queue.Queue()
        pipes = [(self.process.stdout, self.lines.put), (self.process.stderr, self.keep_error)]
        self.readers = [threading.Thread(target=drain, args=pipe, daemon=True) for pipe in pipes]
        for reader in self.readers:
            reader.start()
        try:
            self.ports = self.read_ports({"native", "redis"})
        except BaseException:
            self.kill()
            raise

    def keep_error(self, line):
        if line is not None:
            self.errors.append(line)

    def read_ports(self, wanted):
        """Reads the table that the broker prints at its start, a line for each listener."""
        ports = {}
        while wanted - ports.keys():
            try:
                line = self.lines.get(timeout=START_SECONDS_MAX)
            except queue.Empty:
                line = None
            if line is None:
                errors = "\n".join(self.errors)
                raise Failure(f"the broker named only the listeners {ports}\n{errors}")
            words = line.split()
            if words and words[0] in wanted:
                ports[words[0]] = int(words[1].rpartition(":")[2])
        return ports

    @property
    def port(self):
        return self.ports["native"]

    def is_running(self):
        return self.process.poll() is None

    def stop(self):
        """Asks it to end, as an operator would."""
        self.process.send_signal(signal.SIGTERM)

    def wait_ended(self):
        try:
            status = self.process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Failure(f"the broker did not end within {END_SECONDS_MAX} s") from None
        if status != 0:
            raise Failure(f"the broker ended with {status}, not with 0")

    def check_healthy(self):
        """A broker that broke down may go on for a while, and would then fail a later scenario."""
        if self.process.poll() not in (None, 0) or any("panicked" in line for line in list(self.errors)):
            raise Failure("the broker broke down")

    def last_words(self):
        """How it ended if it did, and the last of what it wrote to stderr."""
        status = self.process.poll()
        ended = [] if status is None else [f"the broker ended with {status}"]
        return "\n".join(ended + [f"broker: {line}" for line in list(self.errors)[-SHOWN_LINES_MAX:]])

    def kill(self):
        self.process.kill()
        self.process.wait()
        for reader in self.readers:
            reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        self.directory.cleanup()
