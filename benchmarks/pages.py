"""Runs the untested blocks of a page's sections, where the packages that they need are installed.

``python benchmarks/pages.py docs/agents.md LangGraph``; the page's tested blocks run before them.
With ``logs`` in place of a page, exported logs are read back by the packages that they are for.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

_BLOCK = re.compile(r"^(?P<mark><!-- no test -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S)


def run_page(page: Path, wanted: str) -> None:
    """Run the page's first section, and the wanted one."""
    first, *sections = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.M)
    chosen = [text for text in sections if text.startswith(f"## {wanted}\n")]
    if not chosen:
        raise SystemExit(f"{page} has no section {wanted!r}")
    namespace: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for text in (first, *chosen):
        for block in _BLOCK.finditer(text):
            exec(compile(block["code"], f"{page}: {wanted}", "exec"), namespace)
            count += 1
    print(f"{page}, {wanted}: {count} blocks ran")


def read_logs(kind: str) -> None:
    """Export a run as a log, and read it with the package's own reader."""
    from toolgym import rollout
    from toolgym.data.logs import write_inspect_log, write_lm_eval_log

    run = rollout("ToolQA-GSM8K-v0", lambda messages, tools: "Answer: 42", samples_per_task=2)
    accuracy = sum(trajectory.reward for trajectory in run) / len(run)
    if kind == "inspect":
        from inspect_ai.log import read_eval_log

        log = read_eval_log(str(write_inspect_log(run, "log.json")))
        header = read_eval_log("log.json", header_only=True)
        assert header.results == log.results, "the header says what the log says"
        (score,) = [score for score in log.results.scores if score.name == "accuracy"]
        assert score.metrics["mean"].value == accuracy
        assert len(log.samples) == len(run)
        print(f"Inspect reads {len(log.samples)} samples, accuracy {accuracy:g}")
        return
    import json

    from datasets import load_dataset
    from lm_eval.utils import get_results_filenames, get_sample_results_filenames, make_table

    write_lm_eval_log(run, "logs")
    files = [str(path) for path in Path("logs").resolve().rglob("*.json*")]
    (results,), samples = get_results_filenames(files), get_sample_results_filenames(files)
    table = make_table(json.loads(Path(results).read_text(encoding="utf-8")))
    assert f"|accuracy   |↑  |{accuracy:.4f}"[:18] in table, table
    rows = load_dataset("json", data_files=samples, split="train", cache_dir="cache")
    assert len(rows) == len(run)
    print(f"{table}\nlm-eval reads {len(rows)} samples")


def main() -> None:
    """Run what the command line names, in a folder that is gone afterwards."""
    what, wanted = sys.argv[1:]
    page = Path(what).resolve()
    os.environ |= {"WANDB_MODE": "offline", "INSPECT_DISPLAY": "none", "HF_HUB_OFFLINE": "1"}
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"file://{folder}/mlruns"  # mlflow-skinny has no sqlite
        read_logs(wanted) if what == "logs" else run_page(page, wanted)


if __name__ == "__main__":
    main()
