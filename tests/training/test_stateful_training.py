"""Training steps in a world that remembers: both adapters, and groups that branch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from remembering import InlineShop

from toolgym import (
    Rubric,
    ScriptedUser,
    Task,
    TaskSet,
    ToolCall,
    ToolEnv,
    ToolSession,
    Toolset,
    Trajectory,
    tool,
)
from toolgym._util.jsonl import read_rows
from toolgym.errors import BadInputError
from toolgym.formats import get_format
from toolgym.formats.base import Action
from toolgym.training.grpo import train_grpo
from toolgym.training.trl_environment import trl_environment
from toolgym.training.trl_episode import Player, Start

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

pytestmark = pytest.mark.filterwarnings("ignore")

TASKS = TaskSet(
    [Task(f"t{n}", f"Put {n} more tea into the cart.", ("done",), {"cart": {"tea": n}})
     for n in range(4)],
    source="test",
)  # fmt: skip
CODEC = get_format("hermes")


def has_more(task: Task, trajectory: Trajectory) -> list[float]:
    """1.0 at a step after which there is more tea than before it."""
    teas = [trajectory.state_after(k)["cart"]["tea"] for k in range(len(trajectory.steps) + 1)]
    return [float(after > before) for before, after in itertools.pairwise(teas)]


def make(**options: Any) -> ToolEnv:
    rubric = Rubric({"has_more": (has_more, 1.0), "accuracy": 0.5})
    return ToolEnv(TASKS, Toolset([InlineShop]), CODEC, rubric, max_steps=4, **options)


def write(name: str = "", answer: str | None = None, **arguments: Any) -> str:
    calls = (ToolCall("c", name, arguments),) if name else ()
    return CODEC.write(Action("", calls, answer))


class Cart(ToolSession):
    """A shop whose instructions fit the positions of a very small model."""

    inline = True

    def __init__(self, task: Task) -> None:
        self.cart = dict(task.metadata["cart"])

    @tool
    def add(self, item: str) -> str:
        """Add it."""
        self.cart[item] = self.cart.get(item, 0) + 1
        return item


def test_grpo_steps_on_a_state_with_groups_that_branch(tiny_base: Path, tmp_path: Path) -> None:
    rubric = Rubric({"has_more": (has_more, 1.0), "accuracy": 0.5})
    codec = get_format("tags", "bare")
    env = ToolEnv(TASKS, Toolset([Cart]), codec, rubric, max_steps=3)
    made = train_grpo(
        env,
        tiny_base,
        tmp_path / "model",
        batch_size=8,
        generations=4,
        max_updates=2,
        max_new_tokens=4,
        branch_after=1,
        record_episodes=True,
    )
    assert {"reward", "has_more", "accuracy"} <= set(made.figures)
    rows = [
        Trajectory.from_row(row)
        for file in sorted((made.path / "episodes").iterdir())
        for _, row in read_rows(file)
    ]
    assert len(rows) == 16
    for begin in range(0, 16, 4):
        group = rows[begin : begin + 4]
        assert len({row.task.id for row in group}) == 1
        assert len({row.steps[0].action for row in group}) == 1, "the first turn is theirs together"
        assert len({row.id for row in group}) == 4
        assert all(row.state == row.task.metadata for row in group)


class Script:
    """What the policy says, turn by turn; siblings differ by their place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turns: Mapping[int, list[str]]) -> None:
        from toolgym.policies.base import Reply, ReplyTokens
        from toolgym.policies.local.transformers import TransformersPolicy

        self.asked: list[tuple[str, int]] = []

        def act(policy: Any, requests: Any) -> list[Any]:
            found = []
            for request in requests:
                place = int(request.episode.rpartition("#")[2])
                self.asked.append((request.episode, request.turn))
                prompt = list(range(3 + 4 * request.turn))
                ids = [3 + 4 * request.turn, 4 + 4 * request.turn]
                said = turns[request.turn][place % len(turns[request.turn])]
                found.append(Reply(said, ReplyTokens(prompt, ids)))
            return found

        monkeypatch.setattr(TransformersPolicy, "act", act)


def play(tiny_base: Path, env: ToolEnv, count: int, **options: Any) -> Any:
    start = Start("t1")
    player = Player(
        envs=[env],
        tokenizer=transformers.AutoTokenizer.from_pretrained(tiny_base),
        starts={start.key: start},
        credit="episode",
        sampling={"max_new_tokens": 4},
        max_tokens=100,
        seed=0,
        **options,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_base)
    return player(model, [start.key] * count, 0)


def test_a_branch_goes_on_from_the_state_and_learns_what_is_its_own(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, done, no = write("add", item="tea"), write(answer="done"), write(answer="no")
    script = Script(monkeypatch, {0: [add], 1: [add, done, no], 2: [done]})
    played = play(tiny_base, make(), 3, branch_after=1)
    assert [n for _, n in script.asked].count(0) == 1, "the first turn was played once"
    assert played.parts == [
        {"has_more": 1.0, "accuracy": 1.0},
        {"has_more": 0.0, "accuracy": 1.0},
        {"has_more": 0.0, "accuracy": 0.0},
    ]
    assert [len(ids) for ids in played.prompt_ids] == [7, 7, 7], "what was shared is prompt"
    assert played.mask == [[1, 1, 0, 0, 1, 1], [1, 1], [1, 1]]


def test_a_turn_that_would_end_the_episode_is_not_shared(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, done = write("add", item="tea"), write(answer="done")
    Script(monkeypatch, {0: [add], 1: [done, add, done], 2: [done]})
    played = play(tiny_base, make(), 3, branch_after=2)
    assert [parts["has_more"] for parts in played.parts] == [0.0, 1.0, 0.0]
    assert [len(ids) for ids in played.prompt_ids] == [7, 7, 7]


def test_users_speak_in_training(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, done = write("add", item="tea"), write(answer="done")
    Script(monkeypatch, {0: [done], 1: [add], 2: [done]})
    played = play(tiny_base, make(user=lambda task: ScriptedUser(["More tea, please."])), 2)
    assert [parts["accuracy"] for parts in played.parts] == [1.0, 1.0], "the last answer alone"
    assert [parts["has_more"] for parts in played.parts] == [1.0, 1.0]
    assert played.mask[0] == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1], "the user's words are not learned"


def test_the_native_adapter_records_states_and_refuses_users() -> None:
    world = trl_environment(make())
    assert [f.__name__ for f in world.reward_funcs] == ["has_more", "accuracy"]
    first, second = (world.environment_factory() for _ in range(2))  # type: ignore[operator]
    for episode, amount in ((first, 1), (second, 5)):
        episode.reset(task="t2")
        episode.add(item="tea", amount=amount)
    completion = [
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "add", "arguments": {"item": "tea", "amount": 5}}}]},
        {"role": "tool", "name": "add", "content": "7 tea"},
        {"role": "assistant", "content": "Answer: done"},
    ]  # fmt: skip
    (value,) = world.reward_funcs[0](
        prompts=[world.rows[2]["prompt"]], completions=[completion], environments=[second]
    )
    assert value == 1.0
    record = second.trajectory
    assert record.state == {"cart": {"tea": 7}, "log": ["tea"]}
    assert record.state_after(0) == {"cart": {"tea": 2}, "log": []}
    with pytest.raises(BadInputError, match="a user speaks again"):
        trl_environment(make(user=lambda task: ScriptedUser(["More."])))
