"""Bets against a mean: evidence that stays valid however often one looks, and intervals from it.

Whoever bets on values from 0 to 1 against the claim "their mean is m" owns a capital that is a
martingale where the claim is true: it reaches 1/alpha with probability alpha at most, at whatever
time one looks (Ville 1939). A mean against which the bets have earned that much is rejected; those
that are left are a confidence sequence (Waudby-Smith and Ramdas, "Estimating means of bounded
random variables by betting", JRSS B 86, 2024, arXiv 2010.09686, sections 3 and 4). No distribution
is assumed but that values are independent and lie between 0 and 1; the mean of those that come,
given those that came, is enough.

How much is bet decides how soon, never whether the guarantee holds. Here the bets replicate what
reaches its goal by a deadline with the greatest probability *and* may stop before (a one-touch
option; Browne, "Reaching goals by a deadline", Adv. Appl. Prob. 31, 1999; recalculated from the
capital before each bet as in Voracek and Orabona, "STaR-Bets", NeurIPS 2025). The boundary which
the sum then has to cross is that of O'Brien and Fleming (Biometrics 35, 1979). A fifth of the
capital has an earlier deadline, so that great differences are seen early. docs/decide.md has what
that costs and wins by simulation.

The code is our own since no maintained package gives such bets, and confseq needs a C++ compiler.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolgym.errors import BadInputError

__all__ = ["CONFIDENCE", "Bets", "ConfidenceSequence"]

CONFIDENCE = 0.95
Floats = NDArray[np.float64]

_PARTS = ((0.8, 1.0), (0.2, 0.25))  # share of the capital; its deadline as a share of the last one
_CAP = 0.75  # of the capital is lost at most by one bet
_PRIOR = 4, 0.0625  # so many observations of that variance stand before the first one
_LATER = 2.0  # the second deadline, where the last one is guessed: the guess may be too early
_SLACK = 0.25  # of the time to a deadline that was guessed is left when it has passed
_STEP = 1e-3  # between means that are bet against


class Bets:
    """Capital of bets that a mean is higher than claimed, and of bets that it is lower.

    Args:
        means: [...] the claims, each from 0 to 1; they broadcast with the values of `add`.
        confidence: 1 - alpha; each of the two directions has half of alpha.
        horizon: observations at most. All is staked on a decision until then; afterwards nothing is
            bet any more, which keeps the guarantee.
        within: instead of a horizon: half the width that the interval is to reach. The deadline
            is then guessed from the variance so far, and never passes.

    Raises:
        BadInputError: not one of both, or one that is not above 0.
    """

    def __init__(
        self,
        means: ArrayLike,
        *,
        confidence: float = CONFIDENCE,
        horizon: int | None = None,
        within: float | None = None,
    ) -> None:
        if (horizon is None) == (within is None) or (within or horizon or 0) <= 0:
            raise BadInputError(
                "bets need either a horizon, which is a number of observations above 0, or a width "
                f"above 0, not horizon={horizon!r} and within={within!r}"
            )
        if not 0 < confidence < 1:
            raise BadInputError(f"a confidence lies between 0 and 1, such as 0.95: {confidence!r}")
        self.means = np.asarray(means, np.float64)
        self.goal = float(np.log(2 / (1 - confidence)))
        self.count, self._sum, self._squares = 0, np.zeros(()), np.zeros(())
        self._horizon, self._within = horizon, within
        shape = (1,) * self.means.ndim
        self._shares = np.log([share for share, _ in _PARTS]).reshape(-1, *shape)
        self._parts = np.array([part for _, part in _PARTS]).reshape(-1, *shape)
        with np.errstate(divide="ignore"):
            self._caps = np.stack([_CAP / self.means, _CAP / (1 - self.means)])[:, None]
        self._signs = np.array([1.0, -1.0]).reshape(2, 1, *shape)
        self._logs = np.zeros((2, len(_PARTS), *self.means.shape))

    @property
    def capital(self) -> Floats:
        """[2, ...] logarithm of the capital: of bets on a higher mean, and on a lower one."""
        both: Floats = np.logaddexp.reduce(self._logs + self._shares, axis=1)
        return both

    def add(self, values: ArrayLike) -> None:
        """Bet on one more observation of each sequence.

        Args:
            values: [...] from 0 to 1.

        Raises:
            BadInputError: a value that is not from 0 to 1.
        """
        seen = np.asarray(values, np.float64)
        if not bool(((seen >= 0) & (seen <= 1)).all()):
            raise BadInputError(f"bets are on values from 0 to 1, not {values!r:.80}")
        stakes = self._stakes()
        self._logs = self._logs + np.log1p(self._signs * stakes * (seen - self.means))
        self.count += 1
        self._sum, self._squares = self._sum + seen, self._squares + seen * seen

    def _stakes(self) -> Floats:
        """[2, parts, ...] how much is bet a unit of difference, from what was seen before."""
        number, variance = _PRIOR
        weight = number + self.count
        around = self._squares - 2 * self.means * self._sum + self.count * self.means**2
        spread = (number * variance + np.maximum(around, 0)) / weight
        left = self._left((number * variance + self._own_spread()) / weight)
        goals = np.maximum(self.goal - self._shares - self._logs, 0)
        stakes = _pull(goals) / np.sqrt(spread * np.maximum(left, 1))
        return np.where(left > 0, np.minimum(stakes, self._caps), 0.0)

    def _own_spread(self) -> Floats:
        """Sum of squares around the mean that was seen."""
        if not self.count:
            return np.zeros(())
        found: Floats = np.maximum(self._squares - self._sum**2 / self.count, 0)
        return found

    def _left(self, variance: Floats) -> Floats:
        """[parts, ...] observations to each deadline."""
        if self._horizon is not None:
            ends = np.maximum(np.round(self._parts * self._horizon), 1)
            return np.asarray(ends - self.count, np.float64)
        # Where the boundary of the main part stands `within` away from the mean.
        alpha = 2 * np.exp(-self.goal)
        reach = NormalDist().inv_cdf(1 - alpha * _PARTS[0][0] / 4)
        end = np.maximum(variance * (reach / float(self._within or 1)) ** 2, 1)
        ends = end * np.where(self._parts < 1, _LATER, 1.0)
        return np.asarray(np.maximum(ends - self.count, _SLACK * ends), np.float64)


class ConfidenceSequence:
    """An interval of a mean that may be looked at after each value, at all times at once.

    With the confidence asked for, the mean lies in *all* intervals that are ever shown.

    Args:
        confidence: such as 0.95.
        horizon: see `Bets`.
        within: see `Bets`.
        low: the least value that there can be.
        high: the greatest.
    """

    def __init__(
        self,
        *,
        confidence: float = CONFIDENCE,
        horizon: int | None = None,
        within: float | None = None,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        self._least, self._range = low, high - low
        share = None if within is None else within / self._range
        # An even number of steps, so that the middle, no difference, is one of the means.
        steps = 2 * int(np.ceil(0.5 / min(_STEP, (share or 1) / 20)))
        grid = np.linspace(0, 1, steps + 1)
        self._bets = Bets(grid, confidence=confidence, horizon=horizon, within=share)
        self._peaks = np.zeros((2, len(grid)))
        self._total = 0.0

    def add(self, value: float) -> None:
        """One more value.

        Raises:
            BadInputError: it lies outside of what there can be.
        """
        self._bets.add((value - self._least) / self._range)
        self._total += value
        self._peaks = np.maximum(self._peaks, self._bets.capital)

    def extend(self, values: Iterable[float]) -> None:
        """Several, in their order."""
        for value in values:
            self.add(value)

    @property
    def count(self) -> int:
        """Values so far."""
        return self._bets.count

    @property
    def value(self) -> float | None:
        """Their mean."""
        return self._total / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end.

        A lower end rejects all means up to it, each by a bet against a mean that is not below it.
        """
        grid, rejected = self._bets.means, self._peaks >= self._bets.goal
        below = int(np.logical_and.accumulate(rejected[0]).sum())
        above = int(np.logical_and.accumulate(rejected[1][::-1]).sum())
        low = grid[below - 1] if below else 0.0
        high = grid[len(grid) - above] if above else 1.0
        ends = sorted((self._least + self._range * float(low), self._least + self._range * high))
        return ends[0], float(ends[1])

    def p_value(self, mean: float) -> float:
        """Two-sided p-value of a mean, from the greatest capital that bets against it ever had.

        It may be looked at after each value, too; it never rises.

        Args:
            mean: that is claimed; the nearest that is bet against stands for it.
        """
        place = int(np.abs(self._bets.means - (mean - self._least) / self._range).argmin())
        return float(min(1.0, 2 * np.exp(-self._peaks[:, place].max())))


@functools.cache
def _table() -> tuple[Floats, Floats]:
    """Bets by the logarithm of goal over capital, in standard deviations of what is to come."""
    normal = NormalDist()
    logs = np.concatenate([np.linspace(0, 2, 401), np.linspace(2, 60, 1161)[1:]])
    pulls = []
    for share in np.exp(-logs).tolist():
        distance = -normal.inv_cdf(share / 2) if share < 1 else 0.0
        pulls.append(normal.pdf(distance) / (share / 2))
    return logs, np.array(pulls)


def _pull(logs: Floats) -> Floats:
    """The hedge of a one-touch option, from the logarithm of goal over capital.

    Its value is the probability w = 2 (1 - Phi(d)) that a Brownian motion reaches d before 1, and
    the hedge the relative slope of that, phi(d) / (1 - Phi(d)).
    """
    found: Floats = np.interp(logs, *_table())
    return found
