#!/usr/bin/env python3
"""Runs the conformance suite: scenarios against a real broker, and against client libraries through their agents.

    run.py --broker target/release/sapwood
    run.py --broker target/release/sapwood --agent "rust=target/release/examples/agent" --only group

`README.md` beside this file says what scenarios and agents are. Exit code: 0 when everything passed, 1 when something
failed, 2 when it could not be run.
"""

import argparse
import contextlib
import os
import shlex
import sys
import time
import tomllib
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "python")]

import sapwood_native as native  # noqa: E402

from runner import values  # noqa: E402
from runner.agents import Agent  # noqa: E402
from runner.brokers import Broker  # noqa: E402
from runner.play import Play, equal  # noqa: E402
from runner.values import Failure  # noqa: E402

PYTHON_AGENT = f"{shlex.quote(sys.executable)} -B {shlex.quote(str(HERE / 'python' / 'agent.py'))}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    broker = os.environ.get("SAPWOOD_BROKER")
    binary = "the sapwood binary, or SAPWOOD_BROKER in the environment; without it, only what needs no broker is run"
    parser.add_argument("--broker", default=broker, help=binary)
    parser.add_argument("--agent", action="append", metavar="NAME=COMMAND", help="an agent; default: the Python one")
    parser.add_argument("--shards", default="1,2", help="with how many shards, one run each; default: 1,2")
    parser.add_argument("--rounds", type=int, default=2, help="how often each scenario runs with several shards")
    parser.add_argument("--page", default=HERE / "../../src/wire/NATIVE.md", help="where the golden frames are")
    parser.add_argument("--only", default="", help="only scenarios with this in their name")
    parser.add_argument("--list", action="store_true", help="only print the scenarios' names")
    return parser.parse_args()


def read_tables():
    """All tables of all files. Only scenarios stand in several of them."""
    tables = {"scenario": []}
    for path in sorted((HERE / "scenarios").glob("*.toml")):
        table = tomllib.loads(path.read_text())
        tables["scenario"] += table.pop("scenario", [])
        if tables.keys() & table.keys():
            raise ValueError(f"{path} has {tables.keys() & table.keys()}, as another file has")
        tables |= table
    return tables


def scenarios_of(table):
    """All scenarios, those that stand in the file as rows of a table too."""
    for row in table["refused"]:
        yield {"name": f"the broker refuses {row['name']}: {row['code']}", "steps": refusal_steps(row)}
    for scenario in table["scenario"]:
        steps = [step | table["matching"] if step.get("do") == "match" else step for step in scenario["steps"]]
        yield scenario | {"steps": steps}


def refusal_steps(row):
    frame = row["frame"]
    error = {"kind": "ERROR", "code": row["code"]}
    steps = [
        {"wire": "a", "do": "connect" if row.get("before_hello") else "open"},
        {"wire": "a", "do": "send", "frames": [frame]},
    ]
    if values.code(row["code"]) < 200:
        steps.append({"wire": "a", "do": "expect", "frames": [error | {"request": 0}]})
        steps.append({"wire": "a", "do": "expect_end"})
    else:
        steps.append({"wire": "a", "do": "expect", "frames": [error | {"request": frame.get("request", 0)}]})
        steps.append({"wire": "a", "do": "ping"})
    return steps


def needs_agent(scenario):
    return any("client" in step or step.get("do") == "shares" for step in scenario["steps"])


def needs_broker(scenario):
    return not any("fake" in step for step in scenario["steps"])


class Report:
    """The table of results, printed as they come."""

    def __init__(self):
        self.passed = 0
        self.skipped = 0
        self.failed = []

    def add(self, outcome, subject, name, detail=""):
        print(f"{outcome:<7} {subject:<18} {name}", flush=True)
        match outcome:
            case "pass":
                self.passed += 1
            case "skip":
                self.skipped += 1
            case _:
                self.failed.append((subject, name))
        for line in detail.splitlines():
            print(f"        {line}", flush=True)

    def summary(self):
        lines = [f"FAILED  {subject:<18} {name}" for subject, name in self.failed]
        lines.append(f"{self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped")
        return "\n".join(lines)


