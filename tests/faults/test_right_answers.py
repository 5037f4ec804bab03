"""What is right: golds that are read exactly, answers in any script, rewards that pasting cannot
fool, and the published rules under their paper's name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from toolgym import export, get_format, rollout

POPQA, GSM8K = "ToolQA-PopQA-v0", "ToolQA-GSM8K-v0"


def task_file(folder: Path, **columns: Any) -> str:
    path = folder / "tasks.jsonl"
    path.write_text(json.dumps({"question": "Which?", **columns}) + "\n", encoding="utf-8")
    return str(path)


def reward(
    folder: Path, gold: Any, answer: str, env_id: str = POPQA, spec: Any = None, **columns: Any
) -> float:
    """What one answer earns against one gold answer."""
    source = task_file(folder, answers=[gold], **columns)
    arguments = {"tasks": source} | ({} if spec is None else {"reward": spec})
    (played,) = rollout(env_id, lambda *_: f"Answer: {answer}", episodes=1, env_args=arguments)
    return sum(step.reward for step in played.steps)


@pytest.mark.parametrize(
    "row",
    [
        {"answers": [None]},
        {"answers": [""]},
        {"answers": [True]},
        {"answers": [["x"]]},
        {"answers": [{"text": "x"}]},
        {"answers": {"a": 1}},
        {"answers": ["x"], "answer_type": "number"},
        {"answers": ["1/2"], "answer_type": "number"},
        {"answers": ["1e5"], "answer_type": "number"},
        {"answers": ["3 or 4"], "answer_type": "number"},
        {"answers": ["x"], "id": 1.5},
        {"answers": ["x"], "id": True},
        {"answers": ["x"], "id": ["1"]},
    ],
)
def test_what_no_answer_can_meet_is_refused_with_its_line(
    row: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="line 1"):
        gymnasium.make(POPQA, tasks=task_file(tmp_path, **row))


@pytest.mark.parametrize(
    "text", ["five", "#### five", "#### ", "#### 1/2", "#### 2 or 3", "#### ½"]
)
def test_a_solution_without_one_number_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1"):
        gymnasium.make(GSM8K, tasks=task_file(tmp_path, answer=text))


@pytest.mark.parametrize(
    ("gold", "text"),
    [(1e-5, "0.00001"), (1e22, "1" + "0" * 22), (10**30, "1" + "0" * 30), (0, "0"), (0.1, "0.1")],
)
def test_numbers_are_golds_digit_by_digit(gold: float, text: str, tmp_path: Path) -> None:
    env = gymnasium.make(POPQA, tasks=task_file(tmp_path, answers=[gold])).unwrapped
    assert env.tasks[0].answers == (text,)


@pytest.mark.parametrize(
    ("given", "kept"), [(0, "0"), (-3, "-3"), ("00", "00"), (10**20, str(10**20))]
)
def test_ids_are_kept(given: Any, kept: str, tmp_path: Path) -> None:
    env = gymnasium.make(POPQA, tasks=task_file(tmp_path, answers=["x"], id=given)).unwrapped
    assert env.tasks[0].id == kept


@pytest.mark.parametrize(
    "options",
    [[], "x", 5, {"task": 1.5}, {"task": True}, {"sample": "0"}, {"sample": -1}, {"tsak": "x"}],
)
def test_reset_options_of_a_wrong_type_are_refused(options: Any) -> None:
    env = gymnasium.make(POPQA).unwrapped
    with pytest.raises(ValueError, match=r"task|option|sample"):
        env.reset(options=options)


SAME = [
    *(("北京", "北京。"), ("北京", "「北京」"), ("北京", "答案是北京。"), ("القاهرة", "القاهرة؟")),
    *(("Paris", "«Paris»"), ("Paris", "„Paris“"), ("2015", "２０１５"), ("42", "٤٢"), ("42", "४२")),
    *(
        ("Zürich", "Zu\u0308rich"),
        ("トウキョウ", "ﾄｳｷｮｳ"),
        ("दिल्ली", "दिल्ली।"),
        ("Straße", "STRASSE"),
    ),
    *(("القاهرة", "اَلْقَاهِرَة"), ("ירושלים", "יְרוּשָׁלַיִם"), ("Москва", "Москва́"), ("Αθήνα", "ΑΘΗΝΑ")),
    *(("İstanbul", "istanbul"), ("Москва", "Это Москва."), ("Москва", "Ответ: Москва")),
    *(("नेपाल", "नेपाल है"), ("東京", "東京です"), ("ភ្នំពេញ", "ភ្នំពេញ។"), ("O'Brien", "O’Brien")),
]
OTHER = [
    *(
        ("北京", "南京"),
        ("北京", "北京、上海"),
        ("القاهرة", "القاهرة أو بيروت"),
        ("東京", "東京または大阪"),
    ),
    *(("Москва", "Москва или Киев"), ("Paris", "Paris ou Lyon"), ("São Paulo", "Sao Paulo")),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_the_same_answer_in_its_script_is_right(gold: str, answer: str, tmp_path: Path) -> None:
    assert reward(tmp_path, gold, answer) == 1.0


@pytest.mark.parametrize(("gold", "answer"), OTHER)
def test_another_answer_in_that_script_is_wrong(gold: str, answer: str, tmp_path: Path) -> None:
    assert reward(tmp_path, gold, answer) == 0.0


@pytest.mark.parametrize(
    ("gold", "answer", "earned"),
    [
        *(("1234", "١٬٢٣٤", 1.0), ("1000", "１，０００", 1.0), ("1000", "1\u202f000", 1.0)),
        *(("1000", "1'000", 1.0), ("-5", "−5", 1.0), ("3.5", "٣٫٥", 1.0), ("1000", "1.000", 0.0)),
        *(("12", "12 and 13", 0.0), ("-5", "5", 0.0), ("1000", "1 000", 0.0)),
    ],
)
def test_numbers_in_any_digits(gold: str, answer: str, earned: float, tmp_path: Path) -> None:
    assert reward(tmp_path, gold, answer, answer_type="number") == earned


PASTED = [
    "Amália Rodrigues was a singer born in Lisbon, Portugal, who lived in Paris and Porto.",
    *("Lisbon, Porto, Paris, Rome", "Lisbon or Porto", "Where was she born? Lisbon"),
    *("Portugal / Lisbon", "Lisbon\nPorto\nFaro", "Lisbon and its surroundings in Portugal"),
]


@pytest.mark.parametrize("answer", PASTED)
@pytest.mark.parametrize("name", ["accuracy", "task_completion", "exact_match"])
def test_pasting_and_listing_earn_nothing_by_default(
    answer: str, name: str, tmp_path: Path
) -> None:
    assert reward(tmp_path, "Lisbon", answer, spec={name: 1.0}) == 0.0


@pytest.mark.parametrize("answer", PASTED)
def test_the_published_rule_keeps_its_name(answer: str, tmp_path: Path) -> None:
    spec = {"accuracy": {"weight": 1.0, "preset": "paper"}}
    assert reward(tmp_path, "Lisbon", answer, spec=spec) == 1.0


@pytest.mark.parametrize(
    ("text", "calls", "answer"),
    [
        ("Answer: Paris", [], "Answer: Paris"),
        ("x\nAnswer: a\nAnswer: b", [], "a"),
        ("Action: Calculator[1]", [], "Action: Calculator[1]"),
        ("x\nAction: Calculator[1]\nAction: Calculator[2]", ["1"], None),
        ("x\nAction: Calculator[1]\nRationale: Calculator[2]", ["1"], None),
    ],
)
def test_the_published_parser_is_the_published_parser(
    text: str, calls: list[str], answer: str | None
) -> None:
    action = get_format("react-paper").parse(text)
    assert [call.arguments["input"] for call in action.calls] == calls
    assert action.answer == answer


@pytest.mark.parametrize(("gold", "answer"), [("5", "-5"), ("25000", "25,000 pounds")])
def test_the_papers_numbers_are_compared_as_texts(gold: str, answer: str, tmp_path: Path) -> None:
    spec = {"accuracy": {"weight": 1.0, "preset": "paper", "numbers": "paper"}}
    earned = reward(tmp_path, gold, answer, spec=spec, answer_type="number")
    assert earned == float(gold == "5")


PAGES = {
    "It": "It is a novel by Stephen King about a clown.",
    "The The": "The The are an English band of Matt Johnson.",
    "1984": "1984 is a novel by George Orwell.",
    "Oʻahu": "Oʻahu is the third-largest island of Hawaii.",
    "Ship": "A sh\u00adip is a large boat.",
    "Bold": "𝐁𝐨𝐥𝐝 is a weight of type.",
    "Clowns": "A clown of a novel who is the King of a band, and it is the island of it.",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "pages.jsonl"
    rows = [{"title": title, "text": text} for title, text in PAGES.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("query", "title"),
    [
        *(("It", "It"), ("the the", "The The"), ("Who wrote It?", "It"), ("O'ahu", "Oʻahu")),
        *(("ship", "Ship"), ("bold", "Bold"), ("١٩٨٤", "1984"), ("Oahu", "Oʻahu")),
    ],
)
def test_a_page_is_found_by_its_title(query: str, title: str, corpus: str) -> None:
    env = gymnasium.make(POPQA, corpus=corpus)
    env.reset(seed=0)
    observation, *_ = env.step(f"Action: WikipediaSearch[{query}]")
    shown = PAGES[title][PAGES[title].index(" ") :]
    assert shown in observation.replace("\u00ad", "") or PAGES[title] in observation


DUMP = """<mediawiki><siteinfo><namespaces><namespace key="0" /></namespaces></siteinfo>
<page><title>Ada</title><ns>0</ns><id>1</id><revision><id>1</id><text>{text}</text></revision></page>
</mediawiki>"""


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("She was born {{birth date|1950|3|2}} there.", ["1950"]),
        ("She lived {{birth date and age|1990|12|24}} there.", ["1990"]),
        ("It costs {{US$|25 million}} today.", ["25 million"]),
        ("It is {{convert|12|km|mi}} long.", ["12"]),
        ("He is {{height|m=1.85}} tall.", ["1.85"]),
    ],
)
def test_values_in_running_wikitext_survive(markup: str, shown: list[str], tmp_path: Path) -> None:
    dump, index = tmp_path / "pages.xml", tmp_path / "index"
    dump.write_text(DUMP.replace("{text}", f"Ada was a person of note. {markup}"))
    command = [sys.executable, "-m", "toolgym.cli"]
    subprocess.run([*command, "index", "build", str(dump), str(index)], check=True, timeout=60)
    told = subprocess.run(
        [*command, "tool", "WikipediaSearch", "Ada", "--corpus", str(index)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for text in shown:
        assert text in told.stdout


@pytest.mark.parametrize("tag", ["think", "thinking", "reasoning"])
def test_reasoning_stays_in_rows_of_native_replies(tag: str, tmp_path: Path) -> None:
    call = '{"name": "Calculator", "arguments": {"expression": "1+1"}}'
    replies = iter(
        [
            f"<{tag}>I add them.</{tag}>\n<tool_call>\n{call}\n</tool_call>",
            f"<{tag}>It is two.</{tag}>\nAnswer: 2",
        ]
    )
    arguments = {"format": "hermes"}
    run = rollout(GSM8K, lambda *_: next(replies), episodes=1, env_args=arguments)
    (row,) = export(run, "sft")
    assert "I add them." in json.dumps(row)
    assert "It is two." in json.dumps(row)
