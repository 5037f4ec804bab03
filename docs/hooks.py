"""What the site shows of the library itself, made while the site is built: it cannot go stale.

A line ``<!-- gallery: NAME -->`` in a page becomes a card for each registered name, with an example
that is played, called or written at that moment. mkdocs calls `on_page_markdown`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from toolgym.cli.viewing import describe
from toolgym.env import ToolEnv
from toolgym.envs import IDS
from toolgym.formats import get_format
from toolgym.formats.base import Action
from toolgym.grading.rubric import Rubric
from toolgym.messages import ToolCall, ToolResult
from toolgym.registry import ENVIRONMENTS, FORMATS, PROMPTS, REWARDS, TOOLS
from toolgym.rollouts.engine import rollout
from toolgym.tools.toolset import make_toolset
from toolgym.trajectory import Trajectory

GALLERY = re.compile(r"^<!-- gallery: ([\w-]+) -->$", re.M)
PLAYERS = {"ToolScenario-v0": "scenario-oracle", "ToolBFCL-v0": "bfcl-plan"}
"""Who plays the example of an environment; `lookup` the others."""
WRITTEN = {
    "ToolQA-GSM8K-v0": (
        "gsm8k-sample-001",
        (
            "Thought: 54 scones, less 14, in boxes of 8.\nAction: Calculator[(6*9-14)/8]",
            "Thought: That is what was asked.\nAnswer: 5",
        ),
    )
}
"""Task and replies of an example for which there is no player."""
TRIES = 40
"""Episodes among which the example is looked for: the first that was right."""
CALLS = {
    "Calculator": {"expression": r"\frac{3}{4} of 120"},
    "WikipediaSearch": {"query": "capital of Morocco"},
    "MachineTranslator": {"text": "¿En qué océano desemboca el río Amazonas?"},
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its galleries; see mkdocs, "Hooks".

    Raises:
        KeyError: there is no gallery of that name.
    """
    return GALLERY.sub(lambda found: "\n".join(GALLERIES[found[1]]()), markdown)


def environments() -> Iterator[str]:
    """A card for each environment, with one episode."""
    for name in IDS:  # what a plug-in on this machine adds does not belong here
        written = name in WRITTEN
        player = "replies written for it" if written else f"`{PLAYERS.get(name, 'lookup')}`"
        environment = ENVIRONMENTS.get(name)()
        try:
            facts = [
                (
                    "tasks without further arguments",
                    f"{len(environment.tasks):,}".replace(",", " "),
                ),
                ("tools", ", ".join(environment.toolset.names) or "each task brings its own"),
                ("reward", ", ".join(f"`{key}`" for key in environment.rubric.weights)),
                ("turns", str(environment.max_steps)),
            ]
            example = _said(environment, *WRITTEN[name]) if written else _right(name)
        finally:
            environment.close()
        yield from _card(name, ENVIRONMENTS.about(name), facts)
        yield from _code(f'env = gym.make("{name}")', "python")
        yield from _fold(f"An episode, played by {player}", describe(example, width=300))


def tools() -> Iterator[str]:
    """A card for each tool, with a call that was made."""
    for name in CALLS:
        toolset = make_toolset([name])
        (document,) = toolset.schemas()
        function = document["function"]
        parameters = function["parameters"]
        yield from _card(name, TOOLS.about(name), [])
        yield function["description"].strip().splitlines()[0] + "\n"
        yield "| argument | type | |\n|:--|:--|:--|"
        for key, value in parameters["properties"].items():
            need = "" if key in parameters.get("required", ()) else " (optional)"
            kind = value.get("type", "any")
            yield f"| `{key}` | {kind}{need} | {' '.join(value.get('description', '').split())} |"
        (result,) = toolset.execute([ToolCall("call_0", name, CALLS[name])])
        toolset.close()
        shown = ", ".join(f"{key}={value!r}" for key, value in CALLS[name].items())
        yield ""
        yield from _code(f"{name}({shown})\n-> {result.content}", "text")


def formats() -> Iterator[str]:
    """A card for each format: one call, its result and one answer, as they are written."""
    toolset = make_toolset(["WikipediaSearch"])
    documents = toolset.schemas()
    call = ToolCall("call_0", "WikipediaSearch", {"query": "capital of Morocco"})
    found = ToolResult("call_0", "Morocco: The capital of Morocco is Rabat.")
    for name in FORMATS:
        codec = get_format(name)
        yield from _card(name, FORMATS.about(name), [])
        turns = [
            ("policy", codec.write(Action("I look it up.", (call,)), documents)),
            *(
                ("environment", message.content)
                for message in codec.results([call], [found], documents)
            ),
            ("policy", codec.write(Action("It says so.", answer="Rabat"), documents)),
        ]
        yield from _code("\n\n".join(f"[{who}]\n{text}" for who, text in turns), "text")
    toolset.close()


