"""TRL's GRPO generation, for `rollout_local.py`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import groupby
from typing import Any

from rollout_contenders import LOOP, NETWORK, TEXTS, TOOLS, TURNS, Contender, Played, World

from toolgym import ToolEnv
from toolgym._util.optional import quiet
from toolgym.messages import ToolCall

# The miniature's own turns, and its own way to call: TRL's loop wants native calls.
CHAT = (
    "{%- for m in messages %}"
    "{%- if m.role == 'assistant' %}{{- '<|assistant|>' + (m.content or '') }}"
    "{%- for c in m.tool_calls or [] %}"
    "{{- '\\nAction: ' + c.function.name + '[' + c.function.arguments | tojson + ']' }}"
    "{%- endfor %}{{- '<|end|>' }}"
    "{%- else %}{{- '<|user|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
CALLS: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open_pattern": r"\nAction: (?P<name>\w+)\[",
            "close": "]",
            "repeats": True,
            "content": "text",
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": {"text": "{content}"}},
            },
        },
        "content": {"close_pattern": r"<\|end\|>", "content": "text"},
    },
}


class TrlFirstTurns(Contender):
    """``GRPOTrainer._generate`` without tools: the first reply to every question."""

    whole = False

    def open(self, world: World) -> None:
        """Make a trainer on a model of its own."""
        self._trainers = [self._trainer(world, env) for _, _, env in world.families]

    def tools(self, env: ToolEnv) -> list[Callable[..., str]]:
        """What the trainer may call."""
        return []

    def play(self, world: World, seed: int) -> Played:
        """In batches, each environment's questions apart."""
        import torch

        torch.manual_seed(seed)
        played = Played()
        for trainer, (_, _, env) in zip(self._trainers, world.families, strict=True):
            tasks = list(env.tasks)
            for begin in range(0, len(tasks), self.width):
                batch = tasks[begin : begin + self.width]
                self._batch(trainer, env, batch, played)
        return played

    def _batch(self, trainer: Any, env: ToolEnv, batch: list[Any], played: Played) -> None:
        prompts = [[{"role": "user", "content": f"Question: {t.question}"}] for t in batch]
        # As the trainer does before it generates.
        trainer._sync_tool_dicts = [{t.__name__: t for t in trainer.tools}] * len(batch)
        trainer._async_tool_dicts = [{}] * len(batch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, completions, masks, *_ = trainer._generate(prompts)
        for n, (task, ids) in enumerate(zip(batch, completions, strict=True)):
            mask = masks[n] if masks is not None else [1] * len(ids)
            played.episodes += 1
            played.tokens += sum(mask)
            played.replies[task.id] = [
                trainer.processing_class.decode([i for i, _ in part], skip_special_tokens=True)
                for written, part in groupby(zip(ids, mask, strict=True), lambda pair: pair[1])
                if written
            ]

    def _trainer(self, world: World, env: ToolEnv) -> Any:
        import datasets
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names that TRL itself still uses
            tokenizer = AutoTokenizer.from_pretrained(world.model, padding_side="left")
            model = AutoModelForCausalLM.from_pretrained(world.model).eval()
            tokenizer.chat_template, tokenizer.response_template = CHAT, CALLS
            trainer = GRPOTrainer(
                model=model,
                reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
                args=GRPOConfig(
                    output_dir=str(world.families[0][1]["tasks"]) + ".trl",
                    per_device_train_batch_size=self.width,
                    num_generations=2,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_completion_length=16 * world.tokens,  # of an episode, results included
                    max_tool_calling_iterations=TURNS - 1,
                    gradient_checkpointing=False,
                    bf16=False,
                    use_cpu=True,
                    report_to=[],
                ),
                train_dataset=datasets.Dataset.from_dict({"prompt": ["x"] * self.width}),
                processing_class=tokenizer,
                tools=self.tools(env) or None,
            )
        trainer.generation_config.max_new_tokens = world.tokens  # of a reply
        return trainer


class TrlTools(TrlFirstTurns):
    """``GRPOTrainer._generate`` with tools: replies, calls and results until there is no call."""

    whole = True

    def tools(self, env: ToolEnv) -> list[Callable[..., str]]:
        """The environment's tools as functions of a text, worded as the environment words them."""

        def run(name: str, text: str) -> str:
            schemas = env.toolset.schemas()
            named = {s["function"]["name"]: s["function"]["parameters"] for s in schemas}
            call = ToolCall("call_0", name, {next(iter(named[name]["properties"])): text})
            results = env.toolset.execute([call])
            return env.format.results([call], results, schemas)[0].content

        def Calculator(text: str) -> str:  # noqa: N802 - the tool's name
            """Calculate.

            Args:
                text: the expression.
            """
            return run("Calculator", text)

        def WikipediaSearch(text: str) -> str:  # noqa: N802
            """Search.

            Args:
                text: the query.
            """
            return run("WikipediaSearch", text)

        return [Calculator, WikipediaSearch]

    def parts(self, world: World) -> list[tuple[Any, str, str]]:
        """Its policy is all but the tools."""
        parts: list[tuple[Any, str, str]] = []
        for trainer, (_, _, env) in zip(self._trainers, world.families, strict=True):
            parts += [
                (trainer.model, "forward", NETWORK),
                (trainer, "_generate_single_turn", LOOP),
                (trainer, "_generate", TEXTS),
                (env.toolset, "execute", TOOLS),
            ]
        return parts
