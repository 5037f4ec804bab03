"""Prompting strategies: what a policy is told about tools, independent of the format's syntax.

The first five are those of arXiv 2502.05867 (section on prompting), in our own words; ``bare``
gives no instructions at all, for policies that were trained into a format.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BARE",
    "NON_REASONING",
    "NO_TOOL",
    "NO_TOOL_COT",
    "REASONING",
    "TOOLS_MULTI_STEP",
    "TOOLS_SINGLE_STEP",
    "TOOLS_SINGLE_STEP_NO_RATIONALE",
    "Strategy",
]


@dataclass(frozen=True, slots=True)
class Strategy:
    """What the instructions ask for.

    Args:
        name: what users write as ``prompt``.
        tools: whether tools are offered at all.
        tool_turns: in how many turns tools may be called; None = as many as the episode has.
        thought: ask for reasoning before acting or answering.
        rationale: ask for a reading of the tool results before the answer.
        instructions: write instructions; without them the question stands alone.
        reasoning: ask for that reasoning between ``<think>`` and ``</think>``.
    """

    name: str
    tools: bool = True
    tool_turns: int | None = None
    thought: bool = True
    rationale: bool = True
    instructions: bool = True
    reasoning: bool = False

    def thinking(self) -> str:
        """The begin of the sentence that asks for an answer."""
        if self.reasoning:
            return "Reason between <think> and </think> first, in every turn. Then write"
        return "Think step by step, then write" if self.thought else "Write"


NO_TOOL = Strategy("no_tool", tools=False, thought=False, rationale=False)
NO_TOOL_COT = Strategy("no_tool_cot", tools=False, rationale=False)
TOOLS_SINGLE_STEP = Strategy("tools_single_step", tool_turns=1)
TOOLS_SINGLE_STEP_NO_RATIONALE = Strategy(
    "tools_single_step_no_rationale", tool_turns=1, rationale=False
)
TOOLS_MULTI_STEP = Strategy("tools_multi_step")
BARE = Strategy("bare", instructions=False)
REASONING = Strategy("reasoning", reasoning=True)
"""For models that reason before they act (arXiv 2508.08791, evaluation)."""
NON_REASONING = Strategy("non_reasoning", thought=False, rationale=False)
"""For models that act at once."""
