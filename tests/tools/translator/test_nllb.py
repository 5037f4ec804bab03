"""The NLLB back end on a randomly initialised model: both engines, batching, limits, conversion."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym.errors import BadInputError, MissingFileError, ToolTimeoutError
from toolgym.messages import ToolCall, ToolResult
from toolgym.tools.base import Tool
from toolgym.tools.translator import modelfiles, nllb
from toolgym.tools.translator.modelfiles import ModelFiles, find_model
from toolgym.tools.translator.nllb import Gatherer, Job, NllbTranslator, load_nllb
from toolgym.tools.translator.tool import make_translator

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
for package in ("ctranslate2", "py3langid", "sentencex"):
    pytest.importorskip(package)

LETTERS = "abcdefghijklmnopqrstuvwxyzäéèöü?.!'你好是我"
ENGINES = ("ctranslate2", "transformers")
FOREVER = time.monotonic() + 3600


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of converted models of our own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOOLGYM_CACHE", str(folder))
        yield folder


def build(folder: Path, seed: int) -> str:
    """A randomly initialised NLLB model with its own tokenizer, saved as the hub's are."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *LETTERS]
    tokenizer = transformers.NllbTokenizer(vocab={p: n for n, p in enumerate(pieces)}, merges=[])
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer) + 2,  # NLLB's vocabulary, too, has more rows than tokens
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=1024,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    torch.manual_seed(seed)
    model = transformers.M2M100ForConditionalGeneration(config)
    # Weights that make the output depend on the input; the usual ones repeat one token for ever.
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "shared" in name:
                value.normal_(0, 0.3)
                value[len(pieces) :] *= 0.1
            elif value.dim() == 2:
                value.normal_(0, 0.8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> str:
    folder = build(tmp_path_factory.mktemp("nllb"), seed=2)
    for precision in ("float32", "int8"):  # in this process: the child takes seconds to import
        files = find_model(folder)
        modelfiles.convert(files.folder, modelfiles.converted_folder(files, precision), precision)
    return folder


def translator(folder: str, engine: str) -> NllbTranslator:
    return load_nllb(folder, engine, "float32", "cpu")


def ask(tool: Tool, *texts: str | dict[str, str]) -> list[ToolResult]:
    given = [text if isinstance(text, dict) else {"text": text} for text in texts]
    return tool.run_many([ToolCall(str(n), tool.name, item) for n, item in enumerate(given)])


TEXTS = [
    "wo ist der bahnhof?",
    "je ne sais pas.",
    "a",
    "das haus, in dem wir gestern waren, ist sehr alt und sehr schön.",
    "你好",
    "warum nicht?",
]


def test_both_engines_give_the_same_token_ids(miniature: str) -> None:
    ours = translator(miniature, "ctranslate2")
    rows = [ours.rows(text, Job(text, "fra_Latn", "eng_Latn"))[0] for text in TEXTS]
    english, italian = ours.tokens.ids(["eng_Latn", "ita_Latn"])
    targets = [english, italian] * 3
    outputs = []
    for engine in ENGINES:
        run = translator(miniature, engine).engine().generate
        together = run(rows, targets, 20, FOREVER)
        alone = [run([r], [t], 20, FOREVER)[0] for r, t in zip(rows, targets, strict=True)]
        assert together == alone
        outputs.append(together)
    assert outputs[0] == outputs[1]
    lengths = {len(ids) for ids in outputs[0]}
    assert max(lengths) == 20  # the same limit in both
    assert len({tuple(ids) for ids in outputs[0]}) >= 4
    assert len({token for ids in outputs[0] for token in ids}) >= 4


@pytest.mark.parametrize("engine", ENGINES)
def test_beam_search(miniature: str, engine: str) -> None:
    ours = translator(miniature, engine)
    rows = [ours.rows(text, Job(text, "fra_Latn", "eng_Latn"))[0] for text in TEXTS]
    targets = ours.tokens.ids(["eng_Latn"]) * len(rows)
    run = ours.engine().generate
    wide = run(rows, targets, 12, FOREVER, 4)
    assert len(wide) == len(rows)
    assert max(map(len, wide)) <= 12
    assert wide != run(rows, targets, 12, FOREVER, 1)


def test_rows_are_what_the_tokenizer_of_transformers_makes(miniature: str) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(miniature, src_lang="deu_Latn")
    ours = translator(miniature, "transformers")
    for text in TEXTS:
        (row,) = ours.rows(text, Job(text, "deu_Latn", "eng_Latn"))
        assert list(row) == theirs(text).input_ids
        assert ours.tokens.decode(row) == theirs.decode(
            row, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def test_what_transformers_generates_from_the_published_call(miniature: str) -> None:
    """The forced language token and `generate` as the model's card shows them."""
    ours = translator(miniature, "ctranslate2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(miniature, src_lang="deu_Latn")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(miniature).eval()
    english = tokenizer.convert_tokens_to_ids("eng_Latn")
    for text in TEXTS:
        with torch.inference_mode():
            (theirs,) = model.generate(
                **tokenizer(text, return_tensors="pt"),
                forced_bos_token_id=english,
                max_new_tokens=21,
            ).tolist()
        (row,) = ours.rows(text, Job(text, "deu_Latn", "eng_Latn"))
        (ids,) = ours.engine().generate([row], [english], 20, FOREVER)
        assert [2, english, *ids] == theirs[: len(ids) + 2]
        assert len(theirs) == 22 or theirs[len(ids) + 2] == 2


def test_int8_runs_and_is_close(miniature: str) -> None:
    exact = translator(miniature, "ctranslate2")
    rounded = load_nllb(miniature)
    assert rounded.precision == "int8"
    rows = [exact.rows(text, Job(text, "fra_Latn", "eng_Latn"))[0] for text in TEXTS]
    (english,) = exact.tokens.ids(["eng_Latn"])
    firsts = [
        [ids[:1] for ids in t.engine().generate(rows, [english] * 6, 8, FOREVER)]
        for t in (exact, rounded)
    ]
    assert sum(a == b for a, b in zip(*firsts, strict=True)) >= 4


@pytest.mark.parametrize("engine", ENGINES)
def test_calls_are_answered_together_and_in_order(miniature: str, engine: str) -> None:
    options: dict[str, Any] = {"model": miniature, "engine": engine, "precision": "float32"}
    tool = make_translator("nllb", source="French", **options)
    texts = ["bonjour", "merci beaucoup mon cher ami", "", "bonjour", "le chat. le chien!", "12"]
    results = ask(tool, *texts)
    assert [r.error for r in results] == [None, None, "tool_error", None, None, None]
    assert "no text" in results[2].content
    assert results[5].content == "12"
    for text, result in zip(texts, results, strict=True):
        assert ask(tool, text)[0].content == result.content
    whole = make_translator("nllb", source="fr", split=False, **options)
    assert ask(whole, "le chat. le chien!")[0].content != results[4].content
    assert whole.fingerprint != tool.fingerprint


def test_what_is_in_the_target_language_comes_back_without_the_model(
    tmp_path: Path, miniature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = NllbTranslator(find_model(miniature), "ctranslate2", "int8", "cpu")
    monkeypatch.setattr(nllb, "_load", lambda *_: fresh)
    tool = make_translator("nllb", model=miniature, choose_languages=True)
    results = ask(
        tool,
        "This is an English text.\n It stays as it is. ",
        "12 + 30",
        {"text": "merci", "source": "english"},
        {"text": "Das ist ein deutscher Satz.", "target": "German"},
    )
    assert [r.content for r in results] == [
        "This is an English text.\n It stays as it is. ",
        "12 + 30",
        "merci",
        "Das ist ein deutscher Satz.",
    ]
    assert fresh._engine is None
    # The paper's way: all text is taken as English and goes through the model.
    assert ask(make_translator("nllb", model=miniature, source="eng_Latn"), "This is English.")
    assert fresh._engine is not None


def test_the_policy_may_choose_languages(miniature: str) -> None:
    tool = make_translator("nllb", model=miniature, target="French", choose_languages=True)
    assert tool.parameters["required"] == ["text"]
    assert list(tool.parameters["properties"]) == ["text", "source", "target"]
    assert "into French" in tool.description
    text = "das ist ein haus"
    chosen, other, wrong, script = ask(
        tool,
        {"text": text, "source": "German", "target": "it"},
        {"text": text},
        {"text": text, "target": "Germn"},
        {"text": "𐎀𐎁𐎂"},
    )
    fixed = make_translator("nllb", model=miniature, source="deu", target="ita_Latn")
    assert list(fixed.parameters["properties"]) == ["text"]
    assert "into Italian" in fixed.description
    assert chosen.content == ask(fixed, text)[0].content != other.content
    assert wrong.error == "tool_error"
    assert "'German'" in wrong.content
    assert "script" in script.content


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1300), st.integers(2, 40))
def test_an_overlong_sentence_is_cut_without_loss(length: int, word: int) -> None:
    words = [number % word == 0 for number in range(length)]
    cuts = nllb._cuts(words, 510)
    assert cuts[0][0] == 0
    assert cuts[-1][1] == length
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cuts))
    assert all(0 < end - begin <= 510 for begin, end in cuts)
    assert all(words[begin] for begin, _ in cuts)
    assert len(cuts) <= -(-length // 350)


def test_rows_of_an_overlong_sentence(miniature: str) -> None:
    ours = translator(miniature, "ctranslate2")
    text = "bonjour " * 400
    rows = ours.rows(text, Job(text, "fra_Latn", "eng_Latn"))
    assert len(rows) > 1
    assert max(map(len, rows)) <= 512
    inner = [token for row in rows for token in row[1:-1]]
    assert inner == ours.tokens.encode(text)
    assert {(row[0], row[-1]) for row in rows} == {(ours.tokens.ids(["fra_Latn"])[0], 2)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 2_000_000, "2,000,000 characters"),
        ("\x00\x01\x02\x03GIF89a", "not text"),
        ("\ud800" * 5, "not text"),
        (" \n ", "no text to translate"),
    ],
)
def test_what_is_no_text_is_refused(miniature: str, text: str, reason: str) -> None:
    (result,) = ask(make_translator("nllb", model=miniature), text)
    assert result.error == "tool_error"
    assert reason in result.content


