"""One episode by hand, then a recorded run with figures. Offline, without a model, in seconds.

Run: python examples/quickstart.py
"""

from __future__ import annotations

import gymnasium as gym

from toolgym import evaluate, rollout


def main() -> None:
    """Play and judge."""
    env = gym.make("ToolQA-PopQA-v0", tools=["WikipediaSearch"])
    _, info = env.reset(seed=0)
    print(info["messages"][-1]["content"])
    observation, *_ = env.step("Thought: look it up.\nAction: WikipediaSearch[Morocco]")
    print(observation)
    _, reward, terminated, _, _ = env.step("Answer: Rabat")
    print(f"reward {reward}, terminated {terminated}\n")

    # The baseline without a model; any callable of (messages, tools) works in its place.
    run = rollout("ToolQA-PopQA-v0", "lookup", episodes=60, seed=0, out="runs/lookup")
    print(evaluate(run))


if __name__ == "__main__":
    main()
