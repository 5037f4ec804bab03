"""Languages by name, found out from text, and texts as sentences."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym._util.jsonl import read_rows
from toolgym.errors import BadInputError
from toolgym.tools.translator.languages import (
    detect_language,
    english_name,
    find_language,
    language_codes,
    lay_out,
    short_code,
)

pytest.importorskip("py3langid")
pytest.importorskip("sentencex")


def test_the_table_is_that_of_the_model() -> None:
    nllb = pytest.importorskip("transformers.models.nllb.tokenization_nllb")
    assert language_codes() == sorted(nllb.FAIRSEQ_LANGUAGE_CODES)


def test_every_language_is_found_by_each_of_its_names() -> None:
    for code in language_codes():
        assert find_language(code) == find_language(code.upper()) == code
        assert find_language(english_name(code)) == code
        assert find_language(f"{code[:3]}-{code[4:]}") == code
        # A short code means one language, that of the same macrolanguage at least.
        assert find_language(short_code(code))
        assert find_language(code[:3])[:3] == code[:3]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("zh", "zho_Hans"),
        ("zh-TW", "zho_Hant"),
        ("zh_Hant", "zho_Hant"),
        ("Chinese (Traditional)", "zho_Hant"),
        ("simplified  CHINESE", "zho_Hans"),
        ("ar", "arb_Arab"),
        ("Arabic", "arb_Arab"),
        ("Egyptian Arabic", "arz_Arab"),
        ("sr", "srp_Cyrl"),
        ("Serbian (Cyrillic)", "srp_Cyrl"),
        ("no", "nob_Latn"),
        ("nb", "nob_Latn"),
        ("Norwegian Bokmål", "nob_Latn"),
        ("fa", "pes_Arab"),
        ("ku", "kmr_Latn"),
        ("ger", "deu_Latn"),
        ("pt-BR", "por_Latn"),
        ("en_US", "eng_Latn"),
        ("Acehnese (Arabic script)", "ace_Arab"),
        ("sat_Olck", "sat_Beng"),
        (" Haitian Creole ", "hat_Latn"),
    ],
)
def test_names_that_could_mean_several_are_decided(name: str, code: str) -> None:
    assert find_language(name) == code


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Frnch", "'French'"),
        ("fra_Latin", "'fra_Latn'"),
        ("fra_Lat", "'fra_Latn'"),
        ("sr-Latn", "did you"),
        ("x" * 999, "fr"),
    ],
)
def test_an_unknown_language_is_refused_with_near_names(name: str, hint: str) -> None:
    with pytest.raises(BadInputError, match=hint) as caught:
        find_language(name)
    assert len(str(caught.value)) < 300


def test_a_model_may_have_languages_of_its_own() -> None:
    assert find_language("xal_Cyrl", {"xal_Cyrl"}) == "xal_Cyrl"
    assert english_name("xal_Cyrl") == "xal_Cyrl"


@given(st.text(max_size=40))
def test_any_name_is_a_language_or_an_error(name: str) -> None:
    with contextlib.suppress(BadInputError):
        assert find_language(name) in language_codes()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Wo ist der Bahnhof?", "deu_Latn"),
        ("Где находится вокзал?", "rus_Cyrl"),
        ("Що це таке і де воно є?", "ukr_Cyrl"),
        ("यह एक किताब है और मुझे यह बहुत पसंद है।", "hin_Deva"),
        ("この本は誰が書きましたか", "jpn_Jpan"),
        ("这个问题很难回答", "zho_Hans"),
        ("這個問題很難回答", "zho_Hant"),
        ("佢喺邊度嘅？", "yue_Hant"),
        ("什么是 UNESCO World Heritage Convention？", "zho_Hans"),
        ("Πού είναι; HTTP", "ell_Grek"),
        ("ᱱᱚᱣᱟ ᱫᱚ ᱪᱮᱫ ᱠᱟᱱᱟ", "sat_Beng"),
        ("ይህ መጽሐፍ ነው", "amh_Ethi"),
        ("", None),
        ("1234 !? ١٢٣", None),
        ("𐎀𐎁𐎂", None),  # Ugaritic
    ],
)
def test_detection(text: str, code: str | None) -> None:
    assert detect_language(text) == code


def test_detection_keeps_to_the_given_languages() -> None:
    assert detect_language("Wo ist der Bahnhof?", {"nld_Latn", "rus_Cyrl"}) == "nld_Latn"
    assert detect_language("這個問題很難回答", {"zho_Hans"}) == "zho_Hans"
    assert detect_language("Где вокзал?", {"nld_Latn"}) is None


def test_detection_of_real_questions(data_dir: Path) -> None:
    right: Counter[str] = Counter()
    rows = [row["question"] for _, row in read_rows(data_dir / "xquad" / "questions-300.jsonl")]
    for row in rows[:100]:
        for language, question in row.items():
            right[language] += detect_language(question) == find_language(language)
    assert right.total() >= 0.98 * 100 * len(rows[0])
    assert min(right.values()) >= 94


@given(st.text())
def test_detection_never_fails(text: str) -> None:
    assert detect_language(text) in {None, *language_codes()}


@pytest.mark.parametrize(
    ("code", "text", "sentences"),
    [
        ("arb_Arab", "ما هذا؟ هذا كتاب. أين المدرسة؟", 3),
        ("zho_Hans", "你好。今天天气很好！你去哪里？", 3),
        ("hin_Deva", "यह एक किताब है। वह कहाँ है? मुझे नहीं पता।", 3),
        ("jpn_Jpan", "これは本です。どこですか？", 2),
        ("khm_Khmr", "នេះជាសៀវភៅ។ តើវានៅឯណា?", 2),
        ("deu_Latn", "Das kostet z. B. 3,5 Mio. Euro. Wer weiß das?", 2),
        ("eng_Latn", "Dr. Smith paid $3.50. Why?", 2),
    ],
)
def test_sentences_of_many_scripts(code: str, text: str, sentences: int) -> None:
    layout = lay_out(text, code)
    assert len(layout.sentences) == sentences
    assert "".join(layout.sentences).replace(" ", "") == text.replace(" ", "")


def test_lines_bullets_and_numbers_stay() -> None:
    text = "Un.  Deux ?\n\n  - Trois\r\n1. Quatre. 12. Cinq\n---\n"
    layout = lay_out(text, "fra_Latn")
    assert layout.sentences == ("Un.", "Deux ?", "Trois", "Quatre.", "Cinq")
    filled = layout.fill([s.upper() for s in layout.sentences], "eng_Latn")
    assert filled == text.upper().replace("UN.  DEUX", "UN. DEUX")
    chinese = lay_out("Un. Deux.", "fra_Latn").fill(["一。", "二。"], "zho_Hans")
    assert chinese == "一。二。"
    assert lay_out("Un. Deux.\nTrois", "fra_Latn", split=False).sentences[0].startswith("Un. Deux.")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.booleans())
def test_a_layout_loses_nothing(text: str, split: bool) -> None:
    layout = lay_out(text, "eng_Latn", split=split)
    assert len(layout.frame) == len(layout.sentences) + 1
    filled = layout.fill(layout.sentences, "eng_Latn")
    assert "".join(filled.split()) == "".join(text.split())
    assert all(any(char.isalpha() for char in sentence) for sentence in layout.sentences)


def test_a_huge_text_is_read_once() -> None:
    """Each of these takes minutes where a pattern looks at all white space from every place."""
    for text in ("a" + " " * 500_000 + "b", "\n " * 100_000 + "a", "- " * 100_000, "។ " * 50_000):
        layout = lay_out(text, "khm_Khmr")
        assert "".join(layout.fill(layout.sentences, "eng_Latn").split()) == "".join(text.split())
