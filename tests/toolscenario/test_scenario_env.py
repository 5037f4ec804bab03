"""``ToolScenario-v0``: tools by task, both formats, services, policies, the bundled sample."""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from toolgym import evaluate, rollout
from toolgym._util.jsonl import read_rows, write_rows
from toolgym.env import ToolEnv
from toolgym.envs.toolscenario.compiler.checking import check_file
from toolgym.envs.toolscenario.environment import scenario_file
from toolgym.envs.toolscenario.files import open_scenarios, read_scenarios
from toolgym.envs.toolscenario.policies import (
    NoCallPolicy,
    OraclePolicy,
    RandomCallPolicy,
    SpamPolicy,
)
from toolgym.envs.toolscenario.records import OWN, PublicScenario, to_own, to_public
from toolgym.envs.toolscenario.tool import make_tools
from toolgym.errors import BadInputError, MissingFileError, RunMismatchError, UnknownNameError
from toolgym.messages import ToolCall
from toolgym.policies.base import Policy
from toolgym.scenario import SHAPES, Scenario
from toolgym.task import SubAnswer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs seccomp")

ID = "ToolScenario-v0"
KNOWN = '{"capital": "Doltha"}'

# As released sets may be: documents bare or wrapped, imports and helpers, a text for a list.
PUBLIC: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the capital of Arvenia, and its area?"}],
    "tools": json.dumps(
        [
            {
                "type": "function",
                "function": {
                    "name": "get_capital",
                    "description": "Capital of a country.",
                    "parameters": {
                        "type": "object",
                        "properties": {"country": {"type": "string"}},
                        "required": ["country"],
                    },
                    "strict": True,
                },
            },
            {
                "name": "get-area",
                "description": "Area of a country.",
                "parameters": {"type": "dict", "properties": {"country": {"type": "string"}}},
            },
            {"name": "nothing"},
        ]
    ),
    "codes": json.dumps(
        {
            "get_capital": "import json\nfrom typing import Optional\n\ndef helper(text):\n"
            "    return text.strip().lower()\n\ndef get_capital(country):\n"
            "    if helper(country) == 'arvenia':\n        return {'capital': 'Doltha'}\n"
            "    return {'error': 'unknown country'}",
            "get-area": "def get_area(country):\n    return 'It has 120 km2.'",
        }
    ),
    "unsolved_set": json.dumps({"get_capital": ["Doltha"], "get-area": "120"}),
    "answer": "Doltha, 120",
    "data_source": "released",
    "split": "valid",
    "solve_rate": 0.25,
    "extra": {"kept": [1, 2.50, None, "ü"]},
}


def unwrapped(env: gym.Env) -> ToolEnv:
    made = env.unwrapped
    assert isinstance(made, ToolEnv)
    return made


@pytest.fixture(scope="module")
def sample() -> list[Scenario]:
    return [s for _, s in read_scenarios(scenario_file("sample")) if isinstance(s, Scenario)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, sample: list[Scenario]) -> Path:
    """Two scenarios of each shape."""
    path = tmp_path_factory.mktemp("scenarios") / "small.jsonl"
    chosen = [s for shape in SHAPES for s in [s for s in sample if s.shape == shape][:2]]
    write_rows(path, [scenario.to_row() for scenario in chosen])
    return path


@pytest.fixture
def public(tmp_path: Path) -> Path:
    path = tmp_path / "public.jsonl"
    write_rows(path, [PUBLIC])
    return path


def test_the_sample_holds_all_shapes_and_levels(sample: list[Scenario]) -> None:
    assert len(sample) >= 50
    assert set(Counter(scenario.shape for scenario in sample)) == set(SHAPES)
    for strategy in type(sample[0].levels).model_fields:
        assert {getattr(scenario.levels, strategy) for scenario in sample} == {0, 1, 2, 3}


@pytest.mark.slow
def test_the_sample_is_verified() -> None:
    assert not [finding for finding in check_file(scenario_file("sample")) if finding.reason]


def test_the_environment_shows_each_task_its_own_tools(sample: list[Scenario]) -> None:
    env = unwrapped(gym.make(ID))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*render.*")
        check_env(env)
    for number in (0, 1):
        _, info = env.reset(options={"task": number})
        names = [tool["function"]["name"] for tool in info["tools"]]
        assert names == [document.name for document in sample[number].documents]
        assert env.trajectory.tools == info["tools"]
    metadata = env.trajectory.task.metadata
    assert metadata["shape"] == sample[1].shape
    assert metadata["complexity"] == sample[1].levels.total
    assert [entry["answer"] for entry in metadata["sub_answers"]] == [
        item.answer for item in sample[1].sub_questions
    ]


