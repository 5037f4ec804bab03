"""Five rewards on the same recordings: what each of them would have taught.

One run of three behaviours (an article as answer, a short answer, a guess without a tool) is
recorded once; the rewards are then compared on it without playing again.

Run: python examples/reward_ablation.py
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from toolgym import Task, Trajectory, rollout, score, select


def mixed(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """Guess, answer with the whole article, or with its first words; the question decides which."""
    question = next(m["content"] for m in messages if m["content"].startswith("Question:"))
    behaviour = random.Random(question).choice(["guess", "article", "short"])
    last = messages[-1]["content"]
    if behaviour == "guess":
        return "Thought: no need to look.\nAnswer: politician"
    if not last.startswith("Response from tool"):
        return f"Action: WikipediaSearch[{question.removeprefix('Question: ')}]"
    article = last.partition(" are: ")[2].rpartition("\n")[0]
    return f"Answer: {article if behaviour == 'article' else ' '.join(article.split()[:2])}"


def short_and_right(task: Task, trajectory: Trajectory) -> Sequence[float]:
    """1 for a right answer of up to five words, less the longer it is; nothing for a wrong one."""
    values = [0.0] * len(trajectory.steps)
    answer = trajectory.answer or ""
    if any(gold.casefold() in answer.casefold() for gold in task.targets):
        values[-1] = min(1.0, 5 / len(answer.split()))
    return values


def main() -> None:
    """Record once, score five times."""
    run = rollout("ToolQA-PopQA-v0", mixed, episodes=150, seed=0)
    rewards: dict[str, Any] = {
        "exact_match": {"exact_match": 1.0},
        "accuracy": {"accuracy": 1.0},
        "token_f1": {"token_f1": 1.0},
        "accuracy + tools": {"accuracy": 1.0, "execution_precision": 0.2},
        "short and right": short_and_right,
    }
    print(score(run, rewards))
    print()
    for where in ("accuracy>=1", "token_f1>=0.5"):
        kept = select(run, where=where)
        words = sum(len((t.answer or "").split()) for t in kept) / len(kept)
        print(f"where {where:14} keeps {len(kept):3}; their answers have {words:4.1f} words")


if __name__ == "__main__":
    main()
