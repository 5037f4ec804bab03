"""The names of all that ships with toolgym, as strings: importing this imports none of it."""

from __future__ import annotations

from toolgym.registry import FORMATS, POLICIES, PROMPTS, TOOLS


def register() -> None:
    """The built-in plug-in of the core: formats, prompting strategies, tools, policies."""
    FORMATS.add("react", "toolgym.formats.react:ReactFormat")
    FORMATS.add("react-paper", "toolgym.formats.react:PaperReactFormat")
    FORMATS.add("tags", "toolgym.formats.tags:TagsFormat")
    FORMATS.add("hermes", "toolgym.formats.hermes:HermesFormat")
    FORMATS.add("llama3", "toolgym.formats.llama3:Llama3Format")
    for name in (
        "no_tool",
        "no_tool_cot",
        "tools_single_step",
        "tools_single_step_no_rationale",
        "tools_multi_step",
        "bare",
        "reasoning",
        "non_reasoning",
    ):
        PROMPTS.add(name, f"toolgym.formats.strategies:{name.upper()}")
    TOOLS.add("Calculator", "toolgym.tools.calculator.tool:make_calculator")
    TOOLS.add("WikipediaSearch", "toolgym.tools.search.tool:make_search")
    TOOLS.add("MachineTranslator", "toolgym.tools.translator.tool:make_translator")
    POLICIES.add("replay", "toolgym.policies.scripted:ReplayPolicy")
    POLICIES.add("scripted", "toolgym.policies.scripted:ScriptedPolicy")
    POLICIES.add("transformers", "toolgym.policies.local.transformers:TransformersPolicy")
    POLICIES.add("endpoint", "toolgym.policies.endpoint:EndpointPolicy")