def test_a_cut_translation_says_so(miniature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nllb, "MAX_NEW_TOKENS", 1)
    (result,) = ask(make_translator("nllb", source="fr", model=miniature), "bonjour")
    assert result.content.endswith("[…]")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_deadline_ends_the_work(miniature: str, engine: str) -> None:
    ours = translator(miniature, engine)
    text = "wo ist der bahnhof?\n" * 3 + "und warum ist er so weit weg von hier?"
    begun = time.monotonic()
    (late,) = ours.translate([Job(text, "deu_Latn", "eng_Latn", seconds=1e-6)])
    assert isinstance(late, ToolTimeoutError)
    assert time.monotonic() - begun < 20
    tool = make_translator("nllb", source="de", model=miniature, timeout=1e-6)
    assert ask(tool, text)[0].error == "timeout"
    (fine,) = ours.translate([Job("hier", "deu_Latn", "eng_Latn")])
    assert isinstance(fine, str)


def test_threads_that_ask_at_once_are_answered_together() -> None:
    batches: list[list[int]] = []
    first, release = threading.Event(), threading.Event()

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        first.set()
        release.wait(10)
        if 13 in items:
            raise ValueError("thirteen")
        return [item * 2 for item in items]

    gatherer = Gatherer(work)
    replies: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda n=n: replies.update({n: gatherer.ask([n, n + 100])}))
        for n in range(6)
    ]
    threads[0].start()
    assert first.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(gatherer._waiting) < 5:
        time.sleep(0.01)
    release.set()
    for thread in threads:
        thread.join(10)
    assert replies == {n: [2 * n, 2 * n + 200] for n in range(6)}
    assert len(batches) == 2
    with pytest.raises(ValueError, match="thirteen"):
        gatherer.ask([13])
    assert gatherer.ask([1]) == [2]


