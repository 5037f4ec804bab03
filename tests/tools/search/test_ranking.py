"""Ranking: leaving out postings, and answering together, changes no hit and no bit of a score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym.tools.search import ranking


@settings(max_examples=150, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), k=st.integers(1, 30))
def test_leaving_out_postings_changes_nothing(data: st.DataObject, seed: int, k: int) -> None:
    """Every way of ranking gives what adding everything up gives, bit for bit, ties included."""
    draw = np.random.default_rng(seed)
    passages = data.draw(st.sampled_from([1, 7, 60, 400]))
    queries = [random_query(draw, passages) for _ in range(data.draw(st.integers(1, 6)))]
    expected = []
    for terms in queries:
        scores = np.zeros(passages, np.float32)
        for term in terms:
            scores[term.passages] += term.added()
        order = np.lexsort((np.arange(passages), -scores))[:k]
        expected.append((order[scores[order] > 0].tolist(), scores[order][scores[order] > 0]))
    for plain, look_up in ((10**9, 16), (0, 0), (0, 16), (0, 10**9)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranking, "_PLAIN", plain)
            patch.setattr(ranking, "_LOOK_UP", look_up)
            ranker = ranking.Ranker(passages)
            for terms, (right, scores) in zip(queries, expected, strict=True):
                numbers, values = ranker.top(terms, k)
                assert numbers.tolist() == right
                np.testing.assert_array_equal(values, scores)


def random_query(draw: np.random.Generator, passages: int) -> list[ranking.Postings]:
    """Terms of any frequency, with few different gains so that many scores are equal."""
    terms = []
    for number in range(draw.integers(0, 6)):
        held = np.flatnonzero(draw.random(passages) < draw.choice([0.02, 0.3, 1.0]))
        if len(held):
            rarity = np.float32(np.log(1 + passages / len(held)))
            gains = draw.choice([0.2, 0.3, 0.7], len(held)).astype(np.float32) * rarity
            times = int(draw.integers(1, 3))
            bound = float(gains.max()) * times
            terms.append(ranking.Postings(number, held.astype(np.int32), gains, times, bound))
    return terms
