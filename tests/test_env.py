"""The episode loop, spaces and vector environments."""

from __future__ import annotations

import gc
import json
import os
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from toolgym import Rubric, Task, TaskSet, Toolset, Trajectory, tool
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, EpisodeEndedError, MissingFileError, UnknownNameError
from toolgym.formats import get_format
from toolgym.messages import ToolResult
from toolgym.spaces import UnicodeText
from toolgym.vector import ToolVectorEnv, step_together

calls_seen: list[int] = []


def plain(value: Any) -> Any:
    """What a vector environment gives, as values that can be compared."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def timeless(record: Trajectory) -> dict[str, Any]:
    """A record as a row without the clock's readings."""
    row = record.to_row()
    for step in row["steps"]:
        del step["seconds"]
    return row


@tool(inline=True, shared_state=True)
def Shout(text: str) -> str:  # noqa: N802
    """Say it louder.

    Args:
        text: what to say.
    """
    calls_seen.append(1)
    return text.upper()


def turns(task: Task, trajectory: Trajectory) -> list[float]:
    """One for each step."""
    return [1.0] * len(trajectory.steps)


def make(prompt: str = "tools_multi_step", format: str = "react", **kwargs: Any) -> ToolEnv:
    tasks = TaskSet([Task(f"t{n}", f"Q{n}?", (f"A{n}",)) for n in range(5)], source="test")
    return ToolEnv(
        tasks, Toolset([Shout]), get_format(format, prompt), Rubric({"turns": turns}), **kwargs
    )