def test_a_model_is_loaded_once(miniature: str) -> None:
    found: list[NllbTranslator] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_nllb(miniature, "transformers")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(item) for item in found}) == 1


def test_options_that_cannot_be_used(miniature: str, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"engine": "ctranslate"}, "did you mean 'ctranslate2'"),
        ({"engine": "transformers", "precision": "int8"}, "unknown translator precision 'int8'"),
        ({"device": "gpu"}, "unknown translator device 'gpu'"),
        ({"beams": 0}, "beams"),
        ({"timeout": 0}, "timeout"),
        ({"source": "fra_Lat"}, "did you mean 'fra_Latn'"),
        ({"target": "klingon"}, "unknown language 'klingon'"),
    ]
    for options, reason in wrong:
        with pytest.raises(BadInputError, match=reason):
            make_translator("nllb", **({"model": miniature} | options))
    with pytest.raises(MissingFileError, match="backend='phrasebook'"):
        make_translator("nllb", model=str(tmp_path / "nothing"))
    with pytest.raises(MissingFileError, match="no model weights"):
        make_translator("nllb", model=str(tmp_path))


def test_a_model_is_identified_by_its_content(miniature: str, tmp_path: Path) -> None:
    files = find_model(miniature)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", miniature, str(copy)], check=True)
    assert find_model(str(copy)).identity == files.identity
    weights = copy / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-5] ^= 1
    weights.write_bytes(raw)
    assert find_model(str(copy)).identity != files.identity
    names = {modelfiles.converted_folder(files, q).name for q in ("int8", "float32")}
    assert len(names) == 2


