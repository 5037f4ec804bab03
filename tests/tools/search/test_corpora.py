"""Corpora: compressed, in shards, KILT's, XML dumps, data sets; wikitext; resuming; bad input."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mwparserfromhell
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym._util.jsonl import dump_line
from toolgym.errors import BadInputError, MissingFileError
from toolgym.tools.search.corpora import hub_rows
from toolgym.tools.search.corpora import passages as passage_module
from toolgym.tools.search.corpora.hub_rows import BrokenDownloadError, HubName, HubRows
from toolgym.tools.search.corpora.passages import (
    CorpusLines,
    Passage,
    corpus_files,
    find_corpus,
    read_passages,
)
from toolgym.tools.search.corpora.wikidump import article_rows
from toolgym.tools.search.corpora.wikitext import plain_text
from toolgym.tools.search.index import build_index, open_index

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


def lines_of(count: int, begin: int = 0) -> bytes:
    rows = (
        {"id": f"p{n}", "title": f"Title {n % 7}", "text": f"red {n} 東京 {n % 3}"}
        for n in range(begin, begin + count)
    )
    return "".join(map(dump_line, rows)).encode()


def passages(corpus: Path | str) -> list[Passage]:
    return [passage for passage, _ in read_passages(corpus)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def page(title: str, text: str, number: int = 1, ns: int = 0, redirect: str = "") -> str:
    to = f'<redirect title="{escape(redirect)}" />' if redirect else ""
    return (
        f"<page><title>{escape(title)}</title><ns>{ns}</ns><id>{number}</id>{to}"
        f"<revision><id>9{number}</id><contributor><username>x</username><id>5</id></contributor>"
        f'<model>wikitext</model><text bytes="1" xml:space="preserve">{escape(text)}</text>'
        "</revision></page>\n"
    )


def dump(*pages: str, namespaces: str = "") -> bytes:
    site = f"<siteinfo><namespaces>{namespaces}</namespaces></siteinfo>"
    root = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11">'
    return f"{root}\n{site}\n{''.join(pages)}</mediawiki>\n".encode()


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_corpus_gives_the_same_index(tmp_path: Path, kind: str) -> None:
    plain = tmp_path / "corpus.jsonl"
    plain.write_bytes(lines_of(60))
    packed = tmp_path / f"corpus.jsonl.{kind}"
    whole = lines_of(60)
    packed.write_bytes(PACKED[kind](whole[:1001]) + PACKED[kind](whole[1001:]))  # two streams
    assert passages(packed) == passages(plain)
    assert files(build_index(packed, tmp_path / "b")) == files(build_index(plain, tmp_path / "a"))
    for cut in (3, len(packed.read_bytes()) // 3):
        torn = tmp_path / "torn"
        torn.write_bytes(packed.read_bytes()[:-cut])
        with pytest.raises(BadInputError, match=r"'.*torn' is a torn \w+ file after line"):
            passages(torn)
    torn.write_bytes(packed.read_bytes()[:20] + b"garbage" * 9)
    with pytest.raises(BadInputError, match=r"torn \w+ file"):
        passages(torn)


@given(parts=st.lists(st.binary(max_size=300), max_size=5), size=st.integers(1, 50))
def test_zstd_frames_of_any_size_unpack_to_their_bytes(parts: list[bytes], size: int) -> None:
    from toolgym.tools.search.corpora.wikidump import unpacked

    note = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    packed = note + note.join(map(zstandard.ZstdCompressor().compress, parts))
    stream = unpacked(io.BytesIO(packed), "zstd")
    assert b"".join(iter(lambda: stream.read(size), b"")) == b"".join(parts)


def test_shards_are_read_by_name_and_errors_name_the_shard(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(lines_of(5, 4).rstrip())  # no line break at its end
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + lines_of(4)))
    (tmp_path / "c.json.zst").write_bytes(PACKED["zst"](b"\xef\xbb\xbf" + lines_of(3, 9)))
    (tmp_path / "readme.txt").write_text("not a shard")
    (tmp_path / ".hidden.jsonl").write_text("nor this")
    expected = [f"p{n}" for n in range(12)]
    assert [passage.id for passage in passages(tmp_path)] == expected
    assert [passage.id for passage in passages(tmp_path / "*.js*")] == expected
    with CorpusLines(tmp_path) as lines:
        assert [number for number, _ in lines] == list(range(1, 13))
        assert (
            lines.bytes_read == lines.size == sum(f.stat().st_size for f in corpus_files(tmp_path))
        )
    (tmp_path / "b.jsonl").write_bytes(lines_of(3, 4) + b'{"title": "x"}\n')
    with pytest.raises(BadInputError, match=r"b\.jsonl', line 4: a passage needs a 'text'"):
        passages(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(lines_of(1, 4) + b"oops\n")
    with pytest.raises(BadInputError, match=r"b\.jsonl', line 2: not valid JSON"):
        build_index(tmp_path, tmp_path / "index", processes=2)


def test_rows_without_an_id_are_numbered_through_all_shards(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n')
    assert [passage.id for passage in passages(tmp_path)] == ["1", "2", "3", "4"]


BAD = {
    "nothing": (None, MissingFileError, "does not exist"),
    "corpus.jsonll": (None, MissingFileError, "did you mean 'corpus.jsonl'"),
    "*.csv": (None, MissingFileError, "fits no file"),
    "folder": ("folder", BadInputError, "without a .jsonl"),
    "index": ("index", BadInputError, "is an index already"),
    "a.jsonl": (b"", BadInputError, "holds no passage"),
    "b.jsonl": (b'[{"text": "a"}]', BadInputError, "one JSON array; write an object a line"),
    "c.jsonl": (b"PAR1\0\0", BadInputError, "parquet file; name it as a data set: hf:"),
    "d.jsonl": (b"PK\x03\x04", BadInputError, "zip archive"),
    "e.jsonl": (b"\x7fELF\0\0\0", BadInputError, "binary file of unknown kind"),
    "f.jsonl": (b"\xff\xfe{", BadInputError, "line 1: not valid JSON"),
    "g.xml": (b"<html></html>", BadInputError, "line 1, column 1: .* root is <html>"),
}


@pytest.mark.parametrize(("name", "content", "error", "message"), [(k, *v) for k, v in BAD.items()])
def test_bad_corpora_are_named(
    tmp_path: Path, name: str, content: Any, error: type[Exception], message: str
) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(lines_of(2))
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content == "folder":
        (tmp_path / name).mkdir()
    elif content == "index":
        build_index(tmp_path / "corpus.jsonl", tmp_path / name)
    with pytest.raises(error, match=message):
        build_index(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_line_without_an_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passage_module, "_LONGEST", 1000)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines_of(1) + b" " * 5000))
    with pytest.raises(BadInputError, match=r"line 2: longer than"):
        passages(tmp_path / "c.jsonl.gz")


def test_kilt_rows_read_as_articles(tmp_path: Path) -> None:
    row = {
        "_id": "290",
        "wikipedia_id": "290",
        "wikipedia_title": "A",
        "text": [
            *("A\n", "A is the first letter.\n", "Section::::History.\n", "It is old.\n"),
            *("Section::::History.:Early forms.\n", "BULLET::::- Proto-Sinaitic ox: aleph\n"),
            *("BULLET::::1. First\n", "BULLET::::- \n", "Section::::Use: in print.\n", " \n"),
        ],
        "anchors": [{"text": "letter", "paragraph_id": 1}],
        "categories": "ISO basic Latin letters",
    }
    (tmp_path / "kilt_knowledgesource.json").write_text(dump_line(row))
    text = (
        "A is the first letter.\nHistory\nIt is old.\nEarly forms\n- Proto-Sinaitic ox: aleph\n"
        "1. First\nUse: in print"
    )
    assert passages(tmp_path / "kilt_knowledgesource.json") == [Passage("290", "A", text)]


@given(st.lists(st.text() | st.text(st.sampled_from("SectionBULLET:.- \n")), max_size=6))
def test_kilt_paragraphs_leave_no_sign(parts: list[str]) -> None:
    from toolgym.tools.search.corpora.passages import parse_passage

    marked = [f"BULLET::::- {part}\n" if n % 2 else part for n, part in enumerate(parts)]
    row = {"wikipedia_title": "T", "text": ["T\n", "Section::::Head.\n", *marked]}
    passage = parse_passage(dump_line(row).encode(), "c", 2)
    assert passage is not None
    assert passage.text.startswith("Head")
    kept = "".join(parts)
    assert ("BULLET::::" in passage.text) <= ("BULLET::::" in kept)
    assert "Section::::Head" not in passage.text


def test_a_dump_gives_its_articles(tmp_path: Path) -> None:
    special = '<namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace>'
    content = dump(
        page("Haus & Hof", "Ein '''Haus''' [[Datei:a.jpg|mini|Bild]].\n[[Kategorie:Bau]]", 7),
        page("Weiter", "#REDIRECT [[Haus]]", 8, redirect="Haus"),
        page("Diskussion:Haus", "talk", 9, ns=1),
        page("Leer", "[[Kategorie:Bau]]", 10),
        page("Zwei", "Der [[Hof (Gut)|Hof]] &lt; 5.", 11),
        namespaces=special,
    )
    expected = [Passage("7", "Haus & Hof", "Ein Haus."), Passage("11", "Zwei", "Der Hof < 5.")]
    plain = tmp_path / "dewiki-pages-articles.xml"
    plain.write_bytes(content)
    assert passages(plain) == expected
    streams = tmp_path / "dewiki-pages-articles-multistream.xml-p1p9.bz2"
    streams.write_bytes(b"".join(bz2.compress(content[n : n + 200]) for n in range(0, 2000, 200)))
    assert passages(streams) == expected
    plain.unlink()
    assert corpus_files(tmp_path) == [streams]
    assert len(open_index(build_index(tmp_path, tmp_path / "index", processes=2))) == 2


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_dump_arrives_in_any_pieces(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    content = dump(*(page(f"T{n}", f"text & {n} ü") for n in range(5)))
    whole = list(article_rows(io.BytesIO(content), "x"))
    monkeypatch.setattr("toolgym.tools.search.corpora.wikidump._STEP", size)
    assert list(article_rows(io.BytesIO(content), "x")) == whole
    assert [json.loads(row)["wikitext"] for row in whole] == [f"text & {n} ü" for n in range(5)]


BOMB = b'<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY b0 "lol">' + b"".join(
    b'<!ENTITY b%d "%s">' % (n, b"&b%d;" % (n - 1) * 10) for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB + b"]><mediawiki><page>&b9;</page></mediawiki>", "line 2, .* document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><mediawiki/>', "document type"),
        (dump(page("Good", "text"))[:-5], "line 4, column 1, after page 'Good': .*ends inside"),
        (dump(page("Good", "a\x00b")), "line 3, .*not well-formed"),
        (dump(page("A", "x"), page("B", "&x;")).replace(b"&amp;x", b"&x"), "line 4, .*undefined"),
        (b"<mediawiki>" + b"<a>" * 60, "more than 50 elements"),
        (b"<mediawiki a='" + b"x" * 3000, "one tag is longer"),
        (dump(page("A", "x" * 3000)), "more than 1000 characters"),
    ],
    ids=["bomb", "external", "cut", "zero", "entity", "deep", "tag", "long"],
)
def test_hostile_and_broken_dumps_are_named(
    monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.setattr("toolgym.tools.search.corpora.wikidump._LONGEST", 1000)
    with pytest.raises(BadInputError, match=message):
        list(article_rows(io.BytesIO(content), "x.xml"))


SHOWN = {
    "'''Bold''' and ''italic'' and '''''both'''''": "Bold and italic and both",
    "''Title'''s end\nL'''amour''": "Title's end\nL'amour",
    "[[Rome]]s [[Rome|city]] [[:Category:X|x]] [[Rome (Georgia)|]]": "Romes city x Rome",
    "a [[File:x.jpg|thumb|A [[deep]] {{caption}}]] b": "a b",
    "a [[Datei:x.jpg|mini|A]] b [[fr:Rome]][[Category:Cities]]": "a b",
    "x<ref>note</ref><ref name=a/>, y<!-- hidden -->": "x, y",
    "born ({{lang-la|Roma}}; {{IPA-la|r}}) [[x]]": "born (Roma) x",
    "He ({{ill-formed|x}}, {{y}}) ran ({{x}}; born 1900)": "He ran (born 1900)",
    "{{Infobox\n| a = {{b|[[c]]}}\n}}\nText": "Text",
    "{| class=x\n|-\n| cell || {{t}}\n|}\nText\n{|\n{|\n|}\n|}": "Text",
    "{{convert|5|km|mi}}, {{convert|2|to|3|kg}}, {{val|5|u=m}}": "5 km, 2 to 3 kg, 5 m",
    "{{convert|20|C|F}}, {{cvt|5|ft|11|in|cm}}, {{convert|3|km2}}": "20 °C, 5 ft 11 in, 3 km²",
    "(born {{birth date and age|1950|3|4}})": "(born March 4, 1950)",
    "{{Start date|1998|09}}, {{end date|1998|9|04|df=y}}, {{film date|2010}}": (
        "September 1998, 4 September 1998, 2010"
    ),
    "{{death date and age|1999|1|2|1950|3|4}}": "January 2, 1999 (aged 48)",
    "{{dts|2 May 2000}}, {{OldStyleDate|6 June|1799|26 May}}": (
        "2 May 2000, 6 June [O.S. 26 May] 1799"
    ),
    "aged {{age|1950|5|1|2000|1|1}}, {{age|1950|1|1}}": "aged 49,",
    "{{INR|50}}, {{USD|5 million}}, {{KES|3,000}}, {{EUR|1|link=yes}}": (
        "₹50, US$5 million, KES 3,000, €1"
    ),
    "{{CO2}}, {{Ca(OH)2}}, {{SMS|Emden}}, {{AKA|x}}": "CO2, Ca(OH)2, SMS Emden,",
    "{{height|m=1.80}}, {{height|ft=5|in=11}}": "1.80 m, 5 ft 11 in",
    "20{{deg}}C, {{gaps|12|345}}, {{unité|2000|m}}": "20°C, 12 345, 2000 m",
    "{{script|Hebr|ש}}, {{sort|1|first}}, {{sortname|Ada|Lovelace}}": "ש, first, Ada Lovelace",
    "{{ordinal|3}}, {{ordinal|11}}, {{BCE|44}}": "3rd, 11th, 44 BC",
    "1900{{snd}}1950 {{nowrap|a b}} {{nihongo|Edo|江戸|Edo}}": "1900 – 1950 a b Edo (江戸, Edo)",
    "== A ==\nx\n== Empty ==\n=== Deep ===\n== B ==\n=== C ===\ny\n== Refs ==\n{{r}}": (
        "A\nx\nB\nC\ny"
    ),
    "* one\n** two\n# three\n: four\n;five\n----\n*\n* {{cite}}": (
        "- one\n- two\n- three\nfour\nfive"
    ),
    "[http://x.org The site] [http://y.org] [//z.org z]": "The site z",
    "a<br>b <small>c</small> <span style='x'>d</span> 3 < 4 &lt;b&gt;": "a\nb c d 3 < 4 <b>",
    "<nowiki>''[[x]]''</nowiki> <math>a_{b}</math>": "''[[x]]'' a_{b}",
    "caf&eacute;&nbsp;&#8211; &amp;amp; &notareal; AT&T": "café – &amp; &notareal; AT&T",
    "__NOTOC__ a {{{1|default}}} -{zh-hans:b; zh-hant:c}-": "a default b",
    "a {{unclosed\n| x = 1\nb [[torn|c\n\nd }} e ]]": "a e",
    "a ]] b }} {{torn\n| x = 1\nb [[torn|c\n\nd": "a b torn\nb c\nd",
    "{|\n| cell\nnever closed [[x]]": "never closed x",
    "{{As of|2010|5|4}} {{frac|1|2}} {{lang|fr|mot|x=1}} {{columns-list|2|* q}}": (
        "As of 4 May 2010 1/2 mot * q"
    ),
}


@pytest.mark.parametrize("wikitext", SHOWN)
def test_wikitext_reads_as_shown(wikitext: str) -> None:
    assert plain_text(wikitext) == SHOWN[wikitext]


_signs = st.sampled_from(
    [
        *("{{", "}}", "{{{", "[[", "]]", "{|", "|}", "|", "\n", "''", "'''", "<ref>", "</ref>"),
        *("<!--", "-->", "<nowiki>", "</nowiki>", "<b>", "=", "==", "*", "[http://a", "]", "&amp;"),
        *("\x01", "\x02", "1", "a", " ", "(", ")", "-{", "}-", "__TOC__", "convert", "<math", "İ"),
        *("File:", ",", "-", "|x=", "</math>"),
    ]
)


@settings(max_examples=150)
@given(st.lists(_signs, max_size=40).map("".join) | st.text())
def test_any_wikitext_is_read(wikitext: str) -> None:
    text = plain_text(wikitext)
    assert text == text.strip()
    assert not set(text) & {"\x01", "\x02"}


_word = st.text("abcdefghij", min_size=3, max_size=8)
_words = st.lists(_word, min_size=1, max_size=4).map(" ".join)
# These do not nest: twice italic is an apostrophe and bold.
_signed = st.sampled_from(["{}", "''{}''", "'''{}'''", "[http://example.org/x {}]"])
_leaf = st.tuples(_words, _signed).map(lambda pair: (pair[1].format(pair[0]), pair[0]))
_hidden = st.sampled_from(["HIDDEN", "HIDDEN|x=HIDDEN", "HIDDEN|HIDDEN"])


def _marked(inner: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[tuple[str, str]]:
    """Pairs of wikitext and what a reader sees of it."""

    def around(begin: str, end: str) -> st.SearchStrategy[tuple[str, str]]:
        return inner.map(lambda pair: (f"{begin}{pair[0]}{end}", pair[1]))

    return st.one_of(
        *(around(*signs) for signs in (("<b>", "</b>"), ("<small class='x'>", "</small>"))),
        *(around(*signs) for signs in (("[[target|", "]]"), ("{{nowrap|", "}}"))),
        st.tuples(inner, _hidden).map(lambda p: (p[0][0] + "{{" + p[1] + "}}", p[0][1])),
        st.tuples(inner, _hidden).map(lambda p: (p[0][0] + f"<ref>{p[1]}</ref>", p[0][1])),
        st.tuples(inner, _hidden).map(lambda p: (f"[[File:a.jpg|{p[1]}]]" + p[0][0], p[0][1])),
        st.tuples(inner, inner).map(lambda p: (f"{p[0][0]} {p[1][0]}", f"{p[0][1]} {p[1][1]}")),
        st.tuples(inner, _hidden).map(
            lambda p: (f"{p[0][0]}\n{{|\n|-\n| {p[1]}\n|}}\n{p[0][0]}", f"{p[0][1]} {p[0][1]}")
        ),
    )


@settings(max_examples=150)
@given(st.recursive(_leaf, _marked, max_leaves=12))
def test_generated_markup_leaves_its_words_and_nothing_else(pair: tuple[str, str]) -> None:
    wikitext, words = pair
    assert plain_text(wikitext).split() == words.split()


def _simple(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    forms = (
        "<b>{}</b>",
        "[[target|{}]]",
        "<span class='x'>{}</span>",
        "== {} ==\nwords",
        "{}{{{{t}}}}",
    )
    return st.one_of(
        *(inner.map(lambda text, form=form: "\n" + form.format(text) + "\n") for form in forms),
        st.tuples(inner, inner).map(" ".join),
    )


@settings(max_examples=100)
@given(st.recursive(_leaf.map(lambda pair: pair[0]), _simple, max_leaves=6))
def test_simple_markup_reads_as_the_well_kept_parser_reads_it(wikitext: str) -> None:
    theirs = mwparserfromhell.parse(wikitext).strip_code()
    assert plain_text(wikitext).split() == theirs.split()


@pytest.mark.parametrize("sign", ["{{", "[[", "<b>", "{|\n", "<ref>", "{{a|[[", "''", "[http://"])
def test_what_repeats_a_sign_is_read_in_linear_time(sign: str) -> None:
    """No times: with a quadratic step these would take hours."""
    assert len(plain_text(sign * (300_000 // len(sign)))) <= 300_000


KILLED = """
import dataclasses, os, signal, sys
from toolgym.tools.search import building, spill
within = spill.Limits.within
spill.Limits.within = lambda *a: dataclasses.replace(within(*a), raw=3_000)
parse, count = spill.parse_passage, 0
def deadly(*args):
    global count
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return parse(*args)
spill.parse_passage = deadly
building.build_index(sys.argv[1], sys.argv[2], processes=1)
"""


@pytest.mark.parametrize("kind", ["zstd", "dump", "shards"])
def test_a_killed_build_is_continued_to_the_same_index(tmp_path: Path, kind: str) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "index"
    if kind == "zstd":
        whole = lines_of(200)
        corpus.write_bytes(PACKED["zst"](whole[:5000]) + PACKED["zst"](whole[5000:]))
    elif kind == "dump":
        pages = [page(f"T{n}", f"'''Red''' {n} [[x|tokyo]] {{{{a}}}}" * 3, n) for n in range(200)]
        corpus.write_bytes(bz2.compress(dump(*pages)))
    else:
        corpus.mkdir()
        for n in range(4):
            (corpus / f"{n}.jsonl.gz").write_bytes(gzip.compress(lines_of(50, 50 * n)))
    command = [sys.executable, "-c", KILLED, str(corpus), str(out), "150"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    manifest = json.loads((tmp_path / ".index-building/index/spill/manifest.json").read_text())
    assert 0 < manifest["passages"] < 200
    again = files(build_index(corpus, out))
    assert again == files(build_index(corpus, tmp_path / "whole"))
    assert len(open_index(out)) == 200


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:owner/name", HubName("owner/name")),
        ("hf:owner/name@v1:en", HubName("owner/name", "v1", "en")),
        ("hf:owner/name::dev", HubName("owner/name", split="dev")),
        ("hf:o/n:20231101.en:train?text=body&id=key", HubName(
            "o/n", None, "20231101.en", "train", {"text": "body", "id": "key"})),
    ],
)  # fmt: skip
def test_names_of_data_sets(name: str, expected: HubName) -> None:
    assert HubName.read(name) == expected
    assert HubName.read(str(expected)) == expected
    assert str(find_corpus(name)) == name


@pytest.mark.parametrize("name", ["hf:", "hf:a/b:c:d:e", "hf:a/b?body=x", "hf:a@b@c"])
def test_wrong_names_of_data_sets(name: str) -> None:
    with pytest.raises(BadInputError):
        find_corpus(name)


class FakeRows:
    """What `datasets` streams, which breaks off when asked to."""

    def __init__(self, rows: list[dict[str, Any]], fails_after: int = 1 << 30) -> None:
        self.rows, self.fails_after = rows, fails_after
        self.column_names, self.split = list(rows[0]), "train"
        self.info = SimpleNamespace(splits={"train": SimpleNamespace(num_bytes=12_345)})

    def select_columns(self, columns: list[str]) -> FakeRows:
        rows = [{name: row[name] for name in columns} for row in self.rows]
        return FakeRows(rows, self.fails_after)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(self.rows):
            if number >= self.fails_after:
                raise ConnectionResetError("peer went away")
            yield row


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Data sets of a hub that does not exist, by name; what was asked for under ``asked``."""
    known: dict[str, Any] = {"asked": []}

    def load_dataset(**where: Any) -> Any:
        known["asked"].append(where)
        if where["path"] not in known:
            raise FileNotFoundError(f"Dataset '{where['path']}' doesn't exist on the Hub")
        return known[where["path"]]

    config = SimpleNamespace(HF_HUB_OFFLINE=False)
    module = SimpleNamespace(load_dataset=load_dataset, config=config)
    monkeypatch.setattr(hub_rows, "require_extra", lambda name, extra: module)
    return known


