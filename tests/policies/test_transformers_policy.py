"""The policy of a local model: sampling, token-exact turns, templates, ends and stops."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym import rollout
from toolgym.errors import BadInputError, MissingFileError, PolicyError, TemplateError
from toolgym.formats import get_format
from toolgym.messages import Message, to_chats
from toolgym.policies import Reply, ReplyTokens, Request, make_policy

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from toolgym.policies.local.chat import TokenChat, merged_system, tokenizer_hash  # noqa: E402
from toolgym.policies.local.sampling import Sampler, uniforms  # noqa: E402
from toolgym.policies.local.transformers import TransformersPolicy, unload_models  # noqa: E402

PAD, END, OTHER_END = "<|pad|>", "<|end|>", "<|stop|>"
TEMPLATE = (
    "{%- for m in messages %}{{- '<|' + m.role + '|>' + m.content + '<|end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def make_tokenizer(template: str | None = TEMPLATE) -> Any:
    """One token a character, so that every reply round-trips; the roles and ends are special."""
    tokenizers = pytest.importorskip("tokenizers")
    # Byte-level tokenizers write the blank as \u0120 and the line break as \u010a.
    alphabet = ["\u0120", "\u010a", *map(chr, range(33, 127))]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    roles = [f"<|{role}|>" for role in ("system", "user", "assistant", "tool")]
    bpe.add_special_tokens([PAD, END, OTHER_END, *roles, "<tool_call>"])
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END)
    made.chat_template = template
    return made


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only get into each other's way in a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights in float64: no float ties between batches."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=2048,
        initializer_range=0.4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float64",
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.float64)
    ids = tokenizer.convert_tokens_to_ids([END, OTHER_END])
    # A penalty as some models save it: it must not leak into the sampling.
    settings = {"repetition_penalty": 5.0, "eos_token_id": ids}
    model.generation_config = transformers.GenerationConfig(**settings)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def asked(question: str = "Q?", format: str = "react", **fields: Any) -> Request:
    codec = get_format(format, "bare")
    messages = to_chats([Message("system", "Be good."), Message("user", question)])
    return Request(messages, [], codec, **fields)


def tokens(reply: Reply | Exception) -> ReplyTokens:
    assert not isinstance(reply, Exception), reply
    assert reply.tokens is not None
    return reply.tokens


def reply(policy: TransformersPolicy, request: Request) -> Reply:
    made = policy.act([request])[0]
    assert not isinstance(made, Exception), made
    return made


def following(request: Request, said: str, heard: str = "result") -> Request:
    """The request of the next turn."""
    messages = [
        *request.messages,
        {"role": "assistant", "content": said},
        {"role": "user", "content": heard},
    ]
    return dataclasses.replace(request, messages=messages, turn=request.turn + 1)


class TestSampling:
    def test_a_reply_is_the_same_alone_and_in_any_batch(self, folder: Path) -> None:
        requests = [asked("x" * (7 * n % 40), seed=n, episode=f"t{n}#0") for n in range(33)]
        policy = TransformersPolicy(folder, max_new_tokens=40, batch_size=33, logprobs=True)
        together = [tokens(r) for r in policy.act(requests)]
        small = TransformersPolicy(folder, max_new_tokens=40, batch_size=5)
        assert [tokens(r).completion_ids for r in small.act(requests)] == [
            t.completion_ids for t in together
        ]
        for n in (0, 5, 16, 32):
            alone = tokens(policy.act([requests[n]])[0])
            assert alone.completion_ids == together[n].completion_ids
            assert alone.logprobs == pytest.approx(together[n].logprobs, abs=1e-6)
        assert len({tuple(t.completion_ids) for t in together}) == 33

    def test_a_reply_at_the_limit_of_its_length_was_cut(self, folder: Path) -> None:
        for limit in (1, 12, 40):  # 40: more than one span of generation
            policy = TransformersPolicy(folder, max_new_tokens=limit)
            replies = policy.act([asked("x", seed=n) for n in range(40)])
            ends = policy._chat.end_ids
            for reply in replies:
                assert isinstance(reply, Reply)
                ids = tokens(reply).completion_ids
                assert reply.cut == (ids[-1] not in ends)
                assert not reply.cut or len(ids) == limit
            assert any(reply.cut for reply in replies if isinstance(reply, Reply))

    @pytest.mark.parametrize("plain", [True, False])
    def test_what_is_left_of_an_episodes_budget_bounds_a_reply(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
    ) -> None:
        monkeypatch.setattr("toolgym.policies.local.generation._is_plain", lambda model: plain)
        policy = TransformersPolicy(folder, max_new_tokens=12, logprobs=True)
        lefts = [3, 12, 40, None] * 4
        replies = policy.act([asked("x", seed=n, tokens_left=k) for n, k in enumerate(lefts)])
        free = policy.act([asked("x", seed=n) for n in range(len(lefts))])
        for left, made, whole in zip(lefts, replies, free, strict=True):
            assert isinstance(made, Reply)
            ids = tokens(made).completion_ids
            assert ids == tokens(whole).completion_ids[: min(left or 12, 12)]
            assert len(tokens(made).logprobs or ()) == len(ids)
            assert made.cut == (ids[-1] not in policy._chat.end_ids)

    def test_the_seed_decides(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=12)
        torch.manual_seed(1)
        first = [tokens(r).completion_ids for r in policy.act([asked(seed=s) for s in (1, 2, 1)])]
        torch.manual_seed(2)
        again = [tokens(r).completion_ids for r in policy.act([asked(seed=s) for s in (1, 2, 1)])]
        assert first == again
        assert first[0] == first[2] != first[1]

    def test_temperature_0_is_greedy_search(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, temperature=0, max_new_tokens=40, logprobs=True)
        for question in ("a", "bc", "what now"):
            got = tokens(policy.act([asked(question)])[0])
            model = transformers.AutoModelForCausalLM.from_pretrained(folder)
            config = transformers.GenerationConfig(
                max_new_tokens=40,
                do_sample=False,
                eos_token_id=model.generation_config.eos_token_id,
                repetition_penalty=1.0,
                pad_token_id=0,
            )
            ids = torch.tensor([got.prompt_ids])
            mask = torch.ones_like(ids)
            whole = model.generate(ids, attention_mask=mask, generation_config=config)[0].tolist()
            assert got.completion_ids == whole[len(got.prompt_ids) :]

    def test_logprobs_are_the_models_own(self, folder: Path) -> None:
        policy = TransformersPolicy(
            folder, temperature=0.7, top_p=0.9, max_new_tokens=20, logprobs=True
        )
        got = tokens(policy.act([asked(seed=3)])[0])
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        ids = torch.tensor([got.prompt_ids + got.completion_ids])
        with torch.no_grad():
            logits = model(ids).logits[0, len(got.prompt_ids) - 1 : -1]
        expected = torch.log_softmax(logits.float(), -1).gather(
            1, torch.tensor(got.completion_ids)[:, None]
        )[:, 0]
        assert got.logprobs == pytest.approx(expected.tolist(), abs=1e-5)

    @pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6)])
    def test_frequencies_follow_the_distribution(self, temperature: float, top_p: float) -> None:
        logits = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3]))
        count = 20_000
        drawn = np.random.default_rng(0).random((count, 1))
        sampler = Sampler(
            drawn, temperature=temperature, top_p=top_p, device=torch.device("cpu"), logprobs=False
        )
        chosen = sampler(torch.zeros(count, 1), logits.expand(count, 4)).argmax(-1)
        expected = torch.softmax(logits / temperature, -1)
        if top_p < 1:  # 0.4 + 0.3 reach 0.6
            expected = torch.tensor([0.0, 0.4, 0.0, 0.3]) / 0.7
        found = torch.bincount(chosen, minlength=4) / count
        assert torch.allclose(found, expected, atol=0.015)
        assert (found[expected == 0] == 0).all()

    @given(st.integers(-(2**70), 2**70), st.integers(0, 40))
    def test_uniform_numbers_depend_on_seed_and_position_alone(self, seed: int, count: int) -> None:
        longer = uniforms([1, seed], count + 5)
        assert (uniforms([seed], count)[0] == longer[1, :count]).all()
        assert ((longer >= 0) & (longer < 1)).all()

    def test_the_largest_number_never_picks_an_impossible_token(self) -> None:
        logits = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]])
        for top_p in (1.0, 0.99):
            sampler = Sampler(
                np.array([[1 - 2**-53]]),
                temperature=1.0,
                top_p=top_p,
                device=torch.device("cpu"),
                logprobs=False,
            )
            assert sampler(torch.zeros(1, 1), logits).argmax().item() in (0, 1)


class TestTurns:
    def test_three_turns_are_token_exact(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=24)
        requests = [asked("Who?", seed=n, episode=f"t{n}#0") for n in range(40)]
        before: list[list[int]] = [[] for _ in requests]
        for _ in range(3):
            replies = policy.act(requests)
            for n, made in enumerate(replies):
                got = tokens(made)
                assert got.prompt_ids[: len(before[n])] == before[n]
                before[n] = got.prompt_ids + got.completion_ids
            requests = [
                following(request, made.text)
                for request, made in zip(requests, replies, strict=True)
                if isinstance(made, Reply)
            ]

    def test_worked_examples_are_part_of_the_prompt_alone(self, folder: Path) -> None:
        args = {"examples": 1, "max_steps": 3, "prompt": "bare", "tools": ["WikipediaSearch"]}
        policy = TransformersPolicy(folder, max_new_tokens=8, max_prompt_tokens=1900)
        (episode,) = rollout("ToolQA-PopQA-v0", policy, env_args=args, episodes=1).trajectories()
        assert len(episode.steps) == 3
        assert episode.tokens is not None, "the template continues what was said"
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        opening = tokenizer.apply_chat_template(
            to_chats(episode.messages[: episode.opening]),
            add_generation_prompt=True,
            tokenize=False,
        )
        assert "Odalind Brevik" in opening
        assert tokenizer(opening, add_special_tokens=False)["input_ids"] == (
            episode.tokens.prompt_ids
        )
        assert sum(episode.tokens.mask) <= 3 * 8

    def test_the_ids_are_those_of_the_rendered_conversation(self, folder: Path) -> None:
        """Where a reply's text round-trips, the ids kept are those of rendering it anew."""
        policy = TransformersPolicy(folder, max_new_tokens=24)
        tokenizer = make_tokenizer()
        requests = [asked("Who?", seed=n, episode=f"t{n}#0") for n in range(60)]
        replies = [r for r in policy.act(requests) if isinstance(r, Reply)]
        further = [following(q, r.text) for q, r in zip(requests, replies, strict=True)]
        ways = set()
        for said, request, got in zip(replies, further, policy.act(further), strict=True):
            ids = tokens(said).completion_ids
            ended = ids[-1] == tokenizer.eos_token_id
            plain = ids[:-1] if ended else ids
            if tokenizer(said.text, add_special_tokens=False)["input_ids"] != plain:
                continue  # it sampled a role marker, or the other end
            ways.add(ended)
            rendered = tokenizer.apply_chat_template(
                request.messages, add_generation_prompt=True, tokenize=False
            )
            expected = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            assert tokens(got).prompt_ids == expected
        assert ways == {True, False}  # replies that ended, and replies cut by their length

    def test_other_words_in_the_place_of_the_reply_are_rendered_anew(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=8)
        request = asked(seed=1, episode="t#0")
        said = reply(policy, request)
        changed = following(request, said.text + " and more")
        rendered = make_tokenizer().apply_chat_template(
            changed.messages, add_generation_prompt=True, tokenize=False
        )
        expected = make_tokenizer()(rendered, add_special_tokens=False)["input_ids"]
        assert tokens(reply(policy, changed)).prompt_ids == expected

    def test_an_episode_may_begin_again(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=8)
        first = tokens(reply(policy, asked(seed=1, episode="t#0")))
        assert tokens(reply(policy, asked(seed=1, episode="t#0"))) == first

    def test_a_long_prompt_loses_its_beginning(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=8, max_prompt_tokens=20)
        whole = tokens(reply(TransformersPolicy(folder, max_new_tokens=8), asked("long " * 20)))
        got = tokens(reply(policy, asked("long " * 20)))
        assert got.prompt_ids == whole.prompt_ids[-20:]

    def test_room_is_left_in_the_models_positions(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=2000)
        assert len(tokens(policy.act([asked("x" * 500)])[0]).prompt_ids) == 48
        with pytest.raises(BadInputError, match="2048 positions"):
            TransformersPolicy(folder, max_new_tokens=2048)


