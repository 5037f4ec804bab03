"""The reward lab: ranks against scipy, flips by hand, the bundled runs, the page."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from typer.testing import CliRunner

from toolgym import Task, Trajectory, ablate, rollout, sample_run, score
from toolgym.cli import app
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.evaluation.ablation_figures import advantages
from toolgym.evaluation.ranks import area, area_by_group, inversions, kendall, levels, spearman
from toolgym.rollouts.samples import SAMPLES
from toolgym.trajectory import Step

FEW = st.integers(-3, 3).map(float)
MANY = st.floats(-1e6, 1e6, allow_nan=False)
PAIRS = st.lists(st.tuples(FEW, MANY) | st.tuples(FEW, FEW), min_size=2, max_size=60)


@given(PAIRS)
def test_ranks_are_scipys(pairs: list[tuple[float, float]]) -> None:
    x, y = map(np.array, zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert spearman(x, y) is kendall(x, y) is None
        return
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_ranks_of_many_values_are_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=30_000)
    y = np.round(x + rng.normal(size=30_000), 1)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


@given(st.lists(st.integers(0, 9), max_size=40))
def test_inversions_are_those_that_counting_finds(values: list[int]) -> None:
    counted = sum(a > b for a, b in itertools.combinations(values, 2))
    assert inversions(np.array(values, np.int64)) == counted


@given(st.lists(st.tuples(FEW, st.booleans()), min_size=2, max_size=40))
def test_area_is_the_u_of_mann_and_whitney(rows: list[tuple[float, bool]]) -> None:
    values, right = np.array([v for v, _ in rows]), np.array([r for _, r in rows])
    assume(0 < right.sum() < len(right))
    u = stats.mannwhitneyu(values[right], values[~right]).statistic
    assert area(values, right) == pytest.approx(u / (right.sum() * (~right).sum()))


def test_the_interval_of_the_area_is_that_of_resampled_tasks() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(150), 6)
    right = rng.random(900) < np.repeat(rng.beta(1, 1, 150), 6)
    values = np.round(right + np.repeat(rng.normal(size=150), 6) + rng.normal(size=900), 1)
    found = area_by_group(values, right, groups)
    members = np.arange(900).reshape(150, 6)
    drawn = [members[rng.integers(150, size=150)].ravel() for _ in range(1000)]
    areas = [area(values[places], right[places]) for places in drawn]
    low, high = np.quantile(np.array(areas, float), [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.012)
    assert found.high == pytest.approx(high, abs=0.012)


def test_values_that_should_be_equal_share_a_level() -> None:
    assert levels([sum([0.1] * 10), 1.0, 0.0]).tolist() == [1, 1, 0]
    assert levels([1e-12, 2e-12]).tolist() == [0, 1]
    assert levels([0.0, 0.0]).tolist() == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 4), FEW), min_size=1, max_size=40))
def test_advantages_are_those_of_a_loop_over_groups(rows: list[tuple[int, float]]) -> None:
    groups, values = np.array([g for g, _ in rows], np.intp), np.array([v for _, v in rows])
    expected: NDArray[Any] = np.zeros(len(rows))
    for group in set(groups.tolist()):
        own = groups == group
        if own.sum() > 1:
            apart = values[own] - values[own].mean()
            expected[own] = apart / (values[own].std(ddof=1) + 1e-4)
    assert advantages(values, groups) == pytest.approx(expected, abs=1e-9)


def played(task: str, sample: int, answer: str) -> Trajectory:
    steps = [Step(f"Answer: {answer}", answer=answer)]
    return Trajectory(Task(task, "Which?", ("red",)), steps=steps, env_id="E", sample=sample)


def length(task: Task, trajectory: Trajectory) -> list[float]:
    return [float(len((trajectory.answer or "").split()))]


EPISODES = [
    *(played("a", n, answer) for n, answer in enumerate(("red", "so it may be blue or green"))),
    *(played("b", n, answer) for n, answer in enumerate(("red", "blue", "a b c"))),
    *(played("c", n, "red") for n in range(2)),
]


def test_flips_and_the_rest_of_a_recording_that_is_counted_by_hand() -> None:
    lab = ablate(EPISODES, {"right": "accuracy", "long": length}, probes=False)
    assert (lab.episodes, lab.tasks, lab.groups, lab.group) == (7, 3, 3, "task")
    assert lab.right.value == pytest.approx(4 / 7)
    # Task a: +, - against -, +; task b: +, -, - against -, -, +; task c: nothing.
    pair = lab.pair("long", "right")
    assert pair.flips.value == pytest.approx((2 + 2) / 7)
    assert pair.muted == 0
    assert {EPISODES[place].id for place in pair.examples} <= {"a#0", "a#1", "b#0", "b#2"}
    judged = lab["long"]
    assert judged.flat is not None
    assert judged.flat.value == pytest.approx(1 / 3)
    assert judged.misordered is not None
    assert judged.misordered.value == pytest.approx(2 / 3)  # a: 1 of 1; b: 1 of 2
    assert judged.right == 1
    assert lab["right"].agreement.value == 1
    assert judged.bias["answer_words"].overall == pytest.approx(1)
    assert judged.bias["answer_words"].at_equal_truth == pytest.approx(1)
    assert lab["right"].bias["answer_words"].at_equal_truth is None
    assert {look.id for look in lab.look} >= {"a#0", "a#1"}


def test_without_several_samples_the_run_is_the_group() -> None:
    lab = ablate([EPISODES[0], EPISODES[2], EPISODES[3]], ["accuracy"], probes=False)
    assert lab.group == "task"
    lab = ablate([EPISODES[0], EPISODES[3]], ["accuracy"], probes=False)
    assert lab.group == "run"
    assert lab["accuracy"].flat is None
    assert "REINFORCE++" in str(lab)
    assert lab.columns["advantage/accuracy"].tolist() == pytest.approx([0.7070, -0.7070], abs=1e-3)


def test_a_recording_that_shows_nothing_says_so() -> None:
    alike = [played(task, 0, "red") for task in "ab"]
    for group in ("auto", "task", "run"):
        lab = ablate(alike, ["accuracy", "token_f1"], group=group, probes=False)  # type: ignore[arg-type]
        pair = lab.pair("accuracy", "token_f1")
        assert pair.spearman is pair.kendall is lab["accuracy"].agreement.value is None
        assert (pair.flips.value or 0.0) == 0
        assert not lab.look
        assert "Episodes to look at" not in str(lab)
        assert lab.to_html().endswith("</html>\n")


def test_weights_are_varied_as_if_scored_anew() -> None:
    rubric = {"accuracy": 1.0, "execution_precision": 0.5}
    runs = [sample_run(name) for name in SAMPLES]
    lab = ablate(runs, {"both": rubric}, probes=False)
    other = score(runs, {"half": {"accuracy": 0.5, "execution_precision": 0.5}})
    found = next(v for v in lab["both"].weights if (v.part, v.factor) == ("accuracy", 0.5))
    assert found.mean == pytest.approx(other.rows["half"].value)
    assert len(lab["both"].weights) == 6


def test_the_bundled_runs_show_what_they_are_for(tmp_path: Path) -> None:
    rewards = {"ours": "accuracy", "paper": {"accuracy": {"preset": "paper"}}}
    lab = ablate([sample_run(name) for name in SAMPLES], rewards)
    assert (lab.episodes, lab.tasks) == (180, 20)
    flips = lab.pair("ours", "paper").flips
    assert flips.value is not None
    assert flips.value > 0.1
    assert not lab["ours"].fooled_by
    assert "all_candidates" in lab["paper"].fooled_by
    page = lab.write(tmp_path / "page.html").read_text("utf-8")
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert page.count("<svg") == 3
    assert all(look.id in page for look in lab.look)
    text = lab.write(tmp_path / "page.md").read_text("utf-8")
    assert text.startswith("# Rewards compared\n")
    for name in ("means.svg", "ranks.svg", "flips.svg"):
        assert f"]({name})" in text
        assert (tmp_path / name).read_text("utf-8").startswith("<svg")
    assert json.loads(json.dumps(lab.to_dict(), allow_nan=False))["group"] == "task"
    assert lab._repr_html_().count("<table") == 3
    assert len(repr(lab)) < 100


def test_tables_become_frames() -> None:
    pytest.importorskip("pandas")
    lab = ablate(sample_run("spam"), {"a": "accuracy", "b": {"accuracy": 1, "token_f1": 1}})
    frame = lab.to_pandas()
    assert len(frame) == 60
    assert frame["b"].mean() == pytest.approx(lab["b"].mean.value)
    assert list(lab.to_pandas("pairs")["first"]) == ["a"]
    assert len(lab.to_pandas("bias")) == 6
    assert len(lab.to_pandas("weights")) == 6
    assert "mean_low" in lab.to_pandas("rewards")
    with pytest.raises(BadInputError, match="no table 'x'"):
        lab.to_pandas("x")


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    bad = "<script> alert(1) </script>"
    episodes = [played("<b>", 0, bad), played("<b>", 1, "red")]
    lab = ablate(episodes, {"<i>": "accuracy", "long": length}, probes=False)
    for text in (lab.to_html(), lab._repr_html_()):
        assert "<script" not in text
        assert "<i>" not in text
    assert "&lt;script&gt;" in lab.to_html()


@pytest.mark.parametrize(
    ("rewards", "options", "said"),
    [
        ([], {}, "rubrics need names"),
        ("accuracy", {}, "rubrics need names"),
        (["accuracy"], {"truth": "accuracy"}, "cannot be read"),
        (["accuracy"], {"truth": "acuracy>=1"}, "did you mean 'accuracy'"),
        (["accuracy"], {"group": "all"}, "'auto', 'task' or 'run'"),
        (["acuracy"], {}, "did you mean 'accuracy'"),
    ],
)
def test_what_cannot_be_compared_is_said(rewards: Any, options: Any, said: str) -> None:
    with pytest.raises((BadInputError, UnknownNameError), match=said):
        ablate(EPISODES, rewards, **options)


def test_unknown_names_of_a_lab_are_said() -> None:
    lab = ablate(EPISODES, ["accuracy"], probes=False)
    for ask in (lambda: lab["acuracy"], lambda: lab.pair("accuracy", "x")):
        with pytest.raises(UnknownNameError):
            ask()


def test_the_command(tmp_path: Path) -> None:
    runs = [f"sample:{name}" for name in SAMPLES]
    rubric = 'paper:{"accuracy": {"preset": "paper"}}'
    asked = ["ablate", *runs, "--reward", "accuracy", "--rubric", rubric, "--no-probes"]
    page = tmp_path / "lab.html"
    result = CliRunner().invoke(app, [*asked, "--html", str(page)])
    assert result.exit_code == 0, result.output
    assert "accuracy / paper" in result.stdout
    assert page.is_file()
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert [judged["name"] for judged in told["rewards"]] == ["accuracy", "paper"]
    for wrong in (["ablate", runs[0]], ["ablate", runs[0], "--rubric", "x:{"]):
        assert CliRunner().invoke(app, wrong).exit_code != 0


@pytest.mark.parametrize("name", SAMPLES)
def test_bundled_runs_are_what_their_policies_play(name: str) -> None:
    bundled = sample_run(name)
    anew = rollout("ToolQA-PopQA-v0", name, episodes=60, samples_per_task=3, seed=0)
    settings = {key: value for key, value in anew.settings.items() if key != "versions"}
    assert bundled.settings == settings
    for one, other in zip(bundled, anew, strict=True):
        for step in other.steps:
            step.seconds = 0.0
        assert one == other


def test_no_other_run_is_bundled() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'lookup'"):
        sample_run("lokup")
