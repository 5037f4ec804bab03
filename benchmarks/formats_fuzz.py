"""Formats under fuzz: no reply raises, none of 100 kB takes over 50 ms.

    python benchmarks/formats_fuzz.py [--replies 1000000] [--seed 0] [--data DIR]

Replies are recorded ones of a real model (where the folder of real data is there), written calls
and answers, pieces of markup in any order, and hostile repetition of one delimiter up to 100 kB;
all but the last kind are mutated. Each goes through every format in turn, so that a million
replies are a million readings. Every reading has to lead on: calls, an answer or a problem, JSON
that can be recorded, no exception. Times are of the process; a reading over the limit is repeated
and counts with its best time, so that another process is not taken for the parser.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolgym.formats import Action, get_format
from toolgym.messages import ToolCall

FORMATS = ("react", "react-paper", "tags", "hermes", "llama3")
LONGEST = 100_000  # characters, as many as an environment reads of a reply
LIMIT_MS = 50.0
HOSTILE_SHARE = 0.004
_TRIES = 5

NAMES = ("Calculator", "WikipediaSearch", "now", "my tool", "a/b", "answer")
PIECES = (
    *("Thought: ", "\nAction: ", "\nRationale:", "\nAnswer: ", "**Answer:** 5", "Calculator[1+1]"),
    *("<think>", "</think>", "[THINK]", "[/THINK]", "◁think▷", "◁/think▷", "<|channel|>analysis"),
    *("<|message|>", "<|end|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "</s>", "<|python_tag|>"),
    *("<|im_start|>assistant", "<tool_call>", "</tool_call>", "<search>", "</search>", "<answer>"),
    *(
        "</answer>",
        "<information>",
        "</information>",
        '{"name": "f", "arguments": ',
        "; ",
        "```json",
    ),
    *('{"name": "f", "parameters": {"a": 1}}', "{'name': 'f', 'parameters': {'a': True}}", "null"),
    *(
        "\nResponse from tool x are: y",
        '"{\\"a\\": 1}"',
        "1e999",
        "NaN",
        r"\frac{1}{2}",
        r"\ne",
        "\\",
    ),
    *(
        "[",
        "]",
        "{",
        "}",
        "(",
        '"',
        "'",
        "`",
        ":",
        ",",
        "\n",
        "\t",
        " ",
        "\x00",
        "\ud800",
        "\u2028",
    ),
    *(
        "The answer is: ",
        "Calculator(",
        "Calculator: ",
        "\nAction Input: ",
        "\n\n",
        "<eoa>",
        "</s>",
    ),
    *(r'"C:\new\table"', "x=", "[null]"),
    *("é", "العربية", "😀", "a", "Calculator", "A[", 'A[{"a": "', "A['", "name", "\\u", "\\u0041"),
)
OPENINGS = (
    *("Calculator", "```", '<tool_call>{"name": "f"}}', '{"name": "f"}}', 'Action: A[{"x": 1}}'),
    *("", "Action: ", "Thought: x\nAction: A[", 'Action: A[{"a": ', 'Action: A["', "<tool_call>"),
    *('<tool_call>{"name": "f", "arguments": {"x": "', "<tool_call>{'name': 'f', 'arguments': ['"),
    *('{"name": "a", "parameters": {"x": ', "{'name': 'a', 'parameters': {'x': '", "<search>"),
    *("Action: Calculator(", "Action: Calculator: ", "Answer: 5\n\n", "The answer is: "),
    *('<search>{"query": "', "Answer: ", "<answer>", "<think>", '{"name": "a", "arguments": "'),
)
ENDINGS = ("", "]", "}}", '"}}', "'}}", "</tool_call>", "</search>", "\nAnswer: 5", "</think>x")


def documents() -> list[dict[str, Any]]:
    """Tools with one parameter each, some of odd names."""
    parameters = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    functions = ({"name": n, "description": "d", "parameters": parameters} for n in NAMES)
    return [{"type": "function", "function": function} for function in functions]


def recorded(folder: Path | None) -> list[str]:
    """What a real model wrote, whole episodes and single turns."""
    texts: list[str] = []
    for file in sorted(folder.glob("recorded-runs/*.jsonl")) if folder is not None else ():
        for line in file.read_text("utf-8").splitlines():
            text = json.loads(line)["completion"]
            texts += [text, text.rpartition("</information>")[2]]
    return texts


def written(rng: random.Random, tools: list[dict[str, Any]]) -> str:
    """A reply as one of the formats writes it."""
    codec = get_format(rng.choice(FORMATS))
    if rng.random() < 0.3:
        return codec.write(Action("I know.", (), rng.choice(("42", "Marie Curie", "río"))), tools)
    calls = []
    for number in range(rng.choice((1, 1, 2, 5))):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(4)))
        arguments = {"x": text} | ({"k": [text, 1.5]} if rng.random() < 0.3 else {})
        calls.append(ToolCall(f"call_{number}", rng.choice(NAMES), arguments))
    return codec.write(Action("Let me see.", tuple(calls)), tools)


def mutated(rng: random.Random, text: str) -> str:
    """With pieces put in, parts left out, doubled or cut off."""
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(text) + 1)
        length = rng.choice((0, 1, 2, 5, 20))
        match rng.randrange(4):
            case 0:
                text = text[:place] + rng.choice(PIECES) + text[place:]
            case 1:
                text = text[:place] + text[place + length :]
            case 2:
                text = text[: place + length] + text[place:]
            case _:
                text = text[: place if rng.random() < 0.2 else len(text)]
    return text[:LONGEST]


def hostile(rng: random.Random) -> str:
    """One unit up to 100 kB, behind something that may hold it."""
    unit = "".join(rng.choice(PIECES) for _ in range(rng.choice((1, 1, 2, 3))))
    opening, ending = rng.choice(OPENINGS), rng.choice(ENDINGS)
    count = (LONGEST - len(opening) - len(ending)) // len(unit)
    return opening + unit * count + ending


def replies(count: int, seed: int, folder: Path | None) -> Iterator[str]:
    """The texts, the same for a seed."""
    rng, tools, real = random.Random(seed), documents(), recorded(folder)
    for _ in range(count):
        kind = rng.random()
        if kind < HOSTILE_SHARE:
            yield hostile(rng)
        elif kind < 0.1 and real:
            yield mutated(rng, rng.choice(real))
        elif kind < 0.6:
            yield mutated(rng, written(rng, tools))
        else:
            yield mutated(rng, "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 25))))


def milliseconds(name: str, text: str, tools: list[dict[str, Any]]) -> float:
    """The time of one reading, of which all is checked.

    Raises:
        AssertionError: it leads nowhere, or cannot be recorded.
    """
    codec = get_format(name)
    began = time.process_time()
    action = codec.parse(text, tools)
    took = (time.process_time() - began) * 1e3
    assert not (action.calls and action.answer is not None), text
    assert action.calls or action.answer is not None or action.problems, text
    json.dumps([call.arguments for call in action.calls], allow_nan=False)
    return took


def fuzz(count: int, seed: int, folder: Path | None) -> dict[str, dict[str, float]]:
    """Read so many replies.

    Args:
        count: of replies; each is read in one format, in turn.
        seed: fixes them.
        folder: of real data, or None.

    Returns:
        By format: replies, characters, milliseconds in all, of the slowest reply, and how many
        took over `LIMIT_MS`.
    """
    tools = documents()
    found = {
        name: {"replies": 0.0, "characters": 0.0, "ms": 0.0, "slowest_ms": 0.0, "over": 0.0}
        for name in FORMATS
    }
    for number, text in enumerate(replies(count, seed, folder)):
        name = FORMATS[number % len(FORMATS)]
        took = milliseconds(name, text, tools)
        for _ in range(_TRIES if took > LIMIT_MS else 0):
            took = min(took, milliseconds(name, text, tools))
        row = found[name]
        row["replies"] += 1
        row["characters"] += len(text)
        row["ms"] += took
        row["slowest_ms"] = max(row["slowest_ms"], took)
        row["over"] += took > LIMIT_MS
    return found


def main() -> None:
    """Print the table; end with 1 when a reply took too long."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--replies", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=os.environ.get("TOOLGYM_DATA"))
    options = parser.parse_args()
    found = fuzz(options.replies, options.seed, options.data and Path(options.data))
    print(
        f"{'format':14}{'replies':>10}{'mean us':>10}{'us a kB':>10}{'slowest ms':>12}{'over':>6}"
    )
    for name, row in found.items():
        mean = row["ms"] * 1e3 / max(1.0, row["replies"])
        rate = row["ms"] * 1e6 / max(1.0, row["characters"])
        slowest = f"{row['slowest_ms']:12.1f}{row['over']:6.0f}"
        print(f"{name:14}{row['replies']:10.0f}{mean:10.1f}{rate:10.1f}{slowest}")
    raise SystemExit(any(row["over"] for row in found.values()))


if __name__ == "__main__":
    main()