class TestEnds:
    def test_ends_come_from_tokenizer_settings_and_template(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=64)
        tokenizer = make_tokenizer()
        ends = set(tokenizer.convert_tokens_to_ids([END, OTHER_END]))
        last = [tokens(r).completion_ids for r in policy.act([asked(seed=n) for n in range(60)])]
        assert {ids[-1] for ids in last} >= ends
        assert not any(i in ends for ids in last for i in ids[:-1])

    def test_the_text_has_no_role_markers_but_keeps_call_markers(self, folder: Path) -> None:
        chat = TokenChat(make_tokenizer())
        ids = make_tokenizer()("a<|user|>b<tool_call>c<|end|>", add_special_tokens=False)[
            "input_ids"
        ]
        assert chat.decode(ids) == "ab<tool_call>c"
        assert chat.decode(ids[-1:]) == ""
        assert chat.decode([]) == ""

    def test_an_empty_reply_is_an_empty_text(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=1, temperature=20.0, batch_size=200)
        replies = policy.act([asked(seed=n) for n in range(400)])
        ended = [r for r in replies if isinstance(r, Reply) and not r.text]
        assert ended
        assert all(len(tokens(r).completion_ids) == 1 for r in ended)

    def test_a_stop_text_ends_the_reply_and_the_tokens_say_what_was_sampled(
        self, folder: Path
    ) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=60)
        free = asked("Q?", "hermes", seed=4)
        long = reply(policy, free)
        stop = next(long.text[n : n + 2] for n in range(20, 40) if long.text[n : n + 2].isascii())
        codec = get_format("hermes", "bare")
        codec.stop = (stop,)  # type: ignore[misc]
        cut = reply(policy, dataclasses.replace(free, format=codec))
        ids = tokens(cut).completion_ids
        chat = TokenChat(make_tokenizer())
        assert cut.text == long.text[: long.text.index(stop)]
        assert ids == tokens(long).completion_ids[: len(ids)]
        assert stop in chat.decode(ids)
        assert stop not in chat.decode(ids[:-1])


