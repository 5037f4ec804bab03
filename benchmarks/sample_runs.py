"""The bundled runs of `toolgym.sample_run`, played again: the same bytes wherever that is done.

Run: python benchmarks/sample_runs.py [FOLDER]  (default: toolgym/rollouts/samples)
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from toolgym import Run, rollout
from toolgym._util.jsonl import dump_line
from toolgym.trajectory import Documents

POLICIES = ("lookup", "random", "spam")
EPISODES, SAMPLES = 60, 3


def play(policy: str) -> Run:
    """The run of a policy: 20 questions of the bundled sample, three times each."""
    return rollout("ToolQA-PopQA-v0", policy, episodes=EPISODES, samples_per_task=SAMPLES, seed=0)


def packed(run: Run) -> bytes:
    """Settings, tools and episodes, a line each, without clocks and versions."""
    episodes = run.trajectories()
    settings = {name: value for name, value in run.settings.items() if name != "versions"}
    tools = episodes[0].tools
    lines = [dump_line(settings), dump_line({"tools": tools})]
    for episode in episodes:
        for step in episode.steps:
            step.seconds = 0.0
        assert episode.tools == tools
        lines.append(episode.to_line(Documents.name_of(Documents.text_of(tools))))
    text = "".join(line.rstrip("\n") + "\n" for line in lines)
    return gzip.compress(text.encode(), 9, mtime=0)


def main() -> None:
    """Play and write each."""
    default = Path(__file__).parent.parent / "toolgym" / "rollouts" / "samples"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    folder.mkdir(parents=True, exist_ok=True)
    for policy in POLICIES:
        file = folder / f"{policy}.jsonl.gz"
        file.write_bytes(packed(play(policy)))
        print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