def test_sources_are_not_recorded(small: Path) -> None:
    run = rollout(ID, f"scenario-oracle:{small}", env_args={"tasks": str(small)}, episodes=2)
    for trajectory in run:
        assert "def " not in json.dumps(trajectory.to_row()["task"])
        assert len(trajectory.task.metadata["tools_hash"]) == 64


@pytest.mark.parametrize("format", ["hermes", "tags"])
@pytest.mark.parametrize("parallel", [True, False])
def test_the_oracle_solves_everything(format: str, parallel: bool, small: Path) -> None:
    run = rollout(
        ID,
        OraclePolicy(str(small), parallel=parallel),
        env_args={"tasks": str(small), "format": format},
    )
    report = evaluate(run)
    assert report["Solve-F1"].value == 1.0
    assert report["accuracy"].value == 1.0
    turns = {t.task.metadata["shape"]: len(t.steps) for t in run}
    assert turns["parallel single-hop"] == 2 if parallel else turns["parallel single-hop"] > 2
    assert all(t.terminated for t in run)


@pytest.mark.parametrize(
    ("policy", "most"),
    [(RandomCallPolicy(2), 0.6), (NoCallPolicy(), 0.0), (SpamPolicy(1, 6), 0.6)],
    ids=["random", "no-call", "spam"],
)
def test_lazy_and_greedy_policies_get_little(policy: Policy, most: float, small: Path) -> None:
    first, second = (
        rollout(ID, policy, env_args={"tasks": str(small)}, seed=3, episodes=4) for _ in "12"
    )
    report = evaluate(first)
    assert report["Solve-F1"].value is not None
    assert report["Solve-F1"].value <= most
    assert report["accuracy"].value == 0.0
    for one, other in zip(first, second, strict=True):
        assert one.messages == other.messages


def test_a_file_of_the_published_format_plays_as_it_is(public: Path) -> None:
    env = unwrapped(gym.make(ID, tasks=str(public), split="validation"))
    _, info = env.reset()
    assert [tool["function"]["name"] for tool in info["tools"]] == [
        *("get_capital", "get-area", "nothing")
    ]
    call = '<tool_call>\n{{"name": "{}", "arguments": {{"country": "Arvenia"}}}}\n</tool_call>\n'
    text, reward, *_ = env.step(call.format("get_capital") + call.format("get-area"))
    assert KNOWN in text
    assert "It has 120 km2." in text
    assert reward == 1.0
    *_, info = env.step('<tool_call>\n{"name": "nothing", "arguments": {}}\n</tool_call>')
    assert info["tool_errors"] == ["bug"]


def test_a_released_row_comes_back_without_loss(public: Path, tmp_path: Path) -> None:
    ((_, scenario),) = read_scenarios(public)
    assert isinstance(scenario, PublicScenario)
    write_rows(tmp_path / "again.jsonl", [scenario.to_row()])
    assert (tmp_path / "again.jsonl").read_bytes() == public.read_bytes()
    assert scenario.sub_answers == [
        SubAnswer("s1", "get_capital", "Doltha"),
        SubAnswer("s2", "get-area", "120"),
    ]
    with pytest.raises(BadInputError, match="neither sub-questions nor reference calls"):
        to_own(scenario)


def test_our_scenarios_survive_the_published_format(sample: list[Scenario]) -> None:
    for scenario in sample[:8]:
        public = to_public(scenario)
        row = json.loads(json.dumps(public.row))
        again = PublicScenario.from_row(row, "x")
        assert to_own(again) == scenario
        plain = PublicScenario.from_row({k: v for k, v in row.items() if k != OWN}, "x")
        assert sorted((e.tool, e.answer) for e in plain.sub_answers) == sorted(
            (call.tool, item.answer)
            for call, item in zip(scenario.calls, scenario.sub_questions, strict=True)
        )
        assert plain.functions == scenario.functions


TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(TEXT, JSON, max_size=4),
    st.dictionaries(TEXT, st.lists(TEXT, max_size=3) | TEXT, max_size=3),
    st.booleans(),
)
def test_unknown_fields_and_odd_values_are_kept(
    extra: dict[str, Any], unsolved: dict[str, Any], inside: bool
) -> None:
    plain = {key: value for key, value in extra.items() if key not in PUBLIC and key != OWN}
    row = PUBLIC | plain | {"unsolved_set": json.dumps(unsolved) if inside else unsolved}
    again = PublicScenario.from_row(json.loads(json.dumps(row)), "line-1")
    assert json.dumps(again.to_row()) == json.dumps(row)
    count = sum(len(v) if isinstance(v, list) else 1 for v in unsolved.values())
    assert len(again.sub_answers) == count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tools": "[broken"}, "field 'tools' is not JSON"),
        ({"tools": "[]"}, "'tools' must be a list with an entry"),
        ({"codes": "[]"}, "'codes' must be names to sources"),
        ({"messages": []}, "'messages' must be a list with an entry"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no question of a user"),
        ({"answer": None}, "'answer' must be a text"),
        ({"unsolved_set": "3"}, "'unsolved_set' must be names"),
        ({OWN: "{}"}, "holds no scenario of ours"),
    ],
)
def test_a_broken_released_row_is_one_clear_line(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_rows(tmp_path / "bad.jsonl", [PUBLIC, PUBLIC | change])
    with pytest.raises(BadInputError, match=f"line 2: .*{message}") as caught:
        gym.make(ID, tasks=str(tmp_path / "bad.jsonl"))
    assert "\n" not in str(caught.value)


def test_arguments_are_checked_before_the_function_runs(public: Path) -> None:
    item = next(iter(open_scenarios(public).values()))
    tools = make_tools(item.documents, item.functions)

    def said(name: str, **arguments: Any) -> tuple[str, str | None]:
        (result,) = tools.execute([ToolCall("call_0", name, arguments)])
        return result.content, result.error

    assert said("get_capital", country="Arvenia") == (KNOWN, None)
    text, kind = said("get_capital", contry="Arvenia")
    assert kind == "invalid_arguments"
    assert "'country' is missing" in text
    assert "did you mean 'country'" in text
    text, kind = said("get_capital", country=7)
    assert kind == "invalid_arguments"
    assert "'country' must be of type string, not 7" in text
    assert said("get_capitol")[1] == "unknown_tool"


def test_the_paper_gives_arguments_to_the_function_as_they_are(tmp_path: Path) -> None:
    source = "def get_capital(country='Arvenia'):\n    return 'got ' + str(country)"
    path = tmp_path / "default.jsonl"
    write_rows(path, [PUBLIC | {"codes": json.dumps({"get_capital": source})}])

    def said(mode: str | None, arguments: dict[str, Any]) -> str:
        env = unwrapped(gym.make(ID, tasks=str(path), preset=mode))
        env.reset()
        call = json.dumps({"name": "get_capital", "arguments": arguments})
        return env.step(f"<tool_call>\n{call}\n</tool_call>")[0]

    for mode in ("paper", None):  # the default for a row that others wrote
        assert "got Arvenia" in said(mode, {})
        assert "got 7" in said(mode, {"country": 7})
        assert "unexpected keyword" in said(mode, {"contry": "x"})
    assert "'country' is missing" in said("ours", {})
    assert "must be of type string" in said("ours", {"country": 7})
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        gym.make(ID, tasks=str(path), preset="papers")


def test_endless_functions_are_ended_and_the_episode_goes_on(tmp_path: Path) -> None:
    codes = {"get_capital": "def get_capital(country):\n    while True: pass"}
    path = tmp_path / "endless.jsonl"
    write_rows(path, [PUBLIC | {"codes": json.dumps(codes)}])
    env = unwrapped(gym.make(ID, tasks=str(path), sandbox={"timeout": 0.2}))
    env.reset()
    call = '<tool_call>\n{"name": "get_capital", "arguments": {"country": "x"}}\n</tool_call>\n'
    _, _, terminated, truncated, info = env.step(call * 3)
    assert info["tool_errors"] == ["timeout"] * 3
    assert not terminated
    assert not truncated


def test_a_cassette_replays_without_running_a_function(small: Path, tmp_path: Path) -> None:
    cassette = str(tmp_path / "calls.jsonl")
    args = {"tasks": str(small), "service": {"cassette": cassette, "mode": "record"}}
    first = rollout(ID, f"scenario-oracle:{small}", env_args=args, seed=1)
    args["service"] = {"cassette": cassette, "mode": "replay"}
    second = rollout(ID, f"scenario-oracle:{small}", env_args=args, seed=1)
    for one, other in zip(first.trajectories(), second.trajectories(), strict=True):
        assert one.messages == other.messages
        assert one.reward == other.reward
    with pytest.raises(RunMismatchError, match="begun with data"):
        gym.make(ID, tasks="sample", service=args["service"])


def test_injected_faults_reach_scenario_tools(small: Path) -> None:
    service = {"faults": {"tool_error": 1.0}}
    run = rollout(
        ID, f"scenario-oracle:{small}", env_args={"tasks": str(small), "service": service}
    )
    kinds = {result.error for trajectory in run for _, result in trajectory.calls}
    assert kinds == {"injected_tool_error"}


def test_a_vector_plays_several_scenarios_at_once(small: Path, sample: list[Scenario]) -> None:
    envs = gym.make_vec(ID, num_envs=4, tasks=str(small))
    _, infos = envs.reset(seed=[1, 2, 3, 4])
    by_id = {scenario.id: scenario for scenario in sample}
    replies = []
    for name in infos["task_id"]:
        call = by_id[name].calls[0]
        body = json.dumps({"name": call.tool, "arguments": call.arguments})
        replies.append(f"<tool_call>\n{body}\n</tool_call>")
    texts, rewards, *_ = envs.step(replies)
    assert all("tool_response" in text for text in texts)
    assert all(reward > 0 for reward in rewards)
    envs.close()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tasks": "smal.jsonl"}, MissingFileError, "did you mean 'small.jsonl'"),
        ({"tasks": "nowhere"}, MissingFileError, "neither 'sample' nor the path"),
        ({"tasks": "hub"}, MissingFileError, "download the published set"),
        ({"task": "x"}, BadInputError, "no argument 'task'.*did you mean 'tasks'"),
        ({"split": "dev"}, BadInputError, "split 'dev' is empty"),
        ({"tools": ["add"]}, BadInputError, r"brings its own tools.*\[\] \(none\), not \['add'\]"),
        ({"sandbox": {"timout": 1}}, BadInputError, "no setting 'timout'.*did you mean 'timeout'"),
        ({"sandbox": {"timeout": "1"}}, BadInputError, "timeout of the sandbox must be a number"),
        ({"sandbox": {"rules": 1}}, BadInputError, "rules of the sandbox is true or false"),
        ({"sandbox": []}, BadInputError, "must be a mapping"),
        ({"sandbox": {"require": "seccomp"}}, BadInputError, "must be a list of layers"),
    ],
)
def test_wrong_arguments_are_one_clear_line(
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(small.parent)
    with pytest.raises(error, match=message):
        gym.make(ID, **arguments)


def test_without_tools_a_policy_is_alone(small: Path) -> None:
    env = gym.make(ID, tasks=str(small), tools=[], prompt="bare", format="react")
    _, info = env.reset(seed=0)
    assert info["tools"] == []
    observation, reward, *_ = env.step("Action: get_weather[Paris]")
    assert "get_weather does not exist" in observation
    assert reward == 0


def test_a_file_that_changes_while_it_is_played_is_noticed(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "changing.jsonl"
    path.write_bytes(small.read_bytes())
    opened = open_scenarios(path)
    assert open_scenarios(path) is opened
    rows = [row for _, row in read_rows(path)]
    assert opened[rows[0]["id"]].functions == rows[0]["functions"]
    write_rows(path, rows[::-1])
    with pytest.raises(BadInputError, match="was changed while it was played: line 1"):
        opened[rows[0]["id"]]
    assert open_scenarios(path).tasks[0].id == rows[-1]["id"]


def test_files_that_hold_no_scenarios(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for text, message in (
        ("", "is empty"),
        ('{"question": "6*7?", "answers": ["42"]}\n', "line 1: it is not a scenario"),
        ("not json\n", "line 1: not valid JSON"),
        ('{"functions": {}, "sub_questions": [], "schema": 2}\n', "schema 2 is not 1"),
        ('{"functions": {}, "sub_questions": [], "schema": 1}\n', "field 'id': Field required"),
    ):
        path.write_text(text)
        with pytest.raises(BadInputError, match=message) as caught:
            open_scenarios(path)
        assert "\n" not in str(caught.value)
    row = next(row for _, row in read_rows(scenario_file("sample")))
    write_rows(path, [row, row])
    with pytest.raises(BadInputError, match=r"line 2: id .* stands twice"):
        open_scenarios(path)
