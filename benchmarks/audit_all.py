"""Audits of all own environments, reasoning-gym's data sets, skyrl-gym's environments, and GSM8K.

    python -m benchmarks.audit_all FOLDER [--only TEXT] [--tasks 16]

Writes a page for each into FOLDER and a line each to FOLDER/all.jsonl; what stands there already is
not played again. GSM8K's and TriviaQA's files are read from TOOLGYM_DATA.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolgym import audit
from toolgym.errors import ToolgymError
from toolgym.registry import ENVIRONMENTS

Job = tuple[str, str, dict[str, Any]]


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def skyrl(data: Path) -> Iterator[Job]:
    """Environments of skyrl-gym over real questions; text2sql and lcb need data of their own."""
    sums = []
    for number, row in enumerate(_rows(data / "gsm8k" / "test-300.jsonl")):
        truth = row["answer"].rpartition("#### ")[2].strip().replace(",", "")
        spec = {"reward_spec": {"ground_truth": truth}, "reward_model": {"ground_truth": truth}}
        asked = _prompt(row["question"] + ' Write the final answer after "####".')
        extra = {"extra_info": {"max_turns": 3}, "max_turns": 3}
        sums.append({"id": f"gsm8k-{number}", "prompt": asked, **spec, **extra})
    facts = []
    for number, row in enumerate(_rows(data / "triviaqa" / "dev.jsonl")[:300]):
        spec = {"reward_spec": {"ground_truth": {"target": row["answers"]}}, "max_turns": 2}
        facts.append({"id": f"trivia-{number}", "prompt": _prompt(row["question"]), **spec})
    whole = {"reward_range": (0.0, 1.0), "turns": 3}
    for name in ("gsm8k", "gsm8k_multi_turn"):
        yield name, f"skyrl:{name}", {"rows": sums, "form": "#### {}", **whole}
    form = "<solution>#### {}</solution>"
    yield "searchcode", "skyrl:searchcode", {"rows": sums, "form": form, **whole}
    aime = {"rows": sums, "form": "Answer: {}", "reward_range": (-1.0, 1.0)}
    yield "aime", "skyrl:aime", aime
    nowhere = {"log_requests": False, "search_url": "http://127.0.0.1:9/", "topk": 3, "timeout": 1}
    search = {"rows": facts, "form": "<answer>{}</answer>", "env_args": nowhere, **whole}
    yield "search", "skyrl:search", search


def jobs() -> Iterator[Job]:
    """All that can be audited with what is installed."""
    for name in ENVIRONMENTS:
        yield name, name, {}
    if found := os.environ.get("TOOLGYM_DATA"):
        data = Path(found)
        train, test = (str(data / "gsm8k" / name) for name in ("train.jsonl", "test-300.jsonl"))
        yield "gsm8k-test", test, {"held_out": train}
        yield "gsm8k-train", train, {}
        if importlib.util.find_spec("skyrl_gym"):
            for name, env, given in skyrl(data):
                yield f"skyrl-{name}", env, given
    if importlib.util.find_spec("reasoning_gym"):
        from reasoning_gym.factory import DATASETS

        for name in sorted(set(DATASETS) - {"composite"}):
            yield f"reasoning-gym-{name}", f"reasoning-gym:{name}", {}


def main() -> None:
    """Audit one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="names that hold this text")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--deadline", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    file = asked.folder / "all.jsonl"
    done = {row["name"] for row in _rows(file)} if file.is_file() else set()
    limits = {name: getattr(asked, name) for name in ("tasks", "deadline", "seconds")}
    for name, env, given in jobs():
        if name in done or asked.only not in name:
            continue
        began = time.perf_counter()
        row: dict[str, Any] = {"name": name}
        try:
            report = audit(env, out=asked.folder / name, **limits, **given)
            row |= {"failed": report.failed, "report": report.to_dict()}
        except ToolgymError as error:
            row |= {"failed": [], "error": str(error)}
        row["seconds"] = round(time.perf_counter() - began, 1)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        print(
            f"{name}: {', '.join(row['failed']) or row.get('error', 'no check fails')}", flush=True
        )


if __name__ == "__main__":
    main()
