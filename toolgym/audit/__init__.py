"""Audits of environments: what makes training on one go wrong, found before it does."""

from __future__ import annotations

from toolgym.audit.auditing import audit
from toolgym.audit.report import AuditReport, Finding

__all__ = ["AuditReport", "Finding", "audit"]
