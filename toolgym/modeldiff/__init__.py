"""A model before and after training: where its weights changed, what it gained, what it lost."""

from __future__ import annotations

from toolgym.modeldiff.models import ModelComparison, compare_models
from toolgym.modeldiff.weights import WeightChange, weight_change

__all__ = ["ModelComparison", "WeightChange", "compare_models", "weight_change"]
