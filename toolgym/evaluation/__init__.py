"""Evaluation: figures of a run with 95 % intervals, and paired comparisons of two."""

from __future__ import annotations

from toolgym.evaluation.compare import Comparison, Difference, compare
from toolgym.evaluation.report import Report, Row, evaluate

__all__ = ["Comparison", "Difference", "Report", "Row", "compare", "evaluate"]