class TestTemplates:
    def test_a_template_without_system_role_gets_it_in_the_first_user_message(self) -> None:
        refusing = (
            "{%- if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        )
        chat = TokenChat(make_tokenizer(refusing + TEMPLATE))
        ids = chat.prompts([asked("Who?")])[0]
        assert isinstance(ids, list)
        assert make_tokenizer().decode(ids).startswith("<|user|>Be good.\n\nWho?")
        assert merged_system([{"role": "system", "content": "a"}]) == [
            {"role": "user", "content": "a"}
        ]

    def test_a_template_that_rewrites_earlier_turns_warns_once(self) -> None:
        shortened = "(m.content.split('|')[-1] if m.role == 'assistant' else m.content)"
        forgetting = TEMPLATE.replace("m.content", shortened)
        chat = TokenChat(make_tokenizer(forgetting))
        request = asked("Who?", episode="t#0")
        chat.prompts([request])
        chat.keep(request, [65, 66], "thinking|answer")
        request = following(request, "thinking|answer")
        with pytest.warns(RuntimeWarning, match="rewrites earlier turns"):
            ids = chat.prompts([request])[0]
        assert isinstance(ids, list)
        assert "thinking" not in make_tokenizer().decode(ids)
        chat.keep(request, [65], "more|b")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chat.prompts([following(request, "more|b")])

    def test_a_template_that_trims_replies_is_still_continued(self) -> None:
        chat = TokenChat(make_tokenizer(TEMPLATE.replace("m.content", "(m.content | trim)")))
        request = asked("Who?", episode="t#0")
        first = chat.prompts([request])[0]
        sampled = make_tokenizer()("  hi \n", add_special_tokens=False)["input_ids"]
        chat.keep(request, sampled, "  hi \n")
        second = chat.prompts([following(request, "  hi \n")])[0]
        assert isinstance(first, list)
        assert isinstance(second, list)
        rest = make_tokenizer().decode(second[len(first) + len(sampled) :])
        assert second[: len(first) + len(sampled)] == first + sampled
        assert rest == "<|end|>\n<|user|>result<|end|>\n<|assistant|>"

    def test_no_template(self, folder: Path) -> None:
        with pytest.raises(TemplateError, match="has no chat template"):
            TokenChat(make_tokenizer(None))
        with pytest.raises(TemplateError, match="leaves assistant texts out"):
            TokenChat(make_tokenizer("nothing"))

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            (
                "{% for m in messages %}{% for part in m['content'] %}{{ part.text.strip() }}"
                "{% endfor %}{% endfor %}",
                "UndefinedError: .*; it wants contents as lists of parts",
            ),
            ("{{ raise_exception('not\nthis') }}", "TemplateError: not this$"),
            ("{{ messages[7].content.text }}", "refuses a conversation: UndefinedError"),
            ("{{ 1 / 0 }}", "refuses a conversation: ZeroDivisionError"),
        ],
    )
    def test_a_template_that_raises_is_named_with_its_cause(
        self, template: str, message: str
    ) -> None:
        with pytest.raises(TemplateError, match=message) as caught:
            TokenChat(make_tokenizer(template))
        assert "\n" not in str(caught.value)

    def test_a_refused_conversation_fails_alone(self, folder: Path) -> None:
        refusing = "{%- if 'bad' in messages[-1].content %}{{ raise_exception('no') }}{% endif %}"
        chat = TokenChat(make_tokenizer(refusing + TEMPLATE))
        bad, good = chat.prompts([asked("bad"), asked("good")])
        assert isinstance(bad, PolicyError)
        assert isinstance(good, list)

    def test_tools_reach_the_template_when_asked_for(self) -> None:
        template = "{%- if tools %}{{ tools | length }} tools{% endif %}" + TEMPLATE
        request = dataclasses.replace(asked(), tools=[{"type": "function", "function": {}}] * 2)
        for pass_tools in (False, True):
            ids = TokenChat(make_tokenizer(template), pass_tools=pass_tools).prompts([request])[0]
            assert isinstance(ids, list)
            assert ("2 tools" in make_tokenizer().decode(ids)) is pass_tools


