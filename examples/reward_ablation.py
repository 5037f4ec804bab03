"""Five rewards on the same recordings: what each of them would have taught.

Three behaviours (an article as answer, a short answer, a guess without a tool) answer the same
questions once each; the rewards are then compared on that without playing again.

Run: python examples/reward_ablation.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from toolgym import Task, Trajectory, ablate, rollout, select

Reply = Callable[[list[dict[str, Any]], list[dict[str, Any]]], str]


def behaving(behaviour: str) -> Reply:
    """A policy that guesses, answers with the whole article, or with its first words."""

    def policy(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        question = next(m["content"] for m in messages if m["content"].startswith("Question:"))
        last = messages[-1]["content"]
        if behaviour == "guess":
            return "Thought: no need to look.\nAnswer: politician"
        if not last.startswith("Response from tool"):
            return f"Action: WikipediaSearch[{question.removeprefix('Question: ')}]"
        article = last.partition(" are: ")[2].rpartition("\n")[0]
        return f"Answer: {article if behaviour == 'article' else ' '.join(article.split()[:2])}"

    return policy


def short_and_right(task: Task, trajectory: Trajectory) -> Sequence[float]:
    """1 for a right answer of up to five words, less the longer it is; nothing for a wrong one."""
    values = [0.0] * len(trajectory.steps)
    answer = trajectory.answer or ""
    if any(gold.casefold() in answer.casefold() for gold in task.targets):
        values[-1] = min(1.0, 5 / len(answer.split()))
    return values


def main() -> None:
    """Record three times, compare five rewards."""
    runs = [
        rollout("ToolQA-PopQA-v0", behaving(behaviour), episodes=50, seed=0)
        for behaviour in ("guess", "article", "short")
    ]
    rewards: dict[str, Any] = {
        "exact_match": {"exact_match": 1.0},
        "accuracy": {"accuracy": 1.0},
        "paper": {"accuracy": {"preset": "paper"}},
        "accuracy + tools": {"accuracy": 1.0, "execution_precision": 0.2},
        "short and right": short_and_right,
    }
    lab = ablate(runs, rewards)
    print(lab)
    print()
    for where in ("accuracy_paper>=1", "token_f1>=0.5"):
        kept = select(runs, where=where)
        words = sum(len((t.answer or "").split()) for t in kept) / len(kept)
        print(f"where {where:17} keeps {len(kept):3}; their answers have {words:4.1f} words")


if __name__ == "__main__":
    main()
