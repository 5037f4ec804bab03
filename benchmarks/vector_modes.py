"""Steps a second of the three kinds of vector environment on the bundled sample.

Run: python benchmarks/vector_modes.py
Prints one line a kind; the same replies are played in all of them.
"""

from __future__ import annotations

import time

import gymnasium as gym

import toolgym  # noqa: F401 - registers the ids

ENVS, STEPS = 8, 200
REPLIES = ("Action: WikipediaSearch[capital of Morocco]", "Action: Calculator[12*34+5]")


def steps_per_second(**kwargs: object) -> float:
    """Environment steps a second of ``ENVS`` environments, resets included."""
    envs = gym.make_vec("ToolQA-PopQA-v0", num_envs=ENVS, max_steps=50, **kwargs)
    envs.reset(seed=0)
    began = time.perf_counter()
    for number in range(STEPS):
        envs.step([REPLIES[(number + env) % 2] for env in range(ENVS)])
    seconds = time.perf_counter() - began
    envs.close()
    return ENVS * STEPS / seconds


def main() -> None:
    """Measure and print."""
    kinds = {
        "ours (default)": {},
        "sync": {"vectorization_mode": "sync"},
        "async": {"vectorization_mode": "async"},
    }
    for name, kwargs in kinds.items():
        best = max(steps_per_second(**kwargs) for _ in range(3))
        print(f"{name:15} {best:8.0f} steps/s")


if __name__ == "__main__":
    main()
