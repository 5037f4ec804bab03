"""The service around tools: parallel calls, the result cache, cassettes, faults and counters."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from toolgym import Run, ToolCall, Toolset, evaluate, rollout, tool
from toolgym.checks import check_tool
from toolgym.cli import app
from toolgym.envs.toolqa import family
from toolgym.envs.toolqa.lookup import LookupPolicy
from toolgym.errors import (
    BadInputError,
    CheckError,
    MissingFileError,
    ReplayMissError,
    RunMismatchError,
    ToolError,
)
from toolgym.formats import Action
from toolgym.policies.base import Policy, Reply, Request
from toolgym.tools.base import Tool
from toolgym.tools.cassette import Recorder, Replayer, ResultCache, canonical
from toolgym.tools.service import KINDS, Faults, ServedToolset, check_service, serve_toolset
from toolgym.tools.toolset import MAX_PARALLEL

POPQA = "ToolQA-PopQA-v0"


def call(name: str, number: int = 0, **arguments: Any) -> ToolCall:
    return ToolCall(f"call_{number}", name, arguments)


def trajectories(run: Run) -> list[str]:
    """The lines of a run without the clock."""
    rows = [trajectory.to_row() for trajectory in run]
    for row in rows:
        for step in row["steps"]:
            del step["seconds"]
    return [json.dumps(row) for row in rows]


class OneByOne(LookupPolicy):
    """The same policy for threads."""

    batched = False


@tool(inline=True)
def echo(text: str) -> str:
    """Say it again.

    Args:
        text: what.
    """
    return f"you said {text}"


class TestParallelCalls:
    def test_calls_of_one_turn_meet_each_other(self, tmp_path: Path) -> None:
        @tool(timeout=60)
        def meet(me: str, other: str, folder: str) -> str:
            """Wait for another call that is running.

            Args:
                me: own name.
                other: whom to wait for.
                folder: where both leave a file.
            """
            import pathlib
            import time

            (pathlib.Path(folder) / me).touch()
            while not (pathlib.Path(folder) / other).exists():
                time.sleep(0.005)
            return f"{me} met {other}"

        twin = Tool(meet.function, name="twin", timeout=60)
        where = {"folder": str(tmp_path)}
        calls = [
            call("meet", 0, me="a", other="b", **where),
            call("echo", 1, text="in between"),
            call("meet", 2, me="b", other="c", **where),
            call("twin", 3, me="c", other="a", **where),
        ]
        results = Toolset([meet, twin, echo]).execute(calls)
        assert [r.content for r in results] == [
            "a met b",
            "you said in between",
            "b met c",
            "c met a",
        ]
        assert [r.call_id for r in results] == [c.id for c in calls]

    def test_inline_tools_and_single_calls_need_no_thread(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_thread(self: threading.Thread) -> None:
            raise AssertionError("a thread was started")

        @tool(timeout=30)
        def apart(text: str) -> str:
            """Run in a child.

            Args:
                text: any.
            """
            return text

        threads: list[int] = []

        @tool(inline=True, shared_state=True)
        def here() -> str:
            """Note the thread."""
            threads.append(threading.get_ident())
            return ""

        monkeypatch.setattr(threading.Thread, "start", no_thread)
        tools = Toolset([echo, here, apart])
        tools.execute([call("echo", 0, text="a"), call("here", 1), call("echo", 2, text="b")])
        assert tools.execute([call("apart", text="x")])[0].content == "x"
        assert threads == [threading.get_ident()]

    def test_many_calls_keep_few_children_and_their_order(self) -> None:
        @tool(timeout=60)
        def number(n: int) -> str:
            """Say a number and who runs it.

            Args:
                n: the number.
            """
            import os

            return f"{n} {os.getpid()}"

        calls = [call("number", n, n=n) for n in range(30)]
        results = Toolset([number]).execute(calls)
        assert [r.content.split()[0] for r in results] == [str(n) for n in range(30)]
        assert 1 < len({r.content.split()[1] for r in results}) <= MAX_PARALLEL

    def test_a_tool_that_cannot_start_is_an_error_also_from_a_thread(self) -> None:
        lock = threading.Lock()

        @tool
        def stuck() -> str:
            """Cannot be sent to a child."""
            return str(lock)

        with pytest.raises(BadInputError, match="cannot be sent to a worker"):
            Toolset([stuck]).execute([call("stuck", 0), call("stuck", 1), call("stuck", 2)])


class Counted:
    """A tool that counts how often it is really run."""

    def __init__(self, **options: Any) -> None:
        self.ran: list[str] = []

        def shout(text: str, marks: int = 1) -> str:
            """Say it loudly.

            Args:
                text: what; ``bad`` fails.
                marks: at its end.
            """
            self.ran.append(text)
            if text == "bad":
                raise ToolError("not that")
            if text == "bug":
                raise KeyError(text)
            return text.upper() + "!" * marks

        self.tool = Tool(shout, inline=True, shared_state=True, **options)


class TestCache:
    def test_equal_calls_run_once(self) -> None:
        counted = Counted(cache=True)
        tools = Toolset([counted.tool])
        asked: list[dict[str, Any]] = [
            {"text": "a"},
            {"marks": 1, "text": "a"},
            {"text": "a", "marks": "1"},
            {"text": "a", "marks": 2},
        ]
        first, again, converted, other = (
            tools.execute([call("shout", n, **arguments)])[0] for n, arguments in enumerate(asked)
        )
        assert first.content == again.content == converted.content == "A!"
        assert (again.call_id, other.content) == ("call_1", "A!!")
        assert counted.ran == ["a", "a"]
        assert tools.counters()["shout"]["cache_hits"] == 2

    @pytest.mark.parametrize("text", ["bad", "bug"])
    def test_errors_are_never_served_from_it(self, text: str) -> None:
        counted = Counted(cache=True)
        tools = Toolset([counted.tool])
        for _ in range(3):
            assert tools.execute([call("shout", text=text)])[0].error is not None
        assert counted.ran == [text] * 3
        assert tools.counters()["shout"]["cache_hits"] == 0

    def test_a_failing_batch_is_not_kept(self) -> None:
        failing = [True]

        def batch(items: list[dict[str, Any]]) -> list[str | ToolError]:
            if failing[0]:
                raise OSError("down")
            return [ToolError("no") if i["text"] == "bad" else i["text"] for i in items]

        item = Tool(echo.function, inline=True, batch=batch, cache=True)
        calls = [call("echo", 0, text="a"), call("echo", 1, text="bad")]
        tools = Toolset([item])
        assert [r.error for r in tools.execute(calls)] == ["bug", "bug"]
        failing[0] = False
        assert [r.error for r in tools.execute(calls)] == [None, "tool_error"]
        assert item.cache is not None
        assert len(item.cache) == 1

    def test_default_is_on_only_where_the_data_is_named(self) -> None:
        assert Counted().tool.cache is None
        assert Counted(fingerprint="abc").tool.cache is not None
        assert Counted(fingerprint="abc", cache=False).tool.cache is None
        assert echo.cache is None
        assert tool(inline=True, cache=True)(echo.function).cache is not None
        env: Any = gym.make(POPQA).unwrapped
        cached = {item.name: item.cache is not None for item in env.toolset}
        expected = {"Calculator": False, "WikipediaSearch": True, "MachineTranslator": True}
        assert cached == expected

    def test_tools_with_other_options_do_not_share_it(self) -> None:
        args: dict[str, Any] = {"prompt": "bare"}
        query = call("WikipediaSearch", query="capital of Morocco")
        one: Any = gym.make(POPQA, tools=["WikipediaSearch"], **args).unwrapped
        many: Any = gym.make(POPQA, tools=[{"name": "WikipediaSearch", "k": 3}], **args).unwrapped
        assert one.toolset.execute([query])[0].content.count("\n") == 0
        assert many.toolset.execute([query])[0].content.count("\n") == 2

    def test_a_tool_that_wrongly_asks_for_it_is_still_found_out(self) -> None:
        """Checks ask the tool itself, never what a cache remembers of it."""
        said: list[int] = []

        @tool(inline=True, cache=True, shared_state=True)
        def count(text: str) -> int:
            """Another number each time.

            Args:
                text: any.
            """
            said.append(1)
            return len(said)

        Toolset([count]).execute([call("count", text="a")])
        with pytest.raises(CheckError, match="two results"):
            check_tool(count, {"text": "a"})

    def test_the_service_switches_it_off(self) -> None:
        counted = Counted(cache=True)
        tools = serve_toolset(Toolset([counted.tool]), {"cache": False})
        for _ in range(2):
            tools.execute([call("shout", text="a")])
        assert counted.ran == ["a", "a"]

    def test_copies_begin_empty(self) -> None:
        cache = ResultCache(7, 70)
        cache.put("a", "b")
        assert len(copy.deepcopy(cache)) == 0
        tools = Toolset([echo])
        tools.execute([call("echo", text="a")])
        assert copy.deepcopy(tools).counters() == {}

    @given(
        st.lists(st.tuples(st.sampled_from("abcdefgh"), st.text(max_size=12)), max_size=60),
        st.integers(1, 5),
        st.integers(1, 40),
    )
    def test_bounds_hold_and_answers_are_the_last_ones(
        self, puts: list[tuple[str, str]], entries: int, characters: int
    ) -> None:
        cache, last = ResultCache(entries, characters), dict[str, str]()
        for key, text in puts:
            if len(key) + len(text) <= characters:
                last[key] = text
                cache.put(key, text)
                assert cache.get(key) == text
            assert len(cache) <= entries
            assert cache.characters <= characters
            held = {k: v for k in last if (v := cache.get(k)) is not None}
            assert all(last[k] == v for k, v in held.items())
            assert cache.characters == sum(len(k) + len(v) for k, v in held.items())

    def test_least_recently_used_goes_first(self) -> None:
        cache = ResultCache(entries=2)
        cache.put("a", "1")
        cache.put("b", "2")
        cache.get("a")
        cache.put("c", "3")
        assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("1", None, "3")


class TestCounters:
    def test_calls_errors_and_characters_by_tool(self) -> None:
        tools = Toolset([Counted().tool, echo])
        tools.execute(
            [
                call("shout", 0, text="ab"),
                call("shout", 1, text="bad"),
                call("shout", 2, txt="a"),
                call("echo", 3, text="x"),
                call("nothing", 4),
                call("made up", 5),
            ]
        )
        read = tools.counters()
        assert read["shout"]["calls"] == 3
        assert read["shout"]["errors"] == {"invalid_arguments": 1, "tool_error": 1}
        assert read["echo"]["characters"] == len("you said x")
        assert read["(unknown tool)"]["calls"] == 2
        assert read["shout"]["seconds"] > 0
        read["shout"]["calls"] = 99
        assert tools.counters()["shout"]["calls"] == 3

    def test_an_environment_with_a_service_counts_for_itself(self) -> None:
        env: Any = gym.make(POPQA, service={"faults": {"timeout": 1.0}}).unwrapped
        env.reset(options={"task": 0})
        env.step("Action: WikipediaSearch[Peru]")
        env.step("Action: Calculator[1+1]")
        read = env.toolset.counters()
        assert read["WikipediaSearch"]["errors"] == {"injected_timeout": 1}
        assert read["Calculator"]["calls"] == 1


class TestCassette:
    def test_a_run_of_60_episodes_replays_byte_for_byte_without_tools(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = {"cassette": str(tmp_path / "run" / "cassette.jsonl")}
        args = {"prompt": "bare"}
        recorded = rollout(
            POPQA,
            "lookup",
            env_args=args | {"service": service | {"mode": "record"}},
            episodes=60,
            out=tmp_path / "run",
        )
        plain = rollout(POPQA, "lookup", env_args=args, episodes=60)
        assert trajectories(recorded) == trajectories(plain)
        assert sum(len(list(t.calls)) for t in recorded) >= 60

        def off(self: Tool, *_: Any) -> Any:
            raise AssertionError(f"{self.name} was called")

        for way in ("answer", "_run_one", "_run_batch", "__call__"):
            monkeypatch.setattr(Tool, way, off)
        replay: dict[str, Any] = {
            "env_args": args | {"service": service | {"mode": "replay"}},
            "episodes": 60,
        }
        for policy, concurrency in ((LookupPolicy(), 128), (OneByOne(), 1), (OneByOne(), 8)):
            again = rollout(POPQA, policy, concurrency=concurrency, **replay)
            assert trajectories(again) == trajectories(recorded)

    def test_a_recorded_run_can_be_resumed_and_settings_are_compared(self, tmp_path: Path) -> None:
        service = {"cassette": str(tmp_path / "c.jsonl"), "mode": "record"}
        here: dict[str, Any] = {"out": tmp_path / "run"}
        rollout(POPQA, "lookup", env_args={"service": service}, episodes=5, **here)
        rollout(POPQA, "lookup", env_args={"service": service}, episodes=12, **here)
        settings = json.loads((tmp_path / "run" / "run.json").read_text())
        assert settings["env"]["args"]["service"] == service
        with pytest.raises(RunMismatchError, match="env"):
            rollout(POPQA, "lookup", episodes=12, **here)
        replay = {"service": service | {"mode": "replay"}}
        again = rollout(POPQA, "lookup", env_args=replay, episodes=12)
        assert trajectories(again) == trajectories(Run.open(tmp_path / "run"))

    def served(self, path: Path, mode: str, *tools: Tool) -> Toolset:
        return serve_toolset(Toolset(tools), {"cassette": str(path), "mode": mode})

    def test_tools_that_raise_when_called_are_not_called(self, tmp_path: Path) -> None:
        """Also failures, unknown tools and arguments that are not JSON come back as they were."""
        counted = Counted()
        path = tmp_path / "c.jsonl"
        calls = [
            call("shout", 0, text="a"),
            call("shout", 1, text="bad"),
            call("shout", 2, text="bug"),
            call("shout", 3, text=float("nan")),
            call("shout", 4, text="\ud800 عرب"),
            call("nobody", 5),
        ]
        before = self.served(path, "record", counted.tool).execute(calls, ["e"] * 6)
        assert [r.error for r in before[:4]] == [None, "tool_error", "bug", "invalid_arguments"]

        def shout(text: str, marks: int = 1) -> str:
            raise SystemExit("called")

        shout.__doc__ = counted.tool.function.__doc__
        off = self.served(path, "replay", Tool(shout, inline=True))
        assert off.execute(calls, ["e"] * 6) == before
        assert off.counters()["shout"]["calls"] == 5

    def test_a_miss_is_a_typed_error_and_no_tool_text(self, tmp_path: Path) -> None:
        path = tmp_path / "c.jsonl"
        self.served(path, "record", echo).execute([call("echo", text="Peru")], ["e"])
        replay = self.served(path, "replay", echo)
        with pytest.raises(ReplayMissError, match=r"call_0 of episode 'e'.*mean '.*Peru") as caught:
            replay.execute([call("echo", text="Perus")], ["e"])
        assert isinstance(caught.value, LookupError)
        args = {"service": {"cassette": str(tmp_path / "popqa.jsonl"), "mode": "record"}}
        rollout(POPQA, "lookup", env_args=args, episodes=3)
        args["service"]["mode"] = "replay"
        with pytest.raises(ReplayMissError, match="WikipediaSearch"):
            rollout(POPQA, "lookup", env_args=args, episodes=30, seed=1)

    def test_a_tool_that_answers_differently_each_time(self, tmp_path: Path) -> None:
        said: list[int] = []

        @tool(inline=True, shared_state=True)
        def clock() -> int:
            """Another number each time."""
            said.append(1)
            return len(said)

        path = tmp_path / "c.jsonl"
        recording = self.served(path, "record", clock)
        recording.execute([call("clock", 0), call("clock", 1), call("clock", 0)], ["e", "e", "f"])
        replay = self.served(path, "replay", clock)
        for order in ((1, 0), (0, 1), (0, 0)):
            results = replay.execute([call("clock", n) for n in order], ["e", "e"])
            assert [r.content for r in results] == [str(n + 1) for n in order]
        with pytest.raises(ReplayMissError, match="several different answers"):
            replay.execute([call("clock", 0)], ["g"])
        # An episode that was played again after a kill: its last recording is in the run.
        recording.execute([call("clock", 0)], ["e"])
        assert self.served(path, "replay", clock).execute([call("clock", 0)], ["e"])[0].content == (
            "4"
        )

    def test_another_episode_is_served_where_answers_agree(self, tmp_path: Path) -> None:
        path = tmp_path / "c.jsonl"
        self.served(path, "record", echo).execute([call("echo", text="a")], ["e"])
        (result,) = self.served(path, "replay", echo).execute([call("echo", 7, text="a")], ["f"])
        assert (result.call_id, result.content) == ("call_7", "you said a")

    def test_a_torn_last_line_is_left_out_and_cut_off(self, tmp_path: Path) -> None:
        path = tmp_path / "c.jsonl"
        both = [call("echo", 0, text="a"), call("echo", 1, text="b")]
        recording = self.served(path, "record", echo)
        recording.execute(both, ["e", "e"])
        del recording
        path.write_bytes(path.read_bytes()[:-9])
        torn = self.served(path, "replay", echo)
        assert torn.execute(both[:1], ["e"])[0].content == "you said a"
        with pytest.raises(ReplayMissError):
            torn.execute(both, ["e", "e"])
        self.served(path, "record", echo).execute(both[1:], ["e"])
        assert len(self.served(path, "replay", echo).execute(both, ["e", "e"])) == 2
        assert len(path.read_text().splitlines()) == 3

    def test_a_cassette_of_other_tools_is_refused(self, tmp_path: Path) -> None:
        path = str(tmp_path / "c.jsonl")
        args: dict[str, Any] = {"service": {"cassette": path, "mode": "record"}}
        rollout(POPQA, "lookup", env_args=args, episodes=2)
        other = args | {"tools": [{"name": "WikipediaSearch", "k": 2}]}
        with pytest.raises(RunMismatchError, match="options"):
            gym.make(POPQA, **other)
        other["service"] = {"cassette": path, "mode": "replay"}
        with pytest.raises(RunMismatchError, match="options"):
            gym.make(POPQA, **other)
        changed = Tool(echo.function, name="echo", inline=True, fingerprint="other data")
        self.served(tmp_path / "d.jsonl", "record", echo)
        with pytest.raises(RunMismatchError, match="other data"):
            self.served(tmp_path / "d.jsonl", "replay", changed)

    def test_files_that_are_no_cassette(self, tmp_path: Path) -> None:
        with pytest.raises(MissingFileError, match=r"cassette .*does not exist"):
            self.served(tmp_path / "c.jsonl", "replay", echo)
        notes = tmp_path / "notes.jsonl"
        notes.write_text('{"text": "dear diary"}\n')
        for mode in ("record", "replay"):
            with pytest.raises(BadInputError, match="is not a cassette"):
                self.served(notes, mode, echo)
        assert notes.read_text() == '{"text": "dear diary"}\n'
        for nowhere in (tmp_path, notes / "c.jsonl"):
            with pytest.raises(BadInputError, match="cannot be written"):
                self.served(nowhere, "record", echo)
        self.served(tmp_path / "c.jsonl", "record", echo)
        with (tmp_path / "c.jsonl").open("a") as stream:
            stream.write('{"episode": "e"}\n')
        with pytest.raises(BadInputError, match="line 2: no 'content'"):
            self.served(tmp_path / "c.jsonl", "replay", echo)

    def test_environments_of_one_process_share_a_recorder_others_must_wait(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "c.jsonl"
        one = Recorder.open(path, {"a": 1})
        assert Recorder.open(path, {"a": 1}) is one
        load = "import sys; from toolgym.tools.cassette import Recorder"
        code = f"{load}; Recorder.open(sys.argv[1], {{'a':1}})"
        command = [sys.executable, "-c", code, str(path)]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "another process is recording" in refused.stderr
        del one
        subprocess.run(command, check=True)
        assert len(Replayer(path, {"a": 1})) == 0

    def test_a_kill_loses_no_finished_call(self, tmp_path: Path) -> None:
        path = tmp_path / "c.jsonl"
        code = """if True:
            import sys
            from toolgym import ToolCall, Toolset, tool
            from toolgym.tools.service import serve_toolset
            @tool(inline=True)
            def echo(text: str) -> str:
                '''Say it again.

                Args:
                    text: what.
                '''
                return f"you said {text}"
            tools = serve_toolset(Toolset([echo]), {"cassette": sys.argv[1], "mode": "record"})
            number = 0
            while True:
                tools.execute([ToolCall("call_0", "echo", {"text": str(number)})], [str(number)])
                print(number, flush=True)
                number += 1
            """
        command = [sys.executable, "-c", code, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while int(process.stdout.readline()) < 50:
                pass
            os.kill(process.pid, signal.SIGKILL)
            done = [line for line in process.stdout.read().splitlines() if line]
        last = int(done[-1]) if done else 50
        replay = self.served(path, "replay", echo)
        for number in (0, 50, last):
            (result,) = replay.execute([call("echo", text=str(number))], [str(number)])
            assert result.content == f"you said {number}"

    @given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=5))
    def test_the_order_of_arguments_does_not_matter(self, arguments: dict[str, Any]) -> None:
        assert canonical(dict(reversed(arguments.items()))) == canonical(arguments)


RATES = {"seed": 3, "timeout": 0.1, "empty": 0.1, "garbled": 0.2, "slow": 0.1}


class TestFaults:
    def test_the_same_calls_are_hit_however_the_run_is_played(self) -> None:
        args = {"prompt": "bare", "service": {"faults": RATES}}
        played = [
            rollout(POPQA, policy, env_args=args, episodes=60, concurrency=concurrency)
            for policy, concurrency in (
                (OneByOne(), 1),
                (OneByOne(), 8),
                (LookupPolicy(), 128),
                (LookupPolicy(), 7),
            )
        ]
        first = trajectories(played[0])
        for run in played[1:]:
            assert trajectories(run) == first
        report = evaluate(played[0])
        assert set(report.injected_faults) == {"timeout", "empty", "garbled", "slow"}
        assert 0 < report.episodes_hit < 60
        assert "Injected faults: " in str(report)
        assert report.to_dict()["injected_faults"] == report.injected_faults
        clean = evaluate(rollout(POPQA, "lookup", env_args={"prompt": "bare"}, episodes=60))
        assert (clean.injected_faults, clean.episodes_hit) == ({}, 0)
        assert "Injected" not in str(clean)
        precision = [r["execution_precision"].value or 0.0 for r in (report, clean)]
        assert 0.0 < precision[0] < precision[1]

    def test_another_seed_hits_other_calls_and_rates_hold(self) -> None:
        calls = [(str(episode), call("echo", n)) for episode in range(2000) for n in range(3)]
        drawn = {seed: [Faults(RATES | {"seed": seed}).draw(*c) for c in calls] for seed in (0, 1)}
        assert drawn[0] != drawn[1]
        for kind in KINDS:
            share = drawn[0].count(kind) / len(calls)
            assert abs(share - float(RATES.get(kind, 0.0))) < 0.02

    def test_each_kind(self) -> None:
        counted = Counted()
        text = "the quick brown fox"
        seen = {}
        for kind in KINDS:
            tools = serve_toolset(
                Toolset([counted.tool]), {"faults": {kind: 1.0, "slow_seconds": 9.5}}
            )
            (seen[kind],) = tools.execute([call("shout", text=text)], ["e"])
            assert seen[kind].fault == kind
            assert seen[kind].added_seconds == (9.5 if kind == "slow" else 0.0)
            errors = tools.counters()["shout"]["errors"]
            assert errors == ({seen[kind].error: 1} if seen[kind].error else {})
        assert counted.ran == [text] * 2, "only garbled and slow answers need the tool"
        assert seen["timeout"].error == "injected_timeout"
        assert "was ended after 10 seconds" in seen["timeout"].content
        assert seen["tool_error"].error == "injected_tool_error"
        assert (seen["empty"].content, seen["empty"].error) == ("", None)
        assert (seen["slow"].content, seen["slow"].error) == (text.upper() + "!", None)
        garbled = seen["garbled"].content
        assert len(garbled) == len(text) + 1
        assert 0 < sum(a != b for a, b in zip(garbled, text.upper() + "!", strict=True)) < len(text)

    def test_calls_that_reach_no_tool_are_not_hit(self) -> None:
        tools = serve_toolset(Toolset([echo]), {"faults": {"timeout": 1.0}})
        results = tools.execute(
            [call("eko", 0), call("echo", 1, txt="a"), call("echo", 2, text="a")]
        )
        assert [r.error for r in results] == [
            "unknown_tool",
            "invalid_arguments",
            "injected_timeout",
        ]

    def test_a_slow_answer_counts_in_the_record_and_nobody_waits(self) -> None:
        env: Any = gym.make(POPQA, service={"faults": {"slow": 1, "slow_seconds": 900}}).unwrapped
        env.reset(options={"task": 0})
        began = time.monotonic()
        env.step("Action: WikipediaSearch[Peru]")
        assert env.trajectory.steps[0].seconds >= 900 > time.monotonic() - began

    def test_one_clean_recording_serves_for_faults(self, tmp_path: Path) -> None:
        service = {"cassette": str(tmp_path / "c.jsonl"), "faults": RATES}
        record = {"service": service | {"mode": "record"}}
        replay = {"service": service | {"mode": "replay"}}
        before = rollout(POPQA, "lookup", env_args=record, episodes=40)
        assert trajectories(rollout(POPQA, "lookup", env_args=replay, episodes=40)) == (
            trajectories(before)
        )
        assert "injected" not in (tmp_path / "c.jsonl").read_text()

    def test_other_environments_are_not_touched(self) -> None:
        faulty: Any = gym.make(POPQA, service={"faults": {"timeout": 1.0}}).unwrapped
        same: Any = gym.make(POPQA, service={"faults": {"timeout": 1.0}}).unwrapped
        plain: Any = gym.make(POPQA).unwrapped
        assert faulty._toolset is same._toolset, "so that a vector's calls are answered together"
        assert faulty.clone()._toolset is faulty._toolset
        query = call("WikipediaSearch", query="Peru")
        assert plain.toolset.execute([query])[0].error is None
        assert faulty.toolset.execute([query])[0].error == "injected_timeout"
        assert not isinstance(plain.toolset, ServedToolset)

    def test_a_vector_hits_the_calls_that_single_environments_hit(self, tmp_path: Path) -> None:
        service = {"faults": {"timeout": 0.5}, "cassette": str(tmp_path / "c"), "mode": "record"}
        vector: Any = gym.make_vec(POPQA, num_envs=6, service=service)
        assert len({id(env.unwrapped._toolset) for env in vector.envs}) == 1
        vector.reset(seed=5)
        vector.step(("Action: WikipediaSearch[Peru]",) * 6)
        hits = []
        for inner in vector.envs:
            task = inner.unwrapped.trajectory.task.id
            single: Any = gym.make(POPQA, service={"faults": {"timeout": 0.5}}).unwrapped
            single.reset(options={"task": task})
            single.step("Action: WikipediaSearch[Peru]")
            hits.append(inner.unwrapped.trajectory.steps[0].results[0].error)
            assert single.trajectory.steps[0].results == inner.unwrapped.trajectory.steps[0].results
        assert set(hits) == {None, "injected_timeout"}
        vector.close()

    def test_a_tool_called_by_a_policy_many_times_in_one_turn(self) -> None:
        class Twice(Policy):
            """Two calls in a turn, then an answer."""

            def act(self, requests: Any) -> list[Reply | Exception]:
                return [Reply(self.reply(request)) for request in requests]

            def reply(self, request: Request) -> str:
                if request.turn:
                    return "<answer>1</answer>"
                calls = tuple(call("Calculator", expression=e) for e in ("1+1", "2+2"))
                return request.format.write(Action("", calls), request.tools)

            def describe(self) -> dict[str, Any]:
                return {"policy": "twice"}

        args = {"format": "hermes", "service": {"faults": {"timeout": 0.5}}}
        run = rollout("ToolQA-GSM8K-v0", Twice(), env_args=args, episodes=20)
        pairs = {tuple(r.error for r in t.steps[0].results) for t in run}
        assert pairs == {
            (a, b) for a in (None, "injected_timeout") for b in (None, "injected_timeout")
        }


class TestSettings:
    @pytest.mark.parametrize("kind", [*KINDS, "all"])
    def test_gymnasium_finds_no_fault_in_environments_with_faults(
        self, kind: str, tmp_path: Path
    ) -> None:
        rates = dict.fromkeys(KINDS, 0.2) if kind == "all" else {kind: 0.5}
        service = {"faults": rates, "cassette": str(tmp_path / "c.jsonl"), "mode": "record"}
        check_env(gym.make(POPQA, service=service).unwrapped, skip_render_check=True)
        assert (tmp_path / "c.jsonl").stat().st_size > 0

    @pytest.mark.parametrize(
        ("service", "message"),
        [
            ({"casette": "x"}, r"no setting 'casette' \(did you mean 'cassette'\?\)"),
            ({"cassette": "x"}, "needs a mode"),
            ({"mode": "record"}, "needs the path"),
            ({"cassette": "x", "mode": "reply"}, "did you mean 'replay'"),
            ({"cassette": "", "mode": "replay"}, "path of a .jsonl"),
            ({"cache": "yes"}, "true or false"),
            ({"faults": {"timeouts": 0.1}}, "did you mean 'timeout'"),
            ({"faults": {"timeout": 1.5}}, "from 0 to 1"),
            ({"faults": {"timeout": True}}, "from 0 to 1"),
            ({"faults": {"empty": float("nan")}}, "from 0 to 1"),
            ({"faults": {"timeout": 0.6, "empty": 0.6}}, "add up to 1.2"),
            ({"faults": {"seed": "a"}}, "whole number"),
            ({"faults": [0.2]}, "kind: rate"),
            ("replay", "must be a mapping"),
        ],
    )
    def test_wrong_ones_are_named(self, service: Any, message: str) -> None:
        with pytest.raises(BadInputError, match=message):
            check_service(service)
        with pytest.raises(BadInputError, match=message):
            gym.make(POPQA, service=service)

    def test_nothing_said_changes_nothing(self) -> None:
        plain: Any = gym.make(POPQA).unwrapped
        empty: Any = gym.make(POPQA, service={}).unwrapped
        assert empty._toolset is plain._toolset
        assert family.shared_toolset.cache_info().currsize >= 1


class TestCommandLine:
    def toolgym(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments))

    def test_record_replay_and_faults(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        common = ("rollout", POPQA, "--policy", "lookup", "--episodes", "30")
        faults = ("--fault", "timeout=0.1", "--fault", "empty=0.1", "--fault", "seed=1")
        tape = ("--cassette", "tape.jsonl")
        made = self.toolgym(*common, *faults, *tape, "--record", "--out", "a")
        assert made.exit_code == 0, made.output
        again = self.toolgym(*common, *faults, *tape, "--replay", "--out", "b")
        assert again.exit_code == 0, again.output
        assert trajectories(Run.open("a")) == trajectories(Run.open("b"))
        told = self.toolgym("eval", "b")
        assert "Injected faults: " in told.output
        assert "accuracy" in told.output
        missed = self.toolgym(*common, *tape, "--replay", "--seed", "9", "--out", "c")
        assert missed.exit_code == 3
        wrong = self.toolgym(*common, *tape, "--out", "d")
        assert wrong.exit_code == 3

    def test_options_join_what_env_arg_says(self, tmp_path: Path) -> None:
        out = str(tmp_path / "a")
        made = self.toolgym(
            *("rollout", POPQA, "--policy", "lookup", "--episodes", "2", "--out", out),
            *("--env-arg", 'service={"cache": false}', "--fault", "slow=1"),
        )
        assert made.exit_code == 0, made.output
        said = Run.open(out).settings["env"]["args"]["service"]
        assert said == {"cache": False, "faults": {"slow": 1}}