class TestEpisode:
    def test_call_result_answer(self) -> None:
        env = make()
        observation, info = env.reset(seed=3)
        assert "Shout" in observation
        assert [m["role"] for m in info["messages"]] == ["system", "user"]
        assert info["tools"][0]["function"]["name"] == "Shout"
        observation, reward, terminated, truncated, info = env.step("Action: Shout[hey]")
        assert observation.startswith("Response from tool Shout[hey] are: HEY\nNow write ")
        assert (reward, terminated, truncated) == (1.0, False, False)
        assert info["reward/turns"] == 1.0
        observation, _, terminated, _, info = env.step("Answer: HEY")
        assert (observation, terminated) == ("", True)
        assert json.dumps(info)
        record = env.trajectory
        assert record.answer == "HEY"
        assert record.reward == 2.0
        assert [m.role for m in record.messages][2:] == ["assistant", "user", "assistant"]

    def test_use_outside_an_episode(self) -> None:
        env = make()
        with pytest.raises(EpisodeEndedError, match="call reset"):
            env.step("x")
        with pytest.raises(EpisodeEndedError, match="reset"):
            _ = env.trajectory
        env.reset()
        env.step("Answer: x")
        with pytest.raises(EpisodeEndedError, match="ended"):
            env.step("Answer: y")

    def test_a_reply_that_cannot_be_read_is_answered(self) -> None:
        env = make()
        env.reset(seed=0)
        observation, _, terminated, truncated, info = env.step("hm")
        assert observation.startswith("The reply could not be used: ")
        assert not terminated
        assert not truncated
        assert info["problems"] == ["no_fields"]

    def test_truncation_at_max_steps(self) -> None:
        env = make(max_steps=2)
        env.reset(seed=0)
        assert env.step("hm")[2:4] == (False, False)
        assert env.step("hm")[2:4] == (False, True)

    def test_tools_in_one_turn_only(self) -> None:
        env = make("tools_single_step")
        env.reset(seed=0)
        env.step("Action: Shout[a] Shout[b]")
        calls_seen.clear()
        observation, *_, info = env.step("Action: Shout[c]")
        assert "may not be called again" in observation
        assert info["tool_errors"] == ["refused"]
        assert calls_seen == []

    def test_call_ids_are_unique_in_an_episode(self) -> None:
        env = make()
        env.reset(seed=0)
        env.step("Action: Shout[a] Shout[b]")
        env.step("Action: Shout[c]")
        assert [call.id for call, _ in env.trajectory.calls] == ["call_0", "call_1", "call_2"]

    @pytest.mark.parametrize(
        "reply", ["x" * 2_000_000, "Answer: \x00\x00", "\ud800", "Action: Shout[سؤال]", ""]
    )
    def test_hostile_replies_are_recorded_whole(self, reply: str) -> None:
        env = make()
        env.reset(seed=0)
        env.step(reply)
        assert env.trajectory.steps[0].action == reply

    def test_a_long_reply_is_cut_for_the_conversation_only(self) -> None:
        env = make(max_reply_chars=20)
        env.reset(seed=0)
        *_, info = env.step("Answer: yes" + " " * 50)
        assert info["problems"] == ["too_long"]
        assert len(env.trajectory.messages[-1].content) == 20
        assert env.trajectory.answer == "yes"

    def test_a_long_result_is_cut_for_the_policy_only(self) -> None:
        env = make(max_result_chars=4)
        env.reset(seed=0)
        observation, *_ = env.step("Action: Shout[abcdefgh]")
        assert "ABCD [cut: 8 characters]\nNow write" in observation
        assert env.trajectory.steps[0].results[0].content == "ABCDEFGH"

    def test_rewards_given_step_by_step_are_those_of_the_whole(self) -> None:
        rubric = Rubric({"turns": (turns, 0.1), "accuracy": 1.0, "execution_precision": 0})
        env = make()
        env.rubric = rubric
        env.reset(options={"task": 1})
        for reply in ("Action: Shout[a] Shot[b]", "hm", "Answer: A1"):
            _, reward, *_, info = env.step(reply)
            assert reward == env.trajectory.steps[-1].reward
            assert info["reward/turns"] == 1.0
        played = env.trajectory
        at_once = env.trajectory
        for step in at_once.steps:
            step.reward, step.reward_parts = 0.0, {}
        rubric.apply(at_once)
        assert at_once == played
        assert [step.reward for step in played.steps] == [0.1, 0.1, 1.1]
        assert played.steps[0].reward_parts["execution_precision"] == 0.5

    def test_choice_of_the_task(self) -> None:
        env = make()
        assert env.reset(options={"task": 2})[1]["task_id"] == "t2"
        assert env.reset(options={"task": "t4"})[1]["task_id"] == "t4"
        seeded = {env.reset(seed=5)[1]["task_id"] for _ in range(3)}
        assert len(seeded) == 1
        assert len({env.reset()[1]["task_id"] for _ in range(50)}) == 5
        for options in ({"task": 9}, {"task": "no"}, {"tasks": 1}):
            with pytest.raises(BadInputError):
                env.reset(options=options)

    def test_a_record_is_a_copy(self) -> None:
        env = make()
        env.reset(seed=0)
        env.trajectory.messages.clear()
        assert env.trajectory.messages

    def test_a_record_shares_nothing_that_can_be_changed(self) -> None:
        env = make(format="hermes")
        env.reset(seed=0)
        env.step('<tool_call>{"name": "Shout", "arguments": {"text": ["a"]}}</tool_call>')
        before, taken = env.trajectory.to_row(), env.trajectory
        assert taken.to_row() == before
        taken.task.metadata["new"] = 1
        taken.tools[0]["function"]["parameters"]["properties"].clear()
        taken.steps[0].calls[0].arguments["text"].append("b")
        taken.steps[0].reward_parts["turns"] = 9.0
        taken.metrics["m"] = 1.0
        assert env.trajectory.to_row() == before

    def test_what_a_policy_does_to_its_info_reaches_nothing_else(self) -> None:
        env = make()
        _, info = env.reset(seed=0)
        before = env.trajectory.to_row()
        info["messages"][0]["content"] = "changed"
        info["tools"][0]["function"]["parameters"]["required"].clear()
        assert env.trajectory.to_row() == before
        assert ": HEY\n" in env.step("Action: Shout[hey]")[0]
        assert env.step("hm")[-1]["messages"][0]["content"] != "changed"
        _, info = env.reset(seed=0)
        assert info["tools"] == env.toolset.schemas()

    def test_the_last_finished_episode_is_kept(self) -> None:
        env = make(max_steps=2)
        env.reset(seed=0)
        env.step("hm")
        env.reset(seed=0)  # an episode that was left is none that has ended
        assert env.finished is None
        env.step("Answer: x")
        ended = env.trajectory
        assert env.finished == ended
        env.reset(seed=1)
        env.step("hm")
        assert env.finished == ended
        assert env.step("hm")[3]
        assert env.finished == env.trajectory
        assert env.clone().finished is None

    def test_closing_ends_the_tools_processes_and_the_environment_can_go_on(self) -> None:
        @tool
        def pid() -> int:
            """Say who works."""
            return os.getpid()

        env = make()
        env.toolset = Toolset([Shout, pid])
        env.reset(seed=0)
        first = int(env.step("Action: pid[{}]")[0].splitlines()[0].split()[-1])
        env.close()
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        assert int(env.step("Action: pid[{}]")[0].splitlines()[0].split()[-1]) != first
        env.close()
        env.close()

    def test_episodes_leave_nothing_behind(self) -> None:
        env = make(format="tags")
        sizes = []
        for _ in range(3):
            for number in range(400):
                env.reset()
                env.step(f"<Shout>{number}</Shout>")
                env.step(f"<unknown{number}>")
                env.step("<answer>x</answer>")
            gc.collect()
            sizes.append(len(gc.get_objects()))
        assert sizes[2] - sizes[1] < 50

    def test_an_action_must_be_text(self) -> None:
        env = make()
        env.reset()
        with pytest.raises(BadInputError, match="not int"):
            env.step(3)  # type: ignore[arg-type]

    def test_rendering(self) -> None:
        env = make(render_mode="ansi")
        env.reset(seed=0)
        assert "[user]\nQuestion: Q" in str(env.render())
        assert make().render() is None

    @pytest.mark.parametrize("bound", ["max_steps", "max_reply_chars", "max_result_chars"])
    def test_bounds_are_checked(self, bound: str) -> None:
        for value in (0, -1, True, 2.5, "3"):
            with pytest.raises(BadInputError, match=bound):
                make(**{bound: value})


