"""Audits of environments: what makes training on one go wrong, found before it does."""

from __future__ import annotations

from toolgym.auditing.engine import audit
from toolgym.auditing.report import AuditReport, Finding

__all__ = ["AuditReport", "Finding", "audit"]