def prompts() -> Iterator[str]:
    """A row for each prompting strategy."""
    yield "| strategy | |\n|:--|:--|"
    for name in PROMPTS:
        yield f"| `{name}` | {PROMPTS.about(name)} |"


QUESTION_REPLIES = {
    "searches, and answers `Rabat`": (
        "Action: WikipediaSearch[capital of Morocco]",
        "Answer: Rabat",
    ),
    "answers `Rabat` at once": ("Answer: Rabat",),
    "pastes the passage": (
        "Action: WikipediaSearch[capital of Morocco]",
        "Answer: The capital of Morocco, a North African kingdom facing both the Atlantic and the "
        "Mediterranean, is Rabat. The official languages are Arabic and Tamazight.",
    ),
    "lists candidates": ("Answer: Casablanca, Rabat or Fez",),
    "answers `Fez` after a call that fails": ("Action: Calculator[capital]", "Answer: Fez"),
}
SCENARIO_PLAYERS = ("scenario-oracle", "scenario-no-call", "scenario-random", "scenario-spam")


def rewards() -> Iterator[str]:
    """Tables of what the rewards pay for the same episodes."""
    names = [name for name in REWARDS if _of(name) == "answer"]
    yield from _paid(
        "What is the capital of Morocco?", _question_episodes(), names, "the policy ..."
    )
    solving = [name for name in REWARDS if _of(name) == "solve"]
    played = {who: _one("ToolScenario-v0", who) for who in SCENARIO_PLAYERS}
    yield from _paid("A scenario with tools of its own", played, solving, "played by")
    for name in REWARDS:
        yield from _card(name, "", [])
        text = inspect.getdoc(REWARDS.get(name)) or ""
        yield text.split("\nArgs:")[0].replace("``", "`").strip() + "\n"
        arguments = [
            parameter.name + f"={parameter.default!r}"
            for parameter in inspect.signature(REWARDS.get(name)).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        if arguments:
            yield f"Options: {', '.join(f'`{argument}`' for argument in arguments)}.\n"


def _of(reward: str) -> str:
    return str(REWARDS.get(reward).__module__).rpartition(".")[2]


def _question_episodes() -> dict[str, Trajectory]:
    question = {"question": "What is the capital of Morocco?", "answer": "Rabat"}
    environment = ENVIRONMENTS.get("ToolQA-PopQA-v0")(tasks=[question], reward={"accuracy": 1.0})
    played = {
        title: _said(environment, None, replies) for title, replies in QUESTION_REPLIES.items()
    }
    environment.close()
    return played


def _said(environment: ToolEnv, task: str | None, replies: Sequence[str]) -> Trajectory:
    environment.reset(seed=0, options={"task": task} if task else None)
    for reply in replies:
        environment.step(reply)
    trajectory = environment.finished
    if trajectory is None:
        raise ValueError(f"the replies {replies!r} do not end an episode")
    return trajectory


def _right(environment: str) -> Trajectory:
    policy = PLAYERS.get(environment, "lookup")
    played = list(rollout(environment, policy, episodes=TRIES, seed=0))
    return next((episode for episode in played if episode.reward >= 1.0), played[0])


def _one(environment: str, policy: str) -> Trajectory:
    (trajectory,) = rollout(environment, policy, episodes=1, seed=0)
    return trajectory


def _paid(
    title: str, played: dict[str, Trajectory], names: Sequence[str], first: str
) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"| {first} | " + " | ".join(f"`{name}`" for name in names) + " |"
    yield "|:--|" + "--:|" * len(names)
    for who, trajectory in played.items():
        parts = Rubric(dict.fromkeys(names, 1.0)).parts(trajectory.task, trajectory)
        sums = (f"{sum(parts[name]):.2f}" for name in names)
        yield f"| {who if ' ' in who else f'`{who}`'} | " + " | ".join(sums) + " |"
    yield ""


def _card(name: str, about: str, facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield f"\n## {name}\n"
    if about:
        yield f"{about[:1].upper()}{about[1:]}.\n"
    if facts:
        yield from (f"- {key}: {value}" for key, value in facts)
        yield ""


def _code(text: str, kind: str) -> Iterator[str]:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    yield f"{fence}{kind}\n{text}\n{fence}\n"


def _fold(title: str, text: str) -> Iterator[str]:
    yield f'??? example "{title}"\n'
    yield "\n".join("    " + line for line in "\n".join(_code(text, "text")).splitlines()) + "\n"


GALLERIES: dict[str, Callable[[], Iterator[str]]] = {
    "environments": environments,
    "tools": tools,
    "formats": formats,
    "prompts": prompts,
    "rewards": rewards,
}