class TestModels:
    def test_loaded_once_while_the_files_are_the_same(self, folder: Path, tmp_path: Path) -> None:
        first, second = (TransformersPolicy(folder, max_new_tokens=4) for _ in range(2))
        assert first._generator is not None
        assert second._generator is not None
        assert first._generator.model is second._generator.model
        copy = tmp_path / "copy"
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        make_tokenizer().save_pretrained(copy)
        model.save_pretrained(copy)
        before = TransformersPolicy(copy, max_new_tokens=4).describe()["model_hash"]
        with torch.no_grad():
            model.lm_head.weight.mul_(2)
        model.save_pretrained(copy)
        assert TransformersPolicy(copy, max_new_tokens=4).describe()["model_hash"] != before
        unload_models()

    def test_description_and_hash(self, folder: Path) -> None:
        policy = make_policy(f"transformers:{folder}", max_new_tokens=4, temperature=0.6)
        described = policy.describe()
        assert described["temperature"] == 0.6
        assert (
            described["tokenizer_hash"] == policy.tokenizer_hash == tokenizer_hash(make_tokenizer())
        )
        changed = make_tokenizer(TEMPLATE + " ")
        assert tokenizer_hash(changed) != policy.tokenizer_hash

    def test_closed(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=4)
        policy.close()
        with pytest.raises(PolicyError, match="was closed"):
            policy.act([asked()])

    @pytest.mark.parametrize(
        "wrong",
        [
            {"temperature": -1},
            {"top_p": 0},
            {"top_p": 1.5},
            {"max_new_tokens": 0},
            {"batch_size": True},
            {"dtype": "float31"},
        ],
    )
    def test_bad_arguments(self, folder: Path, wrong: dict[str, Any]) -> None:
        with pytest.raises(BadInputError, match=next(iter(wrong))):
            TransformersPolicy(folder, **wrong)

    def test_no_model_there(self, tmp_path: Path) -> None:
        with pytest.raises(MissingFileError, match="does not exist"):
            TransformersPolicy(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises(MissingFileError, match="cannot be loaded"):
            TransformersPolicy(tmp_path / "empty")
