"""The translator: a phrase book that never guesses, and a real NLLB architecture in miniature."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym._jsonl import read_rows
from toolgym.errors import BadInputError, MissingFileError, UnknownNameError
from toolgym.messages import ToolCall, ToolResult
from toolgym.registry import CORPORA
from toolgym.tools.phrasebook import PhraseBook
from toolgym.tools.translator import make_translator
from toolgym.toolset import Tool

PHRASES = [
    ("fra_Latn", "Où est la gare ?", "Where is the station?"),
    ("fra_Latn", "s'il vous plaît", "please"),
    ("fra_Latn", "merci", "thank you"),
    ("fra_Latn", "merci beaucoup", "thank you very much"),
    ("fra_Latn", "beaucoup", "a lot"),
    ("nld_Latn", "de gare", "the yarn"),
    ("zho_Hans", "非常感谢", "thank you very much"),
    ("zho_Hans", "你好", "hello"),
    ("spa_Latn", "Más de uno", "More than one"),
]


@pytest.fixture
def book(tmp_path: Path) -> PhraseBook:
    rows = ({"language": a, "text": b, "english": c} for a, b, c in PHRASES)
    path = tmp_path / "book.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return PhraseBook(path)


def ask(tool: Tool, *texts: str) -> list[ToolResult]:
    return tool.run_many(
        [ToolCall(str(n), tool.name, {"text": text}) for n, text in enumerate(texts)]
    )


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("Où est la gare ?", "Where is the station?"),
        ("  OÙ EST\n la gare?? ", "Where is the station?"),
        (unicodedata.normalize("NFD", "Où est la gare"), "Where is the station?"),
        ("ou est la gare", "Where is the station?"),
        ("S’il vous plaît!", "please"),
        ("merci beaucoup", "thank you very much"),  # one phrase before two
        ("Merci. Où est la gare ?", "thank you Where is the station?"),
        ("你好！非常感谢", "hello thank you very much"),
        ("你好非常感谢", "hello thank you very much"),
        ("where is the station", "where is the station"),
        ("Who wrote Don Quixote?", "Who wrote Don Quixote?"),
        ("In what city was Hội An's founder born?", "In what city was Hội An's founder born?"),
    ],
)
def test_phrase_book_covers(book: PhraseBook, text: str, english: str) -> None:
    assert book.translate(text) == english


@pytest.mark.parametrize(
    "text",
    [
        "Où est la plage ?",
        "merci Berlin",
        "merci de gare",  # two languages in one sentence
        "what is 非常感谢",
        "",
        "?!",
        "\x00\ud800",
        "merci " * 200_000,
    ],
)
def test_phrase_book_does_not_guess(book: PhraseBook, text: str) -> None:
    assert book.translate(text) is None


def test_named_language_is_the_only_one(book: PhraseBook) -> None:
    assert book.translate("merci", "fra_Latn") == "thank you"
    assert book.translate("merci", "nld_Latn") is None
    assert book.languages == ["fra_Latn", "nld_Latn", "spa_Latn", "zho_Hans"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [('{"language": "fra_Latn", "text": "x"}', "line 1: 'language'"), ("", "holds no phrase")],
)
def test_broken_phrase_book(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "book.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=reason):
        PhraseBook(path)


def test_every_bundled_phrase_is_translated() -> None:
    path = CORPORA.get("phrasebook").path()
    rows = [row for _, row in read_rows(path)]
    results = ask(make_translator(), *(row["text"] for row in rows))
    assert [result.content for result in results] == [row["english"] for row in rows]
    assert len(rows) > 150


_TOOL = make_translator()


@given(st.text())
def test_any_text_gives_a_text(text: str) -> None:
    (result,) = ask(_TOOL, text)
    assert result.error in (None, "tool_error")


def test_phrase_book_says_what_it_is() -> None:
    tool = make_translator(source="fra_Latn")
    assert "small phrase book" in tool.description
    (result,) = ask(tool, "Où est la plage la plus proche ? " * 50)
    assert result.error == "tool_error"
    assert "small phrase book" in result.content
    assert "nllb" in result.content
    assert len(result.content) < 600
    assert tool.name == "MachineTranslator"
    assert list(tool.parameters["properties"]) == ["text"]
    assert tool.fingerprint


def test_wrong_options_are_refused() -> None:
    with pytest.raises(BadInputError, match="did you mean 'phrasebook'"):
        make_translator("phrase_book")
    with pytest.raises(BadInputError, match="backend='nllb'"):
        make_translator(target="fra_Latn")
    with pytest.raises(UnknownNameError, match="did you mean 'fra_Latn'"):
        make_translator(source="fra_Latin")


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A randomly initialised NLLB model with its own tokenizer, saved as the hub's are."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = str(tmp_path_factory.mktemp("nllb"))
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz?.!'"]
    tokenizer = transformers.NllbTokenizer(vocab={p: n for n, p in enumerate(pieces)}, merges=[])
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=600,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    torch.manual_seed(0)
    transformers.M2M100ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def spied(miniature: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """What goes into and comes out of the model's `generate`, made short."""
    from toolgym.tools import nllb

    monkeypatch.setattr(nllb, "MAX_NEW_TOKENS", 6)
    model = nllb.load_nllb(miniature).model
    seen: list[tuple[Any, Any]] = []
    generate = model.generate

    def spy(**arguments: Any) -> Any:
        output = generate(**arguments)
        seen.append((arguments, output))
        return output

    monkeypatch.setattr(model, "generate", spy)
    return seen