def start(folder: str, out: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "toolgym.tools.translator.modelfiles",
        folder,
        str(out),
        "int8",
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def test_conversion_in_two_processes_and_after_a_kill(miniature: str, tmp_path: Path) -> None:
    out = tmp_path / "translators" / "model"
    partial = out.parent / ".model-building" / "model"
    partial.mkdir(parents=True)  # as a kill leaves it
    (partial / "model.bin").write_bytes(b"half")
    both = [start(miniature, out) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert (out / "model.bin").stat().st_size > 1000
    assert list(out.parent.iterdir()) == [out]


def test_a_model_of_another_kind_is_refused(miniature: str, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((Path(miniature) / name).read_bytes())
    tokenizer = json.loads((Path(miniature) / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if "_" not in t["content"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadInputError, match="language tokens"):
        make_translator("nllb", model=str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadInputError, match="cannot be read"):
        make_translator("nllb", model=str(tmp_path))


def test_a_converted_model_is_taken_as_it_is(miniature: str, tmp_path: Path) -> None:
    files = find_model(miniature)
    ready = tmp_path / "ready"
    source = modelfiles.converted_folder(files, "int8")
    subprocess.run(["cp", "-r", str(source), str(ready)], check=True)
    (ready / "tokenizer.json").write_bytes((files.folder / "tokenizer.json").read_bytes())
    assert ModelFiles("x", ready, "").is_converted
    a, b = (make_translator("nllb", source="fr", model=m) for m in (miniature, str(ready)))
    assert ask(a, "bonjour")[0].content == ask(b, "bonjour")[0].content


def test_neither_torch_nor_transformers_is_imported(miniature: str) -> None:
    code = (
        "import sys\n"
        "from toolgym.tools.translator.tool import make_translator\n"
        f"tool = make_translator('nllb', model={miniature!r})\n"
        "print(type(tool('wo ist der bahnhof?')) is str)\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "True\n[]\n", ended.stderr


def test_after_a_fork_the_weights_are_loaded_again(miniature: str) -> None:
    ours = load_nllb(miniature)
    job = Job("bonjour", "fra_Latn", "eng_Latn")
    expected = ours.translate([job])
    code = (
        "import os, sys\n"
        "from toolgym.tools.translator.nllb import Job, load_nllb\n"
        f"ours = load_nllb({miniature!r})\n"
        "job = Job('bonjour', 'fra_Latn', 'eng_Latn')\n"
        "first = ours.translate([job])\n"
        "child = os.fork()\n"
        "again = ours.translate([job])\n"
        "assert first == again\n"
        "if child:\n"
        "    print(again == [" + repr(expected[0]) + "], os.waitpid(child, 0)[1])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert ended.stdout == "True 0\n", ended.stderr
