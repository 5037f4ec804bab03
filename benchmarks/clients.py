"""OpenAI's, Anthropic's and LiteLLM's real packages as policies, against a service over real HTTP.

Run with an environment that has all three: ``make clients``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

import anthropic
import openai
from chat_service import ChatService

from toolgym import rollout

TASKS = [{"id": "a", "question": "What is 6 times 7?", "answers": ["42"]}]


def main() -> None:
    """Play an episode with each client in two formats, and say what came of it."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched
    with ChatService() as service:
        keys = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
        keys |= {"OPENAI_BASE_URL": f"{service.root}/v1", "ANTHROPIC_BASE_URL": service.root}
        os.environ |= keys
        policies = {
            "openai.OpenAI": (openai.OpenAI(), {"model": "m"}),
            "openai.AsyncOpenAI": (openai.AsyncOpenAI(), {"model": "m"}),
            "openai:m": ("openai:m", {}),
            "anthropic.Anthropic": (anthropic.Anthropic(), {"model": "m"}),
            "anthropic.AsyncAnthropic": (anthropic.AsyncAnthropic(), {"model": "m"}),
            "anthropic:m": ("anthropic:m", {}),
            "litellm:openai/m": ("litellm:openai/m", {"api_base": f"{service.root}/v1"}),
            "litellm:anthropic/m": ("litellm:anthropic/m", {"api_base": service.root}),
        }
        for name, (policy, options) in policies.items():
            for form in ("native", "react"):
                before = len(service.bodies)
                env_args = {"format": form, "tasks": TASKS, "tools": ["Calculator"]}
                run = rollout(
                    *("ToolQA-GSM8K-v0", policy),
                    env_args={**env_args, "max_tokens": 100},
                    policy_args=options,
                )
                assert not run.failures(), run.failures()
                (trajectory,) = run
                requests = len(service.bodies) - before
                written = trajectory.metrics["tokens_written"]
                print(f"{name:26}{form:8}reward {trajectory.reward:g}  {requests} requests  "
                      f"{written:g} tokens by its own count")  # fmt: skip
                assert (trajectory.reward, requests, written) == (1.0, 2, 10.0)
                assert "tokens_estimated" not in trajectory.metrics


if __name__ == "__main__":
    main()
