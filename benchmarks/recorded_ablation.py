"""Six rewards on published recordings of a real model, as docs/rewards.md tells of them.

`recorded-runs/*.jsonl` of the folder TOOLGYM_DATA holds what Search-R1, a model of three billion
parameters, wrote on PopQA and TriviaQA: one episode a question. They are made trajectories here,
kept as a file that every command reads, and compared. `flips.svg` is the drawing in the docs.

Run: python benchmarks/recorded_ablation.py [FOLDER]  (default: build/recorded)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolgym import Message, Task, ToolResult, Trajectory, ablate, get_format
from toolgym.trajectory import Step

SETS = ("popqa", "triviaqa")
REWARDS: dict[str, Any] = {
    "exact_match": "exact_match",
    "accuracy": "accuracy",
    "accuracy, paper": {"accuracy": {"preset": "paper"}},
    "token_f1": "token_f1",
    "token_f1, paper": {"token_f1": {"preset": "paper"}},
    "accuracy + precision": {"accuracy": 1.0, "execution_precision": 0.2},
}
_END, _RESULT, _RESULT_END = "</search>", "<information>", "</information>"


def turns(completion: str) -> Iterator[tuple[str, str | None]]:
    """What the model wrote in each turn, and what it was told after it.

    A turn ends where a search does and a result follows; other text between the tags of a result
    is the model's own.
    """
    rest = completion
    while (end := rest.find(_END)) >= 0:
        after = rest[end + len(_END) :].lstrip()
        close = after.find(_RESULT_END)
        if not after.startswith(_RESULT) or close < 0:
            break
        yield rest[: end + len(_END)], after[len(_RESULT) : close]
        rest = after[close + len(_RESULT_END) :]
    yield rest, None


def trajectory(row: dict[str, Any], name: str) -> Trajectory:
    """A recorded row as an episode of the data set of that name."""
    codec = get_format("tags")
    task = Task(row["id"], row["question"], tuple(row["answers"]))
    messages, steps = [Message("user", row["prompt"])], []
    for written, told in turns(row["completion"]):
        action = codec.parse(written)
        results = tuple(ToolResult(call.id, (told or "").strip()) for call in action.calls)
        answer = action.answer if told is None else None
        steps.append(
            Step(
                written,
                action.calls if answer is None else (),
                results if answer is None else (),
                tuple(action.problems),
                answer=answer,
                observation=told or "",
                cut=told is None and row["stop_reason"] == "length",
            )
        )
        messages.append(Message("assistant", written))
        messages += [Message("user", told)] if told is not None else []
    ended = steps[-1].answer is not None
    metrics = {f"published_{name}": float(value) for name, value in row["scores"].items()}
    return Trajectory(
        task, messages, steps, [], f"Search-R1-{name}", "tags", ended, not ended, metrics=metrics
    )


def main() -> None:
    """Convert, compare, and write the page."""
    data = Path(os.environ["TOOLGYM_DATA"]) / "recorded-runs"
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/recorded")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in SETS:
        lines = (data / f"search-r1-{name}.jsonl").read_text("utf-8").splitlines()
        found += [trajectory(json.loads(text), name) for text in lines]
    file = folder / "search-r1.jsonl"
    file.write_text("".join(each.to_line() + "\n" for each in found), "utf-8")
    lab = ablate(file, REWARDS, truth="published_acc>=1")
    print(lab)
    print("\npages", lab.write(folder / "ablation.html"), lab.write(folder / "ablation.md"))


if __name__ == "__main__":
    main()
