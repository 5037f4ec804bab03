"""The miniature behind a server of vLLM: exact tokens, the same replies, a death in the middle.

`make vllm` installs vLLM for a CPU into an environment of its own and runs this. The server is
started as a round of self-training starts it. 150 held-out questions, 50 of each environment, are
played one at a time, then 64 at once, and then 64 at once while the server is killed with signal 9
after a third of the episodes and takes a minute longer to come back.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from toolgym import Run, Trajectory, rollout
from toolgym.miniature.preset import build_base
from toolgym.miniature.world import World
from toolgym.policies.base import Policy
from toolgym.selftrain.sampling import Players, SamplingSettings
from toolgym.selftrain.settings import EnvironmentSettings, own_model

SLOW = 'if [ -e "$0" ]; then rm "$0"; sleep 60; fi; exec "$@"'


def episodes(
    policy: Policy,
    places: list[EnvironmentSettings],
    out: Path,
    each: int,
    at_once: int,
    after: Callable[[int], None] = lambda _: None,
) -> Iterator[Trajectory]:
    """Play each environment's first held-out questions."""
    played = 0
    for place in places:

        def progress(done: int, _: int, before: int = played) -> None:
            after(before + done)

        run: Run = rollout(
            place.id,
            policy,
            env_args={**place.args, **(place.test or {})},
            episodes=each,
            out=out / place.label,
            concurrency=at_once,
            progress=progress,
        )
        assert not run.failures(), run.failures()[0]
        played += len(run)
        yield from run.trajectories()


def content(trajectory: Trajectory) -> Any:
    """Everything but the clock."""
    row = trajectory.to_row()
    for step in row["steps"]:
        del step["seconds"]
    return row


def difference(trajectories: list[Trajectory], model: Path) -> float:
    """The largest difference of a log-probability from the model's own, in this process."""
    loaded, most = AutoModelForCausalLM.from_pretrained(model), 0.0
    for trajectory in trajectories:
        tokens = trajectory.tokens
        assert tokens is not None
        assert tokens.logprobs is not None
        ids = torch.tensor([[*tokens.prompt_ids, *tokens.completion_ids]])
        with torch.no_grad():
            logits = loaded(ids).logits[0, len(tokens.prompt_ids) - 1 : -1]  # (token, word)
        own = logits.log_softmax(-1).gather(1, ids[0, len(tokens.prompt_ids) :, None])[:, 0]
        said, mask = torch.tensor(tokens.logprobs), torch.tensor(tokens.mask, dtype=torch.bool)
        most = max(most, float((own - said)[mask].abs().max()))
    return most


def main() -> None:
    """Play three times and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="build/vllm/bin/vllm")
    parser.add_argument("--out", type=Path, default=Path("runs/vllm"))
    parser.add_argument("--episodes", type=int, default=150)
    asked = parser.parse_args()
    model = build_base(asked.out / "base")
    World(0).write(asked.out / "world", train=500, test=500)
    preset = own_model("miniature")
    assert preset is not None
    places = preset.environments((asked.out / "world").resolve())
    each, flag = asked.episodes // len(places), (asked.out / "slow").resolve()
    # On a CPU it dies of a request with a seed whose prompt it reads in parts.
    options = ["--enforce-eager", "--no-enable-chunked-prefill"]
    vllm = SamplingSettings.model_validate(
        {"engine": "vllm", "server": {"program": asked.program, "options": options}}
    )
    server = {
        "command": ["sh", "-c", SLOW, str(flag), *vllm.command],
        # One GiB, and not bound to one core, whatever else runs there.
        "environment": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        "start_seconds": 1800.0,
    }
    settings = SamplingSettings.model_validate(
        {"max_new_tokens": 48, "engine": "command", "server": server}
    )
    killed: list[int] = []

    def tell(_: str, done: int, total: int, note: str) -> None:
        if not note.startswith("starting"):
            print(f"server       {note[:120]}", flush=True)

    with Players(settings, asked.out, tell) as players:
        policy = players.policy(str(model), 1.0)
        running = players.server
        assert running is not None

        def kill(done: int) -> None:
            if done >= asked.episodes // 3 and not killed:
                flag.touch()
                killed.append(running.pid)
                os.kill(running.pid, signal.SIGKILL)

        runs: dict[str, list[Trajectory]] = {}
        for name, at_once, after in (
            ("1 at once", 1, lambda _: None),
            ("64 at once", 64, lambda _: None),
            ("64, killed", 64, kill),
        ):
            begun, folder = time.monotonic(), asked.out / name.replace(" ", "-").replace(",", "")
            runs[name] = list(episodes(policy, places, folder, each, at_once, after))
            print(f"{name:12} {time.monotonic() - begun:.1f} s", flush=True)
        deaths = running.deaths
    first = runs["1 at once"]
    for name, played in runs.items():
        exact = sum(trajectory.tokens is not None for trajectory in played)
        same = sum(content(a) == content(b) for a, b in zip(first, played, strict=True))
        said = sum(
            [step.action for step in a.steps] == [step.action for step in b.steps]
            for a, b in zip(first, played, strict=True)
        )
        print(
            f"{name:12} {len(played)} episodes, {exact} token-exact, {said} with the replies and "
            f"{same} with all that the first run recorded"
        )
    print(f"deaths       {deaths}, each followed by a minute's pause")
    print(f"log-probabilities differ from transformers' by {difference(first, model):.6f} at most")


if __name__ == "__main__":
    main()
