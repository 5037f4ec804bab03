"""The reader of recordings: what is read, in which order, and what is refused by its line."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym import Run, evaluate, export, rollout, score, select
from toolgym._util.jsonl import dump_line, write_json
from toolgym._util.spool import Spool
from toolgym.errors import BadInputError, MissingFileError
from toolgym.messages import Message
from toolgym.rollouts.recording import open_recording, read_recording
from toolgym.rollouts.runs import episode_seed
from toolgym.rollouts.writing import RunWriter
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory, reading

ENV, SEED, SAMPLES, PLANNED = "ToolQA-GSM8K-v0", 3, 2, 40


def episode(number: int, sample: int = 0, **changes: Any) -> Trajectory:
    made = Trajectory(
        Task(f"t{number}", "6*7?", ("42",)),
        messages=[Message("user", "6*7?"), Message("assistant", "Answer: 42")],
        steps=[Step("Answer: 42", answer="42", reward=1.0, reward_parts={"accuracy": 1.0})],
        env_id=ENV,
        format="react",
        terminated=True,
        sample=sample,
    )
    made.seed = episode_seed(SEED, made.id)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def line(trajectory: Trajectory) -> bytes:
    return dump_line(trajectory.to_row()).encode()


def run_folder(folder: Path, content: bytes, **changes: Any) -> Path:
    settings = {"env": {"id": ENV}, "episodes": PLANNED, "seed": SEED, "samples_per_task": SAMPLES}
    write_json(folder / "run.json", settings | changes)
    (folder / "trajectories.jsonl").write_bytes(content)
    return folder


def ids(source: Any) -> list[str]:
    return [trajectory.id for trajectory in open_recording(source)]


KEYS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1)), unique=True, max_size=20)


@given(keys=KEYS, data=st.data())
@settings(deadline=None)
def test_a_run_is_its_whole_lines_once_each_in_one_order(
    tmp_path_factory: pytest.TempPathFactory, keys: list[tuple[int, int]], data: st.DataObject
) -> None:
    lines = [line(episode(*key)) for key in keys]
    again = data.draw(st.lists(st.sampled_from(lines), max_size=4)) if lines else []
    blank = data.draw(st.lists(st.sampled_from([b"\n", b"  \n"]), max_size=3))
    shuffled = data.draw(st.permutations([*lines, *again, *blank]))
    half = data.draw(st.integers(0, 200))
    content = b"".join(shuffled) + line(episode(99))[:half]
    folder = run_folder(tmp_path_factory.mktemp("run"), content)
    expected = [episode(*key).id for key in sorted(keys, key=lambda key: (f"t{key[0]}", key[1]))]
    assert ids(folder) == ids(str(folder / "trajectories.jsonl")) == expected
    run = Run.open(folder)
    assert len(run) == len(run.trajectories()) == len(expected)
    assert [t.to_row() for t in run] == [t.to_row() for t in read_all(folder)]


def read_all(folder: Path) -> list[Trajectory]:
    return list(open_recording(folder))


def changed(**values: Any) -> Callable[[], bytes]:
    return lambda: line(episode(7, **values))


def with_row(**values: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        row = episode(7).to_row() | values
        return (json.dumps({k: v for k, v in row.items() if v is not ...}) + "\n").encode()

    return make


def with_step(**values: Any) -> Callable[[], bytes]:
    return with_row(steps=[episode(7).to_row()["steps"][0] | values])


@contextmanager
def refused(file: Path, number: int, why: str) -> Iterator[None]:
    with pytest.raises(BadInputError) as caught:
        yield
    message = str(caught.value)
    assert f"{str(file)!r}, line {number}: " in message
    assert why in message
    assert "\n" not in message


# What no reader takes, and what no run takes; each as the line and what is said of it.
NOWHERE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nan reward": (with_step(reward=float("nan")), "NaN is not a JSON number"),
    "nan part": (with_step(reward_parts={"a": float("nan")}), "NaN is not a JSON number"),
    "infinite sum": (with_row(reward=float("inf")), "Infinity is not a JSON number"),
    "nan metric": (with_row(metrics={"a": float("-inf")}), "-Infinity is not a JSON number"),
    "nan argument": (
        with_step(calls=[{"id": "c", "name": "f", "arguments": {"k": float("nan")}}]),
        "NaN is not a JSON number",
    ),
    "literal": (lambda: line(episode(7)).replace(b"1.0", b"1e999", 1), "1e999, which is infinite"),
    "digits": (
        lambda: line(episode(7)).replace(b"1.0", b"9" * 400 + b".0", 1),
        "which is infinite",
    ),
    "reward as text": (with_step(reward="1"), "reward is '1', not a number"),
    "no reward": (with_step(reward=None), "reward is None, not a number"),
    "part as text": (with_step(reward_parts={"f1": "x"}), "f1 is 'x', not a number"),
    "no id": (with_row(id=...), "not None; remove the line"),
    "other id": (with_row(id="t8#0"), "here 't7#0', not 't8#0'"),
    "id as number": (with_row(id=7), "'task#sample', "),
    "no json": (lambda: b"{oops}\n", "not valid JSON"),
    "half a line": (lambda: line(episode(7))[:90] + b"\n", "not valid JSON"),
    "glued": (lambda: line(episode(7))[:90] + line(episode(8)), "not valid JSON"),
    "no trajectory": (with_row(steps=...), "not a trajectory row"),
    "array": (lambda: b"[1]\n", "a JSON object is needed"),
    "schema": (with_row(schema=77), "schema 77"),
}
FOREIGN: dict[str, tuple[Callable[[], bytes], str]] = {
    "environment": (changed(env_id="ToolQA-PopQA-v0"), "played in 'ToolQA-PopQA-v0', not in"),
    "seed": (changed(seed=5), "played with another seed"),
    "sample": (
        lambda: line(episode(7, 9)),
        "'t7#9' is not one of 2 samples of its task",
    ),
    "other record": (
        lambda: line(episode(0, terminated=False)),
        "line 1 is another record of 't0#0'",
    ),
}


@pytest.mark.parametrize("kind", [*NOWHERE, *FOREIGN])
@pytest.mark.parametrize("place", [2, 4])
def test_a_line_that_does_not_belong_there_is_named(tmp_path: Path, kind: str, place: int) -> None:
    make, why = (NOWHERE | FOREIGN)[kind]
    lines = [line(episode(n)) for n in range(3)]
    lines.insert(place - 1, make())
    folder = run_folder(tmp_path / "run", b"".join(lines))
    file = folder / "trajectories.jsonl"
    readers: list[Callable[[Any], Any]] = [
        lambda source: evaluate(source),
        lambda source: score(source, {"a": "accuracy"}),
        lambda source: select(source),
        lambda source: export(source, "prefixes"),
        lambda source: list(Run.open(source)),
    ]
    for read in readers:
        with refused(file, place, why):
            read(folder)
    with refused(file, place, why):
        ids(str(file))
    loose = tmp_path / "loose.jsonl"
    loose.write_bytes(file.read_bytes())
    if kind in NOWHERE:
        with refused(loose, place, why):
            ids(loose)
    else:  # a file of several runs is nobody's
        assert len(ids(loose)) == 4


def test_one_episode_more_than_the_run_was_to_have(tmp_path: Path) -> None:
    lines = [line(episode(n)) for n in range(PLANNED)]
    folder = run_folder(tmp_path, b"".join([*lines, *lines]))
    assert len(ids(folder)) == evaluate(folder).episodes == PLANNED
    run_folder(tmp_path, b"".join([*lines, lines[3], line(episode(77))]))
    with refused(folder / "trajectories.jsonl", 42, "it has 40 episodes without 't77#0'"):
        evaluate(folder)
    settings = json.loads((folder / "run.json").read_text())
    with refused(folder / "trajectories.jsonl", 42, "it has 40 episodes without 't77#0'"):
        RunWriter(Run(settings | {"episodes": 50}, folder))
    assert json.loads((folder / "run.json").read_text()) == settings


def test_a_resume_refuses_a_poisoned_folder_and_then_goes_on(tmp_path: Path) -> None:
    run = rollout(ENV, "lookup", episodes=4, seed=SEED, out=tmp_path / "run")
    file, whole = tmp_path / "run" / "trajectories.jsonl", [t.id for t in run]
    good = file.read_bytes()
    row = json.loads(good.splitlines()[0])
    other = row["task"] | {"id": "other"}
    for bad in (
        {"no": "id"},
        row | {"terminated": None},
        row | {"id": "other#0", "task": other},
        row | {"id": "other#0", "task": other, "env_id": "ToolQA-PopQA-v0", "seed": None},
    ):
        file.write_bytes(good[: good.index(b"\n") + 1] + (json.dumps(bad) + "\n").encode())
        with refused(file, 2, "remove the line"):
            rollout(ENV, "lookup", episodes=4, seed=SEED, out=tmp_path / "run")
    file.write_bytes(good[:-9])
    assert [t.id for t in rollout(ENV, "lookup", episodes=4, seed=SEED, out=tmp_path / "run")] == (
        whole
    )


def test_fewer_episodes_than_before_keep_what_is_there(tmp_path: Path) -> None:
    args: dict[str, Any] = {"seed": SEED, "out": tmp_path / "run"}
    assert len(rollout(ENV, "lookup", episodes=5, **args)) == 5
    assert len(rollout(ENV, "lookup", episodes=3, **args)) == 5
    assert len(rollout(ENV, "lookup", episodes=6, **args)) == 6


class Mine:
    """An object of a user's own."""

    settings = {"task_source": "mine"}  # noqa: RUF012

    def trajectories(self) -> list[Trajectory]:
        return [episode(1), episode(2)]


