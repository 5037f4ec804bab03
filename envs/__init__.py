"""Environment families; registered as strings, imported when they are made."""

from __future__ import annotations

from toolgym.registry import (
    AUTHORS,
    COMMANDS,
    CORPORA,
    ENVIRONMENTS,
    MAKERS,
    POLICIES,
    PRESETS,
    REWARDS,
    VIEWERS,
    Resource,
)

__all__ = ["IDS", "register"]

_TOOLQA = (
    ("PopQA", "questions about entities of known popularity"),
    ("TriviaQA", "trivia questions with aliases as answers"),
    ("GSM8K", "grade-school word problems whose answer is a number"),
    ("NQOpen", "questions typed into a search engine"),
)
_SCENARIO = "ToolScenario-v0"
_BFCL = "ToolBFCL-v0"
IDS = (*(f"ToolQA-{name}-v0" for name, _ in _TOOLQA), _SCENARIO, _BFCL)
_CORPORA = (
    ("sample", "encyclopedia", "the bundled encyclopedia of about a thousand articles"),
    ("phrasebook", "phrasebook", "phrases of the bundled samples in a few languages"),
)
_POLICIES = (
    ("lookup", "toolqa.lookup:LookupPolicy", "an honest baseline for ToolQA"),
    ("random", "toolqa.baselines:RandomPolicy", "searches at random, guesses a name that it read"),
    ("spam", "toolqa.baselines:SpamPolicy", "searches again and again, offers all that it read"),
    ("scenario-oracle", "toolscenario.policies:OraclePolicy", "makes the reference calls"),
    ("scenario-random", "toolscenario.policies:RandomCallPolicy", "calls a tool at random"),
    ("scenario-no-call", "toolscenario.policies:NoCallPolicy", "answers without a call"),
    ("scenario-spam", "toolscenario.policies:SpamPolicy", "calls everything with everything"),
)


def register() -> None:
    """Add the environment ids, and what belongs to them, to the registries."""
    for name, about in _TOOLQA:
        make = f"toolgym.envs.toolqa.families:make_{name.lower()}"
        ENVIRONMENTS.add(
            f"ToolQA-{name}-v0",
            make,
            vector=f"{make}_vector",
            sources=f"toolgym.envs.toolqa.families:{name.upper()}.source_facts",
            about=about,
        )
    scenario = "toolgym.envs.toolscenario"
    ENVIRONMENTS.add(
        _SCENARIO,
        f"{scenario}.environment:make",
        vector=f"{scenario}.environment:make_vector",
        about="questions that bring tools of their own, made of code",
        oracle="scenario-oracle:{tasks}",
    )
    bfcl = "toolgym.envs.toolbfcl"
    ENVIRONMENTS.add(
        _BFCL,
        f"{bfcl}.environment:make",
        vector=f"{bfcl}.environment:make_vector",
        sources=f"{bfcl}.data:source_facts",
        about="the Berkeley function-calling leaderboard, from its own wheel",
        oracle="bfcl-plan",
    )
    about = "the leaderboard's own verdict on ToolBFCL: states and results after each user turn"
    REWARDS.add("bfcl", f"{bfcl}.checks:bfcl", about=about)
    about = "whether a ToolBFCL policy brought about what the gold plan does, in whatever way"
    REWARDS.add("bfcl_state", f"{bfcl}.checks:bfcl_state", about=about)
    about = "the gold plan of ToolBFCL, or a spoiled one"
    POLICIES.add("bfcl-plan", f"{bfcl}.environment:PlanPolicy", about=about)
    for name, file, about in _CORPORA:
        found = Resource("toolgym.envs.toolqa", f"samples/{file}_sample.jsonl")
        CORPORA.add(name, found, about=about)
    author = f"{scenario}.authors"
    about = "scenarios without a model, from tables or triples"
    AUTHORS.add("offline", f"{author}.template.author:OfflineAuthor", about=about)
    about = "worlds without a model: tools that remember, goals over their state"
    AUTHORS.add("template", f"{author}.stateful.author:WorldAuthor", about=about)
    about = "new scenarios without a model, by shape and level of scaling"
    MAKERS.add("scenarios", f"{scenario}.compiler.curriculum:ScenarioTasks", about=about)
    about = "new worlds without a model, by domain and level"
    MAKERS.add("worlds", f"{scenario}.compiler.curriculum:WorldTasks", about=about)
    about = "scenarios by a model behind an OpenAI-compatible server"
    AUTHORS.add("endpoint", f"{author}.llm.author:EndpointAuthor", about=about)
    about = "worlds by a model (--author endpoint --kind stateful)"
    AUTHORS.add("endpoint-stateful", f"{author}.llm.worlds:EndpointWorldAuthor", about=about)
    about = "build, check and convert scenarios"
    COMMANDS.add("scenarios", f"{scenario}.compiler.cli:app", about=about)
    about = "scenarios, and those that a build rejected"
    VIEWERS.add("scenario", f"{scenario}.describing:describe_row", about=about)
    for name, policy, about in _POLICIES:
        POLICIES.add(name, f"toolgym.envs.{policy}", about=about)
    about = "the job of arXiv 2502.05867, for a model of yours"
    PRESETS.add("paper", "toolgym.envs.toolqa.paper:PaperPreset", about=about)