class Runner:
    """Brokers and one agent, kept between scenarios as long as these pass."""

    def __init__(self, given, table, report):
        self.given = given
        self.table = table
        self.report = report
        self.brokers = {}
        self.agent = None
        self.agent_name = None
        self.agent_command = None

    def use_agent(self, name, command):
        self.stop_agent()
        self.agent_name, self.agent_command = name, command

    def running_agent(self):
        if self.agent is None:
            self.agent = Agent(self.agent_name, self.agent_command)
        return self.agent

    def running_broker(self, profile, shards):
        key = (profile, shards)
        if key not in self.brokers or not self.brokers[key].is_running():
            self.stop_broker(key)
            self.brokers[key] = Broker(self.given.broker, shards, self.table["brokers"][profile])
        return self.brokers[key]

    def stop_broker(self, key):
        if key in self.brokers:
            self.brokers.pop(key).kill()

    def stop_agent(self):
        if self.agent is not None:
            self.agent.kill()
            self.agent = None

    def stop(self):
        self.stop_agent()
        for key in list(self.brokers):
            self.stop_broker(key)

    def golden(self):
        """Lets the agent decode each example of the page, and encode what the example's words say."""
        frames = values.golden_frames(Path(self.given.page).read_text())
        equal(sorted(frames), sorted(self.table["golden"]), "the golden frames in the page and in the table")
        agent = self.running_agent()
        for name, table in self.table["golden"].items():
            self.golden_frame(agent, f"the golden frame {name}", table, frames[name])
        for vector in self.table["vector"]:
            table = vector["frame"]
            self.golden_frame(agent, f"the frame {vector['name']!r}", table, bytes.fromhex(vector["hex"]))
        for vector in self.table["undecodable"]:
            answer = agent.ask({"do": "decode", "bytes": values.to_base64(bytes.fromhex(vector["hex"]))})
            equal(answer.get("code"), values.code(vector["code"]), f"the code for {vector['name']}, {answer}")

    @staticmethod
    def golden_frame(agent, name, table, data):
        wanted = values.frame_json(table)
        answer = agent.ask({"do": "decode", "bytes": values.to_base64(data)})
        decoded = values.without_defaults(answer.get("frame", answer))
        equal(decoded, values.without_defaults(wanted), f"{name}, decoded")
        answer = agent.ask({"do": "encode", "frame": wanted})
        equal(answer.get("bytes", answer), values.to_base64(data), f"{name}, encoded")

    def play(self, scenario, shards):
        """One run of a scenario. Whatever it leaves behind when it fails is thrown away."""
        profile = scenario.get("broker", "open")
        broker = self.running_broker(profile, shards) if needs_broker(scenario) else None
        agent = self.running_agent() if needs_agent(scenario) else None
        play = Play(broker, agent)
        try:
            for number, step in enumerate(scenario["steps"], 1):
                try:
                    play.step(step)
                except (Failure, OSError, native.ProtocolError) as failure:
                    raise Failure(f"step {number}: {failure or repr(failure)}") from failure
            play.finish()
            if broker is not None:
                broker.check_healthy()
        except BaseException as error:
            for process in (agent, broker):
                if process is not None:
                    error.add_note(process.last_words())
            self.stop_agent()
            self.stop_broker((profile, shards))
            with contextlib.suppress(OSError):
                play.close()
            raise

    def attempt(self, subject, name, run):
        """Runs it, and adds its outcome to the report."""
        started = time.monotonic()
        try:
            run()
        except Failure as failure:
            notes = [note for note in getattr(failure, "__notes__", []) if note]
            self.report.add("FAIL", subject, name, "\n".join([str(failure), *notes]))
        except Exception:
            self.report.add("FAIL", subject, name, traceback.format_exc())
        else:
            took = time.monotonic() - started
            self.report.add("pass", subject, f"{name} ({took:.1f} s)" if took >= 1 else name)

    def missing(self, scenario):
        return set(scenario.get("needs", [])) - self.running_agent().features

    def run_with_agent(self, scenarios, shards_list):
        subject = self.agent_name
        if "codec" not in self.running_agent().features:
            self.report.add("skip", subject, "golden frames: the agent has no codec")
        elif self.given.only in "golden frames":
            self.attempt(subject, "golden frames", self.golden)
        for scenario in filter(needs_agent, scenarios):
            missing = self.missing(scenario)
            if missing:
                self.report.add("skip", subject, f"{scenario['name']}: the agent has no {', '.join(sorted(missing))}")
            elif needs_broker(scenario):
                self.run_with_brokers(subject, scenario, shards_list)
            else:
                self.attempt(subject, scenario["name"], lambda: self.play(scenario, 0))

    def run_with_brokers(self, subject, scenario, shards_list):
        if self.given.broker is None:
            self.report.add("skip", subject, f"{scenario['name']}: no --broker")
            return
        for shards in [shards for shards in shards_list if shards in scenario.get("shards", shards_list)]:
            # The kernel chooses the shard of each connection, so another round is likely another placement.
            rounds = 1 if shards == 1 else max(self.given.rounds, scenario.get("rounds", 1))
            self.attempt(
                f"{subject}, {shards} shard{'s' * (shards > 1)}",
                scenario["name"],
                lambda: [self.play(scenario, shards) for _ in range(rounds)],
            )

    def run_without_agent(self, scenarios, shards_list):
        for scenario in scenarios:
            if not needs_agent(scenario):
                self.run_with_brokers("broker", scenario, shards_list)


def main():
    given = arguments()
    table = read_tables()
    scenarios = [scenario for scenario in scenarios_of(table) if given.only in scenario["name"]]
    if given.list:
        print("\n".join(scenario["name"] for scenario in scenarios))
        return 0
    shards_list = [int(shards) for shards in given.shards.split(",")]
    report = Report()
    runner = Runner(given, table, report)
    try:
        runner.run_without_agent(scenarios, shards_list)
        for agent in given.agent or [f"python={PYTHON_AGENT}"]:
            name, _, command = agent.partition("=")
            runner.use_agent(name, command)
            runner.run_with_agent(scenarios, shards_list)
    except (Failure, OSError) as failure:
        print(f"cannot be run: {failure}", file=sys.stderr)
        return 2
    finally:
        runner.stop()
    print(report.summary())
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