class TestSpace:
    def test_any_unicode_and_length(self) -> None:
        space = UnicodeText(10)
        assert "é ا\x00" in space
        assert "x" * 11 not in space
        assert 3 not in space
        assert space == UnicodeText(10)
        assert space != UnicodeText(11)
        assert hash(space) == hash(UnicodeText(10))

    def test_samples_follow_the_seed_and_cover_valid_and_broken(self) -> None:
        env = make()
        env.action_space.seed(7)
        drawn = [env.action_space.sample() for _ in range(200)]
        env.action_space.seed(7)
        assert drawn == [env.action_space.sample() for _ in range(200)]
        schemas = env.toolset.schemas()
        parsed = [env.format.parse(text, schemas) for text in drawn]
        assert sum(bool(action.calls) for action in parsed) > 30
        assert sum(action.answer is not None for action in parsed) > 10
        assert sum(bool(action.problems) for action in parsed) > 10
        with pytest.raises(ValueError, match="neither"):
            env.action_space.sample(mask=np.ones(1))


class TestVectors:
    def test_calls_of_a_step_are_answered_together(self) -> None:
        sizes: list[int] = []
        env = make()
        shared = env.toolset
        original = shared.execute

        def execute(calls: Any, episodes: Any) -> Any:
            sizes.append(len(calls))
            return original(calls, episodes)

        shared.execute = execute  # type: ignore[method-assign]
        vector = ToolVectorEnv([env.clone for _ in range(4)])
        vector.reset(seed=1)
        observations, rewards, *_ = vector.step(
            ("Action: Shout[a]", "Answer: x", "Action: Shout[b] Shout[c]", "hm")
        )
        assert sizes == [3]
        assert observations[2].count("Response from tool") == 2
        assert rewards.tolist() == [1.0] * 4
        # The second environment begins anew: its action is ignored, as gymnasium's autoreset says.
        observations, *_ = vector.step(("Answer: y",) * 4)
        assert "Question: Q" in observations[1]
        vector.close()

    def test_same_results_alone_and_together(self) -> None:
        alone, together = make(), make()
        for env in (alone, together):
            env.reset(seed=4)
        (second,) = step_together([together], ["Action: Shout[a]"])
        assert alone.step("Action: Shout[a]") == second

    @pytest.mark.parametrize(
        "env_id",
        ["ToolQA-PopQA-v0", "ToolQA-TriviaQA-v0", "ToolQA-GSM8K-v0", "ToolQA-NQOpen-v0"],
    )
    def test_processes_give_what_one_process_gives(self, env_id: str) -> None:
        modes: list[dict[str, Any]] = [
            {},
            {"vectorization_mode": "sync"},
            {"vectorization_mode": "async"},
        ]
        said, records = [], []
        for mode in modes:
            envs = gym.make_vec(env_id, num_envs=2, **mode)
            heard = [envs.reset(seed=5)]
            heard.append(envs.step(["Action: Calculator[6*7] Calculator[1/0]", "Answer: x"]))
            ended = envs.get_attr("finished")
            heard.append(envs.step(["hm", "Answer: y"]))  # the second begins anew
            heard.append(envs.step(["Answer: 42", "Action: WikipediaSearch[Morocco]"]))
            said.append(heard)
            records.append([*ended, *envs.get_attr("finished"), *envs.call("trajectory")])
            envs.close()
        assert plain(said[0]) == plain(said[1]) == plain(said[2])
        rows = [[record and timeless(record) for record in made] for made in records]
        assert rows[0] == rows[1] == rows[2]
        none, first, second, again, running, other = rows[0]
        assert none is None
        assert first == again
        assert [len(row["steps"]) for row in (first, second, running, other)] == [1, 3, 3, 1]
        assert {row["env_id"] for row in rows[0][1:]} == {env_id}
        assert said[0][1][-1]["tool_errors"].tolist() == [["", "tool_error"], []]

    def test_the_halves_of_a_step_are_the_step(self) -> None:
        whole, halves = make("tools_single_step"), make("tools_single_step")
        for env in (whole, halves):
            env.reset(seed=4)
        for action in ("Action: Shout[a] Shout[b]", "Action: Shout[c]", "hm", "Answer: x"):
            halves.begin("Action: Shout[this one is never finished]")
            calls = halves.begin(action)
            assert [call.name for call in calls] == (["Shout"] * 2 if "[a]" in action else [])
            found = halves.current_tools.execute(calls)
            assert halves.finish(found, 0.0) == whole.step(action)
        assert timeless(halves.trajectory) == timeless(whole.trajectory)
        with pytest.raises(EpisodeEndedError, match="call begin"):
            halves.finish([])

    def test_each_call_needs_its_result(self) -> None:
        env = make()
        env.reset(seed=0)
        env.begin("Action: Shout[a] Shout[b]")
        with pytest.raises(BadInputError, match="2 calls need a result each, not 1"):
            env.finish([ToolResult("call_0", "A")])

    def test_the_failure_of_one_leaves_the_others_alone(self) -> None:
        env = make()
        original = env.toolset.execute

        def execute(calls: Any, episodes: Any) -> Any:
            if any(call.arguments == {"text": "a"} for call in calls):
                raise OSError("the service is gone")
            return original(calls, episodes)

        env.toolset.execute = execute  # type: ignore[method-assign]
        envs = [env.clone() for _ in range(3)]
        for one in envs[:2]:
            one.reset(seed=0)
        first, second, third = step_together(envs, [f"Action: Shout[{sign}]" for sign in "abc"])
        assert str(first) == "the service is gone"
        assert isinstance(third, EpisodeEndedError)
        assert not isinstance(second, Exception)
        assert ": B\n" in second[0]

    def test_wrappers_that_change_actions_are_asked(self) -> None:
        wrapped = gym.wrappers.TransformAction(make(), str.upper, None)
        wrapped.reset(seed=0)
        (stepped,) = step_together([wrapped], ["action: shout[a]"])
        assert not isinstance(stepped, Exception)
        assert wrapped.unwrapped.trajectory.steps[0].action == "ACTION: SHOUT[A]"  # type: ignore[attr-defined]

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_vectors_reset_as_gymnasium_does(self, mode: AutoresetMode) -> None:
        ours = ToolVectorEnv([make] * 2, autoreset_mode=mode)
        theirs = SyncVectorEnv([make] * 2, autoreset_mode=mode)
        heard: list[list[Any]] = [[], []]
        for vector, said in zip((ours, theirs), heard, strict=True):
            said.append(vector.reset(seed=3))
            said.append(vector.step(("Action: Shout[a]", "Answer: x")))
            if mode is AutoresetMode.DISABLED:
                options = {"reset_mask": np.array([False, True])}
                said.append(vector.reset(seed=9, options=options))
            said.append(vector.step(("Answer: y", "Action: Shout[b]")))
            assert vector.envs[0] is vector.envs[0].unwrapped
            vector.close()
        assert plain(heard[0]) == plain(heard[1])

    def test_a_vector_needs_an_action_each(self) -> None:
        vector = ToolVectorEnv([make] * 2)
        vector.reset(seed=0)
        with pytest.raises(BadInputError, match="2 environments need an action each, not 1"):
            vector.step(["hm"])