def test_whatever_a_user_means_by_a_run_is_read_the_same_way(tmp_path: Path) -> None:
    made = [episode(1), episode(2)]
    folder = run_folder(tmp_path / "run", b"".join(map(line, made)))
    chosen = select(folder, where=None, dedupe=None)
    chosen.write(tmp_path / "right")
    chosen.write(tmp_path / "right.jsonl")
    sources: list[Any] = [
        made,
        iter(made),
        (t for t in made),
        Run.open(folder),
        folder,
        str(folder),
        folder / "trajectories.jsonl",
        chosen,
        tmp_path / "right",
        tmp_path / "right.jsonl",
        Mine(),
        [folder],
    ]
    for source in sources:
        assert [t.to_row() for t in read_recording(source)[0]] == [t.to_row() for t in made]
    assert ids([folder, tmp_path / "right", Mine()]) == ["t1#0", "t2#0"] * 3
    assert read_recording(Mine())[1] == {"task_source": "mine"}
    origin = read_recording(tmp_path / "right")[1]
    assert origin["selection"]["kept"] == 2
    assert origin["env"] == {"id": ENV}
    again = open_recording(folder)
    assert list(again) == list(again)


def test_a_selection_does_not_replace_a_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", line(episode(1)))
    with pytest.raises(BadInputError, match="is a run, whose episodes a selection would replace"):
        select(folder).write(folder)
    assert ids(folder) == ["t1#0"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: path / "nothing", MissingFileError, "does not exist"),
        (lambda path: path / "n.jsonl", MissingFileError, "'.*n.jsonl' does not exist"),
        (lambda path: path, MissingFileError, r"holds no run\.json"),
        (lambda _: [], BadInputError, "no finished episode: play some"),
        (lambda _: 5, BadInputError, "runs, paths or trajectories are needed, not int: 5"),
        (lambda _: [episode(1), "x"], BadInputError, "not str: 'x'"),
        (lambda _: [{"id": 1}], BadInputError, "not dict"),
        (lambda _: episode(1), BadInputError, r"not a single one: \[trajectory\]"),
    ],
)
def test_what_is_no_recording_is_one_line(
    tmp_path: Path, make: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_recording(make(tmp_path))


def test_a_run_is_read_without_being_held(tmp_path: Path) -> None:
    big = Step("Answer: 1", answer="1", observation="x" * 200_000, reward=1.0)
    content = b"".join(line(episode(n, steps=[big])) for n in range(40))
    folder = run_folder(tmp_path, content)
    select(folder, where="calls>=1 ", may_be_empty=True)  # what is loaded once is loaded now
    tracemalloc.start()
    assert sum(1 for _ in open_recording(folder)) == 40
    assert next(iter(Run.open(folder))).id == "t0#0"
    assert select(folder, where="calls>=1", may_be_empty=True).total == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(content) / 4


KINDS: list[dict[str, Any]] = [
    {"kind": "sft"},
    {"kind": "prefixes"},
    {"kind": "dpo", "pairing": "right_wrong"},
    {"kind": "dpo", "pairing": "first_divergence", "per_task": 1},
]


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_rows_on_disk_are_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = mixed_run(tmp_path / "run")
    export(source, **KINDS[number], out=tmp_path / "held")
    monkeypatch.setattr(Spool.__init__, "__defaults__", (2,))
    monkeypatch.setattr(reading, "MOST_HELD", 2)
    made = export(source, **KINDS[number], out=tmp_path / "spooled")
    assert "on disk" in repr(made.rows)
    assert files(tmp_path / "spooled") == files(tmp_path / "held")
    monkeypatch.undo()
    in_memory = export(list(Run.open(source)), **KINDS[number])
    assert list(in_memory) == list(made)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"best_of": 1, "by": "reply_words"},
        {"per_task": 1, "seed": 4},
        {"best_of": 2, "per_task": 1, "dedupe": None, "where": "reward>=0"},
    ],
)
def test_kept_episodes_on_disk_are_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    source = mixed_run(tmp_path / "run")
    held = select(source, **options)
    held.write(tmp_path / "held")
    monkeypatch.setattr(reading, "MOST_HELD", 2)
    spooled = select(source, **options)
    spooled.write(tmp_path / "spooled")
    assert "on disk" in repr(spooled.kept)
    assert files(tmp_path / "spooled") == files(tmp_path / "held")
    assert list(spooled.trajectories()) == list(held.trajectories())
    assert spooled.summary() == held.summary()
    assert list(export(spooled)) == list(export(held))


