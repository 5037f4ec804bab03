"""Practice that steers its own tasks: what is chosen, what is made, and a whole run."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym._util.jsonl import read_rows
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.registry import MAKERS
from toolgym.selftrain.curriculum import (
    CurriculumSettings,
    Kind,
    Place,
    Tally,
    TaskMaker,
    choose,
    make_maker,
    named,
    weighted,
)
from toolgym.selftrain.settings import load_settings

PLACES: list[Place] = [("a", str(number)) for number in range(6)]


def tally(right: float, tries: float = 80) -> Tally:
    return Tally(tasks=tries / 8, tries=tries, right=right * tries)


class TestChoose:
    @given(
        st.sampled_from(["bandit", "uniform", "hardest", "fixed"]),
        st.integers(1, 60),
        st.lists(st.floats(0, 1), min_size=6, max_size=6),
        st.integers(0, 2**32),
    )
    def test_as_many_as_wanted_and_the_same_for_a_seed(
        self, way: Any, count: int, rates: list[float], seed: int
    ) -> None:
        known = {place: tally(rate) for place, rate in zip(PLACES, rates, strict=True)}
        settings = CurriculumSettings(choose=way)
        first = choose(PLACES, known, settings, count, random.Random(seed))
        assert sum(first.values()) == count
        assert min(first.values()) > 0
        assert set(first) <= set(PLACES)
        assert first == choose(PLACES, known, settings, count, random.Random(seed))

    def test_the_bandit_goes_where_there_is_something_to_learn(self) -> None:
        rates = [0.0, 0.01, 0.5, 0.6, 0.99, 1.0]
        known = {place: tally(rate) for place, rate in zip(PLACES, rates, strict=True)}
        found = choose(PLACES, known, CurriculumSettings(), 1000, random.Random(0))
        assert found[PLACES[2]] + found[PLACES[3]] > 700
        mastered = found[PLACES[4]] + found[PLACES[5]]
        assert 60 < mastered < 220  # review: a tenth, and what the draws leave
        none = CurriculumSettings(review=0)
        bare = choose(PLACES, known, none, 1000, random.Random(0))
        assert sum(bare.get(place, 0) for place in PLACES[4:]) < 80

    def test_what_nobody_played_is_tried(self) -> None:
        known = {place: tally(0.0) for place in PLACES[:5]}
        found = choose(PLACES, known, CurriculumSettings(), 100, random.Random(0))
        assert found[PLACES[5]] > 50

    def test_hardest_takes_the_quarter_with_the_lowest_rates(self) -> None:
        known = {place: tally(number / 5) for number, place in enumerate(PLACES)}
        settings = CurriculumSettings(choose="hardest")
        assert choose(PLACES, known, settings, 10, random.Random(0)) == {PLACES[0]: 5, PLACES[1]: 5}

    def test_uniform_is_even(self) -> None:
        settings = CurriculumSettings(choose="uniform")
        found = choose(PLACES, {}, settings, 20, random.Random(0))
        assert sorted(found.values()) == [3, 3, 3, 3, 4, 4]

    def test_older_rounds_count_less(self) -> None:
        past = [(1, PLACES[0], Tally(1, 8, 8, 0)), (2, PLACES[0], Tally(1, 8, 0, 1))]
        assert weighted(past, 2) == {PLACES[0]: Tally(1.5, 12, 4, 1)}
        assert weighted(past, 3)[PLACES[0]].tries == 6

    @pytest.mark.parametrize(
        "wrong",
        [
            {"between": [0.9, 0.1]},
            {"groups": 11, "tasks": 10},
            {"choose": "best"},
            {"review": 1},
            {"task": 5},
        ],
    )
    def test_wrong_settings_are_one_line(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(BadInputError) as caught:
            load_settings({"model": "x", "environments": ENVIRONMENTS, "curriculum": wrong})
        assert "\n" not in str(caught.value)
        assert next(iter(wrong)) in str(caught.value)


ENVIRONMENTS = [{"id": "ToolQA-GSM8K-v0", "maker": {"name": "miniature", "part": "arithmetic"}}]


class TestMakers:
    @pytest.mark.parametrize(
        "spec",
        [
            {"name": "miniature", "part": "arithmetic"},
            {"name": "miniature", "part": "entities"},
            {"name": "miniature", "part": "scenarios"},
            {"name": "scenarios", "size": 200},
            "worlds",
        ],
        ids=str,
    )
    def test_the_same_seed_makes_the_same_tasks(self, spec: Any, tmp_path: Path) -> None:
        maker = make_maker(spec)
        kinds = maker.kinds()
        assert len({named(kind) for kind in kinds}) == len(kinds)
        first, second, other = (
            maker.make(kinds[-1], 2, seed, tmp_path / name)
            for seed, name in ((5, "first"), (5, "second"), (6, "other"))
        )
        assert len(first) == 2
        assert first == second
        assert [row["question"] for row in first] != [row["question"] for row in other]

    def test_a_shape_is_kept_to(self, tmp_path: Path) -> None:
        maker = make_maker({"name": "scenarios", "size": 200})
        rows = maker.make({"shape": "multi-hop", "level": 0}, 3, 1, tmp_path)
        assert {len(row["sub_questions"]) > 1 for row in rows} == {True}
        assert {tuple(row["levels"].values()) for row in rows} == {(0, 0, 0, 0)}

    def test_an_operation_is_kept_to(self, tmp_path: Path) -> None:
        maker = make_maker({"name": "miniature", "part": "arithmetic", "seed": 3})
        kinds = maker.kinds()
        assert [kind["level"] for kind in kinds] == [1, 1, 1, 2, 2]
        with pytest.raises(BadInputError, match="fewer tasks a round"):
            maker.make({"operation": "/", "level": 1}, 1, 0, tmp_path)

    def test_unknown_names_and_options(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'scenarios'"):
            make_maker("scenario")
        with pytest.raises(BadInputError, match="did you mean 'part'"):
            make_maker({"name": "miniature", "parts": "arithmetic"})

    def test_an_environment_without_a_maker_is_refused(self) -> None:
        from toolgym.selftrain.environments import places

        settings = load_settings(
            {"model": "x", "environments": [{"id": "ToolQA-GSM8K-v0"}], "curriculum": {}}
        )
        with pytest.raises(BadInputError, match="has no maker"):
            places(settings)


class _Sums(TaskMaker):
    """Sums of two kinds, of which the policy of the test knows one."""

    def kinds(self) -> Sequence[Kind]:
        return [{"sum": "easy"}, {"sum": "hard"}]

    def make(self, kind: Kind, count: int, seed: int, folder: Path) -> list[dict[str, Any]]:
        rng = random.Random(seed)
        rows = []
        for place in range(count):
            a, b = rng.randrange(10**6), rng.randrange(10**6)
            rows.append(
                {"id": f"s{place}", "question": f"{kind['sum']}: {a} + {b}?", "answers": [a + b]}
            )
        return rows


@pytest.fixture
def sums() -> Any:
    MAKERS.add("sums", _Sums, replace=True)
    yield
    del MAKERS._entries["sums"]


class TestStage:
    """The stage with a policy of rules: no model is needed to see what is asked."""

    def work(self, out: Path, **curriculum: Any) -> Any:
        from toolgym.selftrain.stages import Work

        settings = load_settings(
            {
                "model": "none",
                "environments": [
                    {
                        "id": "ToolQA-GSM8K-v0",
                        "name": "sums",
                        "args": {"tools": ["Calculator"]},
                        "train": {},
                        "maker": "sums",
                    }
                ],
                "samples_per_task": 4,
                "dpo": {"pairing": "right_wrong"},
                "curriculum": curriculum,
            }
        )
        return Work(settings, list(settings.environments), out)

    @staticmethod
    def policies(*_: Any, **__: Any) -> Any:
        asked: Counter[str] = Counter()

        def policy(messages: Any, tools: Any) -> str:
            text = messages[-1]["content"]
            asked[text] += 1
            a, b = (int(word.strip("?")) for word in text.rpartition(": ")[2].split(" + "))
            right = "easy" in text or asked[text] % 2
            return f"Answer: {a + b if right else 0}"

        return policy

    def play(self, work: Any, number: int) -> dict[str, Any]:
        from toolgym.selftrain.stages import stage
        from toolgym.selftrain.steering import steered

        name = f"round-{number}"

        def execute(folder: Path) -> dict[str, Any]:
            return steered(work, self.policies, name, number, folder)

        return stage(work, f"{name}/practice", execute)

    def asked(self, work: Any, number: int) -> Counter[str]:
        files = work.out.glob(f"round-{number}/practice/sitting-*/sums-tasks.jsonl")
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return Counter(row["question"].partition(":")[0] for row in lines)

    def test_it_asks_what_is_not_sure(self, tmp_path: Path, sums: None) -> None:
        from toolgym.selftrain.steering import by_kind

        work = self.work(tmp_path, tasks=40, sittings=4)
        counts = self.play(work, 1)
        assert counts["sums"]["episodes"] == 160
        asked = self.asked(work, 1)
        assert asked["hard"] > asked["easy"]
        found = by_kind(work)
        assert found["sums", "easy"][1].right == found["sums", "easy"][1].tries
        assert found["sums", "easy"][1].live == 0
        assert found["sums", "hard"][1].live == found["sums", "hard"][1].tasks
        live = (tmp_path / "round-1/practice/sums-live.jsonl").read_text().splitlines()
        assert len(live) == asked["hard"]

    def test_it_plays_on_until_enough_groups_differ(self, tmp_path: Path, sums: None) -> None:
        work = self.work(tmp_path, tasks=40, sittings=10, groups=6)
        self.play(work, 1)
        asked = self.asked(work, 1)
        assert 6 <= asked["hard"] < 10
        assert sum(asked.values()) < 40

    def test_a_stop_between_sittings_changes_nothing(self, tmp_path: Path, sums: None) -> None:
        whole = self.work(tmp_path / "whole", tasks=24, sittings=3)
        self.play(whole, 1)
        stopped = self.work(tmp_path / "stopped", tasks=24, sittings=3)
        self.play(stopped, 1)
        practised = tmp_path / "stopped/round-1/practice"
        for name in ("done.json", "sitting-3/done.json", "sitting-2/done.json"):
            (practised / name).unlink()
        self.play(self.work(tmp_path / "stopped", tasks=24, sittings=3), 1)
        for number in (1, 2, 3):
            file = f"round-1/practice/sitting-{number}/sums-tasks.jsonl"
            assert (tmp_path / "whole" / file).read_bytes() == (
                tmp_path / "stopped" / file
            ).read_bytes()

    def test_fixed_asks_the_same_in_every_round(self, tmp_path: Path, sums: None) -> None:
        work = self.work(tmp_path, tasks=8, sittings=2, choose="fixed")
        for number in (1, 2):
            self.play(work, number)
        texts = [
            [
                json.loads(line)["question"]
                for line in (tmp_path / f"round-{number}/practice/sitting-1/sums-tasks.jsonl")
                .read_text()
                .splitlines()
            ]
            for number in (1, 2)
        ]
        assert texts[0] == texts[1]

    @pytest.mark.parametrize("choose", ["bandit", "fixed"])
    @pytest.mark.parametrize("method", ["sft", "dpo"])
    def test_what_is_learned_leads_to_its_sitting(
        self, tmp_path: Path, sums: None, method: str, choose: str
    ) -> None:
        from toolgym.selftrain.loop import selection

        work = self.work(tmp_path, tasks=24, sittings=2, choose=choose)
        self.play(work, 1)
        practised = tmp_path / "round-1" / "practice"
        counts = selection(work, method, 1, practised, None, tmp_path / "chosen")
        links = [row for _, row in read_rows(tmp_path / "chosen" / "rows.links")]
        assert len(links) == counts["sums"]["kept"] > 0
        found = {episode["run"] for link in links for episode in link["episodes"]}
        assert found == {f"../round-1/practice/sitting-{number}/sums" for number in (1, 2)}
        assert {len(link["episodes"]) for link in links} == {1 if method == "sft" else 2}

    def test_the_report_says_what_was_asked(self, tmp_path: Path, sums: None) -> None:
        from toolgym.evaluation.document import to_markdown
        from toolgym.selftrain.report_sections import steering

        work = self.work(tmp_path, tasks=40, sittings=2)
        for number in (1, 2):
            self.play(work, number)
        page = to_markdown(steering(work))
        easy = next(line for line in page.splitlines() if "sums: easy" in line)
        assert "100%" in easy
        assert "round 2" in page