def test_a_data_set_is_streamed(hub: dict[str, Any]) -> None:
    hub["o/n"] = FakeRows([{"docid": 3, "title": None, "contents": "x\ny", "junk": 1}])
    assert passages("hf:o/n@v2:en:train") == [Passage("3", "", "x\ny")]
    assert hub["asked"][-1] == {
        **{"path": "o/n", "name": "en", "revision": "v2"},
        **{"split": "train", "streaming": True},
    }
    hub["o/kilt"] = {"full": FakeRows([{"wikipedia_id": "9", "text": {"paragraph": ["A\n", "b"]}}])}
    assert passages("hf:o/kilt") == [Passage("9", "", "A\nb")]
    with CorpusLines("hf:o/n::train") as lines:
        assert lines.size == 12_345
        assert [number for number, _ in lines] == [1]
        assert lines.bytes_read == lines.position > 0


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("hf:o/m", [{"text": "x"}], "'hf:o/m' cannot be opened .*doesn't exist on the Hub"),
        ("hf:o/n", [{"a": "x", "b": "y"}], r"no column with a usual name.*\?text=COLUMN.*: a, b"),
        ("hf:o/n::train?text=bodi", [{"body": "x"}], "no column 'bodi' .did you mean 'body'"),
        ("hf:o/n", [{"text": "x"}, {"text": None}], "row 2: column 'text' holds no text"),
        ("hf:o/n", [{"text": 3}], "row 1: column 'text' holds no text but '3'"),
    ],
)
def test_bad_data_sets_are_named(
    hub: dict[str, Any], name: str, rows: list[dict[str, Any]], message: str
) -> None:
    hub["o/n"] = FakeRows(rows) if "::" in name else {"train": FakeRows(rows)}
    with pytest.raises((BadInputError, MissingFileError), match=message):
        passages(name)


