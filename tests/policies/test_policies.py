"""Scripted and replayed policies, and what policies read out of a conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym._util.jsonl import write_rows
from toolgym.errors import BadInputError, MissingFileError, PolicyError
from toolgym.formats import Action, get_format
from toolgym.messages import Message, ToolCall, ToolResult, to_chats
from toolgym.policies import Request, make_policy
from toolgym.policies.base import cut_at_stop, past_results, question_of, with_stop
from toolgym.policies.scripted import ReplayPolicy, ScriptedPolicy
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory

SEARCH = {
    "type": "function",
    "function": {
        "name": "WikipediaSearch",
        "description": "Search.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
        },
    },
}
FORMATS = ("react", "react-paper", "tags", "hermes")
REPLY_PIECES = (
    *("Thought: ", "Action: WikipediaSearch[", "Action: WikipediaSearch(", "Answer:", "Answer: a"),
    *(
        "Action Input: {",
        "Action:\nWikipediaSearch\n",
        "```",
        "<think>",
        '"',
        "[",
        "{",
        "]",
        "\n",
        "x",
    ),
)


def asked(question: str, format: str = "react", *, prompt: str = "bare", **fields: Any) -> Request:
    codec = get_format(format, prompt)
    messages = codec.render([SEARCH], [Message("user", question)])
    return Request(to_chats(messages), [SEARCH], codec, **fields)


def text(reply: Any) -> str:
    assert not isinstance(reply, Exception), reply
    return str(reply.text)


def play(policy: Any, request: Request) -> str:
    return text(policy.act([request])[0])


class TestScripted:
    def test_one_list_serves_each_episode_and_the_last_reply_is_repeated(self) -> None:
        policy = ScriptedPolicy(["a", "b"])
        turns = [
            asked("?", episode=episode, turn=t) for episode in ("x#0", "y#1") for t in range(4)
        ]
        assert [text(reply) for reply in policy.act(turns)] == ["a", "b", "b", "b"] * 2

    @pytest.mark.parametrize("key", ["t1#0", "t1", "Who?"])
    def test_scripts_by_episode_task_or_question(self, key: str) -> None:
        policy = ScriptedPolicy({key: ["mine"], "other": ["not mine"]})
        assert play(policy, asked("Who?", prompt="tools_multi_step", episode="t1#0")) == "mine"

    def test_a_missing_script_is_an_error_that_names_question_and_near_keys(self) -> None:
        policy = ScriptedPolicy({"Who wrote Emma?": ["a"]})
        reply = policy.act([asked("Who wrote Emmma?", episode="t9#0")])[0]
        assert isinstance(reply, PolicyError)
        assert "t9#0" in str(reply)
        assert "did you mean 'Who wrote Emma?'" in str(reply)

    def test_a_file_of_scripts_by_its_registered_name(self, tmp_path: Path) -> None:
        path = tmp_path / "script.jsonl"
        rows = [{"episode": "t#0", "replies": ["e"]}, {"question": "Q?", "replies": ["q", "r"]}]
        write_rows(path, rows)
        policy = make_policy(f"scripted:{path}")
        assert play(policy, asked("something", episode="t#0")) == "e"
        assert play(policy, asked("Q?", episode="u#0", turn=1)) == "r"

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ('{"replies": ["a"]}', "line 2: a row needs 'episode' or 'question'"),
            ('{"episode": "a", "replies": ["x"]}', "line 2: 'a' stands twice"),
            ('{"episode": "b", "replies": []}', "the script of 'b' is empty"),
            ('{"episode": "b", "replies": "text"}', "must be a list of replies"),
            ('{"episode": "b", "replies": [1]}', "may hold texts only"),
            ("{broken", "line 2: not valid JSON"),
        ],
    )
    def test_a_broken_file_names_the_place(self, tmp_path: Path, row: str, said: str) -> None:
        path = tmp_path / "script.jsonl"
        path.write_text('{"episode": "a", "replies": ["x"]}\n' + row + "\n")
        with pytest.raises(BadInputError, match=r".") as caught:
            ScriptedPolicy(path)
        assert said in str(caught.value)

    def test_nothing_to_play(self) -> None:
        with pytest.raises(BadInputError, match="at least one reply"):
            ScriptedPolicy([])
        with pytest.raises(BadInputError, match="at least one script"):
            ScriptedPolicy({})
        with pytest.raises(MissingFileError, match="does not exist"):
            ScriptedPolicy("nowhere.jsonl")

    def test_describe_tells_scripts_apart(self) -> None:
        descriptions = [ScriptedPolicy(r).describe() for r in (["a"], ["b"], {"q": ["a"]})]
        assert len({json.dumps(d) for d in descriptions}) == 3


class TestReplay:
    def record(self, folder: Path) -> Path:
        rows = [
            Trajectory(
                Task(f"t{n}", "Q?", ("a",)),
                steps=[Step(f"{n}.{turn}") for turn in range(2)],
                sample=n,
            ).to_row()
            for n in range(3)
        ]
        write_rows(folder / "trajectories.jsonl", rows)
        return folder

    def test_plays_by_task_and_sample(self, tmp_path: Path) -> None:
        run = self.record(tmp_path)
        for policy in (ReplayPolicy(run), make_policy(f"replay:{run / 'trajectories.jsonl'}")):
            replies = policy.act(
                [asked("Q?", episode=e, turn=t) for e, t in (("t2#2", 1), ("t0#0", 0))]
            )
            assert [text(reply) for reply in replies] == ["2.1", "0.0"]

    def test_what_was_not_recorded_is_an_error(self, tmp_path: Path) -> None:
        policy = ReplayPolicy(self.record(tmp_path))
        missing, longer = policy.act(
            [asked("Q?", episode="t1#0"), asked("Q?", episode="t1#1", turn=2)]
        )
        assert isinstance(missing, PolicyError)
        assert "no episode 't1#0' (did you mean" in str(missing)
        assert isinstance(longer, PolicyError)
        assert "recorded with 2 turns, but turn 3" in str(longer)

    def test_refuses_what_is_no_recording(self, tmp_path: Path) -> None:
        with pytest.raises(MissingFileError, match=r"trajectories\.jsonl"):
            ReplayPolicy(tmp_path)
        (tmp_path / "trajectories.jsonl").write_text("")
        with pytest.raises(BadInputError, match="holds no episode"):
            ReplayPolicy(tmp_path)
        row = json.dumps(Trajectory(Task("t", "Q?", ("a",)), steps=[Step("x")]).to_row())
        other = row.replace('"x"', '"y"')
        (tmp_path / "trajectories.jsonl").write_text(f"{row}\n{other}\n")
        with pytest.raises(BadInputError, match="'t#0' twice"):
            ReplayPolicy(tmp_path)


def turn(request: Request, calls: Sequence[ToolCall], results: Sequence[str]) -> list[Any]:
    """The messages that a turn with these calls adds."""
    made = request.format.write(Action("", tuple(calls)), request.tools)
    calls = request.format.parse(made, request.tools).calls
    answered = [ToolResult(c.id, r) for c, r in zip(calls, results, strict=True)]
    fresh = request.format.results(calls, answered, request.tools)
    return to_chats([Message("assistant", made), *fresh])


class TestConversation:
    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("prompt", ["bare", "no_tool", "tools_multi_step"])
    def test_question(self, format: str, prompt: str) -> None:
        assert question_of(asked("Who wrote Emma?", format, prompt=prompt)) == "Who wrote Emma?"

    @pytest.mark.parametrize("format", FORMATS)
    @given(st.lists(st.text(st.characters(exclude_characters="\ue000")), min_size=1, max_size=4))
    def test_results_of_all_turns_come_back(self, format: str, results: list[str]) -> None:
        request = asked("Q?", format)
        for number, result in enumerate(results):
            call = ToolCall("call_0", "WikipediaSearch", {"query": f"query {number}"})
            request.messages.extend(turn(request, [call], [result]))
        assert [result for _, result in past_results(request)] == results
        queries = [call.arguments["query"] for call, _ in past_results(request)]
        assert queries == [f"query {number}" for number in range(len(results))]

    @pytest.mark.parametrize("format", FORMATS)
    def test_several_calls_in_one_turn(self, format: str) -> None:
        request = asked("Q?", format)
        calls = [ToolCall(f"call_{n}", "WikipediaSearch", {"query": f"q{n}"}) for n in range(3)]
        request.messages.extend(turn(request, calls, ["first", "second\nline", "third"]))
        assert [result for _, result in past_results(request)] == ["first", "second\nline", "third"]

    def test_a_turn_without_calls_or_with_a_complaint_has_no_results(self) -> None:
        request = asked("Q?")
        request.messages.extend(
            [{"role": "assistant", "content": "hm"}, {"role": "user", "content": "no fields"}]
        )
        assert past_results(request) == []

    def test_stop_texts_are_kept_only_where_the_format_needs_them(self) -> None:
        assert cut_at_stop("<search>x</search> and on", asked("Q?", "tags")) == "<search>x</search>"
        imagined = "Answer: Paris\nResponse from tool WikipediaSearch[x] are: y"
        assert cut_at_stop(imagined, asked("Q?", "react")) == "Answer: Paris"
        assert cut_at_stop("no stop at all", asked("Q?", "tags")) == "no stop at all"
        tags = asked("Q?", "tags")
        assert with_stop("<answer>x", tags.format.stop, tags) == "<answer>x</answer>"
        assert with_stop("nothing", tags.format.stop, tags) == "nothing"

    @given(
        st.sampled_from(("react", "react-paper")),
        st.lists(st.sampled_from(REPLY_PIECES), min_size=1, max_size=4).map("".join),
        st.integers(0, 80),
    )
    def test_a_stop_text_that_closes_nothing_says_nothing(
        self, format: str, text: str, length: int
    ) -> None:
        """So `with_stop` need not read these formats' replies a second time."""
        request = asked("Q?", format)
        assert not request.format.stop_closes
        said = request.format.parse(text[:length], request.tools)
        for stop in request.format.stop:
            more = request.format.parse(text[:length] + stop, request.tools)
            assert len(more.calls) <= len(said.calls)
            assert said.calls or said.answer is not None or more.answer is None
