"""Bets against a mean: a martingale by counting all paths, its guarantee by simulation."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym.errors import BadInputError
from toolgym.sequential.betting import Bets, ConfidenceSequence, _pull

shares = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1), max_size=40)


@pytest.mark.parametrize("told", [{"horizon": 8}, {"horizon": 4}, {"within": 0.1}])
@pytest.mark.parametrize("mean", [0.05, 0.3, 0.5, 0.9])
def test_the_capital_is_a_martingale_under_the_claim(mean: float, told: dict[str, Any]) -> None:
    # All 2^8 sequences of right and wrong, each with its probability: the expected capital is 1.
    paths = np.array(list(itertools.product([0.0, 1.0], repeat=8)))
    chance = np.prod(np.where(paths > 0, mean, 1 - mean), axis=1)
    bets = Bets(np.full(len(paths), mean), **told)
    for column in paths.T:
        bets.add(column)
        assert np.exp(bets.capital) @ chance == pytest.approx([1.0, 1.0], rel=1e-12)


def test_bets_hedge_a_one_touch_option() -> None:
    # w = 2 (1 - Phi(d)); its relative slope is phi(d) / (1 - Phi(d)) (reflection principle).
    normal = NormalDist()
    for distance in (0.01, 0.5, 1.0, 2.0, 3.0, 6.0):
        tail = 0.5 * math.erfc(distance / math.sqrt(2))
        found = _pull(np.array([-math.log(2 * tail)]))[0]
        assert found == pytest.approx(normal.pdf(distance) / tail, rel=1e-3)


def test_the_boundary_is_that_of_o_brien_and_fleming() -> None:
    # Of many small steps, a sum that stays just above c n^1/2 is rejected and one below it is not.
    n = 4000
    share = 0.025 * 0.8  # half of alpha, for the part of the capital that has the last deadline
    reach = NormalDist().inv_cdf(1 - share / 2) * math.sqrt(n) / 2
    for factor, rejected in ((1.08, True), (0.88, False)):
        ahead = int(factor * reach)
        values = np.tile([1.0, 0.0], n // 2)
        values[np.linspace(1, n // 2 - 1, ahead).astype(int) // 2 * 2 + 1] = 1.0
        bets = Bets(0.5, horizon=n)
        for value in values[: n // 2]:
            bets.add(value)
        assert bool(bets.capital[0] >= bets.goal) is rejected, factor


@pytest.mark.parametrize(("mean", "spread"), [(0.5, 0), (0.1, 0), (0.7, 3)])
def test_false_alarms_at_any_time_keep_their_rate(mean: float, spread: int) -> None:
    rng = np.random.default_rng(5)
    size = 3000, 300
    drawn = rng.beta(mean * spread, (1 - mean) * spread, size) if spread else rng.random(size)
    values = drawn if spread else (drawn < mean).astype(float)
    bets, alarm = Bets(np.full(len(values), mean), horizon=300), np.zeros(len(values), bool)
    for column in values.T:
        bets.add(column)
        alarm |= bets.capital.max(axis=0) >= bets.goal
    assert 0.02 < alarm.mean() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(values))


def test_a_confidence_sequence_holds_at_all_times() -> None:
    rng = np.random.default_rng(6)
    missed, stops = 0, []
    for _ in range(60):
        sequence, held = ConfidenceSequence(within=0.1), True
        while True:
            sequence.add(float(rng.random() < 0.6))
            low, high = sequence.interval
            held &= low <= 0.6 <= high
            if high - low <= 0.2:
                break
        missed += not held
        stops.append(sequence.count)
    assert missed <= 8  # 3 are expected at most; 9 of 60 have probability 0.003
    fixed = 0.24 * (1.96 / 0.1) ** 2
    assert fixed < np.mean(stops) < 2.2 * fixed


@settings(max_examples=30)
@given(shares)
def test_intervals_shrink_hold_the_mean_and_mirror(values: list[float]) -> None:
    one, other = ConfidenceSequence(horizon=40), ConfidenceSequence(horizon=40)
    before, p_before = (0.0, 1.0), 1.0
    for value in values:
        one.add(value)
        other.add(1 - value)
        low, high = one.interval
        assert before[0] <= low <= high <= before[1]
        p_value = one.p_value(0.5)
        assert 0 <= p_value <= p_before
        before, p_before = (low, high), p_value
        mirrored = other.interval
        assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)
        # The mean that is claimed is outside exactly where its p-value is small.
        assert (low >= 0.5 or high <= 0.5) <= (p_value <= 0.05 + 1e-12)


@settings(max_examples=20)
@given(shares.filter(bool), st.sampled_from([{"horizon": 30}, {"within": 0.05}]))
def test_streaming_and_batches_are_one(values: list[float], told: dict[str, Any]) -> None:
    one, other = ConfidenceSequence(**told), ConfidenceSequence(**told)
    one.extend(values)
    for value in values:
        other.add(value)
    assert one.interval == other.interval
    assert (one.count, one.value) == (len(values), pytest.approx(np.mean(values)))
    # A grid of claims beside each other bets as each of them alone.
    grid, alone = Bets([0.2, 0.5], **told), Bets(0.5, **told)
    for value in values:
        grid.add(value)
        alone.add(value)
    assert np.array_equal(grid.capital[:, 1], alone.capital)


@pytest.mark.parametrize("told", [{}, {"horizon": 0}, {"within": -1.0}])
def test_bets_need_a_deadline(told: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="bets need either a horizon"):
        Bets(0.5, **told)


def test_values_and_confidence_have_their_range() -> None:
    for value in (1.5, -0.1, math.nan):
        with pytest.raises(BadInputError, match="bets are on values from 0 to 1"):
            Bets(0.5, horizon=3).add(value)
    with pytest.raises(BadInputError, match="a confidence lies between 0 and 1"):
        Bets(0.5, horizon=3, confidence=95.0)
    assert ConfidenceSequence(horizon=3).value is None
    assert ConfidenceSequence(horizon=3, low=-1.0).interval == (-1.0, 1.0)