def mixed_run(folder: Path) -> Path:
    """Two samples a task, one right and one wrong in every other task."""
    trajectories = []
    for number in range(10):
        for sample in range(2):
            right = not sample or number % 2
            said = f"Answer: {42 if right else 41}"
            said = said if number != 3 else "Answer: 42"  # the same text twice
            step = Step(said, answer=said[8:], reward=float(right), reward_parts={})
            messages = [Message("user", f"6*7? ({number})"), Message("assistant", said)]
            trajectories.append(episode(number, sample, steps=[step], messages=messages))
    return run_folder(folder, b"".join(map(line, reversed(trajectories))))


def test_alike_episodes_are_held_once_in_figures(tmp_path: Path) -> None:
    source = mixed_run(tmp_path / "run")
    whole = list(Run.open(source))
    for number, trajectory in enumerate(whole):  # columns of their own, by sample
        trajectory.task.metadata.update(levels={"a": number % 3}, other="x" * number)
    found = evaluate(whole, by=["levels.a", "other"])
    assert [group.episodes for group in found.groups["levels.a"].groups] == [7, 7, 6]
    assert sum(group.episodes for group in found.groups["other"].groups) == 20
    with pytest.raises(BadInputError, match=r"no task has a column 'lewels'.*'levels'"):
        evaluate(whole, by=["lewels"])


def test_a_run_that_is_put_in_order_meanwhile_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line(episode(number)) for number in range(9)]
    folder = run_folder(tmp_path / "run", b"".join(reversed(lines)))
    own = Run.lines

    def while_it_is_replaced(run: Run) -> Any:
        monkeypatch.setattr(Run, "lines", own)
        found = own(run)
        writer = RunWriter(Run(dict(run.settings), folder))
        writer.settle(lambda key: int(key[0][1:]))
        writer.close()
        return found

    monkeypatch.setattr(Run, "lines", while_it_is_replaced)
    assert ids(folder) == [f"t{number}#0" for number in range(9)]
    assert (folder / "trajectories.jsonl").read_bytes() == b"".join(lines)