def test_nllb_gets_both_languages(miniature: str, spied: list[tuple[Any, Any]]) -> None:
    french = make_translator("nllb", source="fra_Latn", model=miniature)
    german = make_translator("nllb", source="deu_Latn", target="ita_Latn", model=miniature)
    unnamed = make_translator("nllb", model=miniature)
    languages = [
        (french, "fra_Latn", "eng_Latn"),
        (german, "deu_Latn", "ita_Latn"),
        (unnamed, "eng_Latn", "eng_Latn"),
        (french, "fra_Latn", "eng_Latn"),
    ]
    from toolgym.tools.nllb import load_nllb

    number = load_nllb(miniature).language_id
    for tool, source, target in languages:
        (result,) = ask(tool, "bonjour")
        assert result.error is None
        arguments, output = spied[-1]
        assert arguments["input_ids"][0, 0].item() == number(source)
        assert arguments["input_ids"][0, -1].item() == 2  # the end token, nothing after it
        assert output[0, 1].item() == number(target)  # after the decoder's start token
    assert len({tool.fingerprint for tool, _, _ in languages}) == 3
    assert "ita_Latn" in german.description


def test_nllb_answers_many_calls_in_one_batch(miniature: str, spied: list[tuple[Any, Any]]) -> None:
    tool = make_translator("nllb", source="fra_Latn", model=miniature)
    results = ask(tool, "bonjour", "merci", "", "bonjour", "le chat")
    assert len(spied) == 1
    assert spied[0][0]["input_ids"].shape[0] == 3  # equal texts once, the empty one not at all
    assert [result.error for result in results] == [None, None, "tool_error", None, None]
    assert results[0].content == results[3].content == ask(tool, "bonjour")[0].content
    assert "no text" in ask(tool, " ")[0].content


def test_nllb_input_and_output_are_bounded(miniature: str, spied: list[tuple[Any, Any]]) -> None:
    tool = make_translator("nllb", source="fra_Latn", model=miniature)
    ask(tool, "bonjour " * 10_000)
    arguments, output = spied[-1]
    assert arguments["input_ids"].shape[1] == 512
    assert output.shape[1] <= 1 + 6


def test_nllb_is_loaded_once_and_checks_languages(miniature: str) -> None:
    from toolgym.tools.nllb import load_nllb

    assert load_nllb(miniature) is load_nllb(miniature)
    with pytest.raises(BadInputError, match=r"no language 'fra_Lat'.*did you mean 'fra_Latn'"):
        make_translator("nllb", source="fra_Lat", model=miniature)
    with pytest.raises(BadInputError, match="no language 'klingon'"):
        make_translator("nllb", target="klingon", model=miniature)


def test_nllb_model_that_is_nowhere(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    with pytest.raises(MissingFileError, match="backend='phrasebook'"):
        make_translator("nllb", model=str(tmp_path / "nothing"))