@pytest.mark.parametrize("env_id", ["ToolQA-TriviaQA-v0", "ToolQA-GSM8K-v0"])
class TestRegistered:
    def test_passes_gymnasiums_checker(self, env_id: str) -> None:
        check_env(gym.make(env_id).unwrapped)

    def test_arguments_are_checked_with_near_names(self, env_id: str) -> None:
        for arguments, error, why in (
            ({"task": "sample"}, BadInputError, "did you mean 'tasks'"),
            ({"format": "heremes"}, UnknownNameError, "did you mean 'hermes'"),
            ({"reward": {"acuracy": 1}}, UnknownNameError, "did you mean 'accuracy'"),
            ({"reward": {"accuracy": "x"}}, BadInputError, "finite number"),
            ({"tools": "Calculator"}, BadInputError, "list of names"),
            ({"tasks": "no.jsonl"}, MissingFileError, "does not exist"),
            ({"tasks": "smaple"}, MissingFileError, "none of 'sample'"),
            ({"split": "dev"}, BadInputError, "splits there"),
            ({"max_steps": 0}, BadInputError, "max_steps"),
        ):
            with pytest.raises(error, match=why):
                gym.make(env_id, **arguments)  # type: ignore[arg-type]

    def test_spec_round_trip(self, env_id: str) -> None:
        env = gym.make(env_id, max_steps=3, tools=["Calculator"])
        assert env.spec is not None
        again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
        assert again.unwrapped.max_steps == 3  # type: ignore[attr-defined]

    def test_no_hub_says_what_else_there_is(
        self, env_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        def offline(*args: Any, **kwargs: Any) -> Any:
            raise ConnectionError("Couldn't reach the Hub\nand more")

        monkeypatch.setattr(datasets, "load_dataset", offline)
        with pytest.raises(MissingFileError, match=r"tasks='sample'.*tasks='path/to/file.jsonl'"):
            gym.make(env_id, tasks="hub")


class TestPaperSplits:
    def test_cuts_follow_one_another(self) -> None:
        from toolgym.envs.toolqa.families import GSM8K, TRIVIAQA
        from toolgym.envs.toolqa.family import paper_splits

        assert paper_splits(GSM8K.hub, "train", 7473) == (0, 7473)
        assert paper_splits(GSM8K.hub, "validation", 1319) == (0, 650)
        assert paper_splits(GSM8K.hub, "test", 1319) == (650, 1319)
        assert paper_splits(TRIVIAQA.hub, "test", 7993) == (1000, 2000)

    def test_hub_columns_are_read_and_shuffled_with_the_papers_seed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        from toolgym.envs.toolqa.families import NQOPEN, POPQA, TRIVIAQA

        rows = {
            "akariasai/PopQA": [
                {"id": 1, "question": f"Q{n}", "possible_answers": '["a", "b"]'}
                for n in range(2500)
            ],
            "mandarjoshi/trivia_qa": [
                {"question": f"Q{n}", "answer": {"value": "v", "aliases": ["v", "w"]}}
                for n in range(2500)
            ],
            "google-research-datasets/nq_open": [
                {"question": f"Q{n}", "answer": ["x", "y"]} for n in range(2500)
            ],
        }
        monkeypatch.setattr(
            datasets, "load_dataset", lambda path, *a, **k: datasets.Dataset.from_list(rows[path])
        )
        seen = {}
        for family, answers in (
            (POPQA, ("a", "b")),
            (TRIVIAQA, ("v", "w")),
            (NQOPEN, ("x", "y")),
        ):
            test, valid = (family.tasks("hub", split) for split in ("test", "validation"))
            assert len(test) == len(valid) == 1000
            assert test[0].answers == answers
            assert not {t.question for t in test} & {t.question for t in valid}
            seen[family.name] = test[0].question
        order = datasets.Dataset.from_dict({"n": list(range(2500))}).shuffle(seed=19)["n"]
        assert set(seen.values()) == {f"Q{order[1000]}"}