def test_a_data_set_with_several_splits_asks_which(hub: dict[str, Any]) -> None:
    hub["o/n"] = {"dev": FakeRows([{"text": "x"}]), "test": FakeRows([{"text": "y"}])}
    with pytest.raises(MissingFileError, match=r"dev, test, as in hf:o/n::dev"):
        HubRows("hf:o/n")


def test_a_broken_download_is_continued(
    hub: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from toolgym.tools.search.spill import Limits

    within = Limits.within
    monkeypatch.setattr(Limits, "within", lambda *a: dataclasses.replace(within(*a), raw=500))
    rows = [{"id": str(n), "text": f"red {n} green"} for n in range(100)]
    hub["o/n"] = {"train": FakeRows(rows, fails_after=80)}
    with pytest.raises(BrokenDownloadError, match=r"broke off after row 80 .*peer went away"):
        build_index("hf:o/n", tmp_path / "index", processes=1)
    manifest = json.loads((tmp_path / ".index-building/index/spill/manifest.json").read_text())
    assert manifest["passages"] > 50
    hub["o/n"] = {"train": FakeRows(rows)}
    again = files(build_index("hf:o/n", tmp_path / "index", processes=1))
    assert again == files(build_index("hf:o/n", tmp_path / "whole", processes=1))


def test_local_folders_are_read_by_the_real_library(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "set"
    folder.mkdir()
    table = pa.table({"key": [1, 2], "title": ["A", "B"], "body": ["red one", "green two"]})
    for name in ("train-0.parquet", "train-1.parquet"):
        pq.write_table(table, folder / name)
    name = f"hf:{folder}?id=key"
    expected = [Passage("1", "A", "red one"), Passage("2", "B", "green two")]
    assert passages(name) == expected * 2
    assert passages(f"hf:{folder}/train-0.parquet") == [
        Passage(str(n + 1), passage.title, passage.text) for n, passage in enumerate(expected)
    ]
    assert len(open_index(build_index(name, tmp_path / "index"))) == 4
    with pytest.raises(MissingFileError, match=r"Bad split: tran.*did you mean|did you mean.*tran"):
        passages(f"hf:{folder}::tran")


@pytest.mark.parametrize(("mantissa", "exponent"), [("6.02", "23"), ("1", "-5"), ("9", "10")])
def test_a_power_of_ten_is_not_joined_to_its_number(mantissa: str, exponent: str) -> None:
    shown = plain_text(f"It is {mantissa}{{{{e|{exponent}}}}} kg.")
    assert shown == f"It is {mantissa}×10^{exponent} kg."
