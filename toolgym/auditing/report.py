"""What an audit found: verdicts, figures, and episodes to open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolgym._util.jsonl import write_json, write_lines, write_text
from toolgym._util.text import text_table
from toolgym.auditing.processes import Played
from toolgym.auditing.subjects import Facts, Item
from toolgym.evaluation.document import Block, Heading, Paragraph, Quote, Table
from toolgym.evaluation.document import to_html as html_of
from toolgym.evaluation.document import to_markdown as markdown_of
from toolgym.messages import Message
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory

__all__ = ["FAILS", "NOT_SHOWN", "PASSES", "AuditReport", "Finding", "Verdict"]

Verdict = Literal["passes", "fails", "not shown"]
PASSES: Verdict = "passes"
FAILS: Verdict = "fails"
NOT_SHOWN: Verdict = "not shown"
EPISODES = "trajectories.jsonl"
_SHOWN = 5  # episodes of a finding
_WIDTH = 1200  # characters of an episode on the page


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Args:
        check: its name.
        verdict: ``passes``, ``fails``, or ``not shown``: it does not apply, or what was seen
            decides nothing.
        says: what was seen, in a sentence.
        rule: when it fails.
        figures: what was counted.
        episodes: ids of episodes to open.
    """

    check: str
    verdict: Verdict
    says: str
    rule: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    episodes: tuple[str, ...] = ()


@dataclass
class AuditReport:
    """What `toolgym.audit` gives; prints as a table.

    Args:
        facts: of the environment.
        settings: of the audit: tasks tried, seed, deadline.
        findings: one a check.
        evidence: the episodes that the findings name, as rows of ``trajectories.jsonl``.
    """

    facts: Facts
    settings: dict[str, Any]
    findings: list[Finding]
    evidence: list[dict[str, Any]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no check fails."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """Names of the checks that fail."""
        return [found.check for found in self.findings if found.verdict == FAILS]

    def __getitem__(self, check: str) -> Finding:
        """The finding of a check.

        Raises:
            KeyError: there is none of that name.
        """
        for found in self.findings:
            if found.check == check:
                return found
        raise KeyError(check)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the episodes."""
        return {
            "environment": asdict(self.facts),
            "settings": self.settings,
            "passed": self.passed,
            "failed": self.failed,
            "findings": [asdict(found) for found in self.findings],
        }

    def __str__(self) -> str:
        rows = [[found.check, found.verdict, found.says] for found in self.findings]
        return f"{self._line()}\n\n{text_table(['check', 'verdict', 'what was seen'], rows)}"

    def to_markdown(self) -> str:
        """The report as Markdown."""
        return markdown_of(self._blocks())

    def to_html(self) -> str:
        """The report as a page."""
        return html_of(self._blocks(), f"Audit of {self.facts.name}")

    def write(self, folder: str | Path) -> Path:
        """Write ``audit.md``, ``audit.html``, ``audit.json``, and the episodes beside them.

        Returns:
            The folder, which ``toolgym view`` opens.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        lines = (Trajectory.from_row(row).to_line() for row in self.evidence)
        write_lines(target / EPISODES, lines)
        write_json(target / "audit.json", self.to_dict())
        write_text(target / "audit.md", self.to_markdown())
        write_text(target / "audit.html", self.to_html())
        return target

    def _line(self) -> str:
        counts = {v: sum(f.verdict == v for f in self.findings) for v in (PASSES, FAILS, NOT_SHOWN)}
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        return f"{self.facts.name} ({self.facts.kind}): {told}"

    def _blocks(self) -> list[Block]:
        blocks: list[Block] = [Heading(f"Audit of {self.facts.name}", 1), Paragraph(self._line())]
        told = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        blocks.append(Paragraph(f"Settings: {told}."))
        order = sorted(self.findings, key=lambda f: (FAILS, NOT_SHOWN, PASSES).index(f.verdict))
        rows = [[found.check, found.verdict, found.says] for found in order]
        blocks.append(Table(["check", "verdict", "what was seen"], rows))
        shown = {row["id"]: row for row in self.evidence}
        for found in order:
            if found.verdict != FAILS:
                continue
            blocks += [Heading(found.check), Paragraph(found.says)]
            blocks += [Paragraph(f"Rule: {found.rule}")] if found.rule else []
            if found.episodes:
                blocks.append(Paragraph("Episodes: " + ", ".join(f"`{e}`" for e in found.episodes)))
                if (row := shown.get(found.episodes[0])) is not None:
                    blocks.append(Quote(_told(row)))
        return blocks


def _told(row: dict[str, Any]) -> str:
    parts = [f"[{chat['role']}]\n{str(chat.get('content'))[:_WIDTH]}" for chat in row["messages"]]
    golds = row["task"].get("answers") or []
    return "\n\n".join([*parts, f"reward {row['reward']:g}; gold answers: {golds}"[:_WIDTH]])


def recorded(played: Played, item: Item | None, name: str, sample: int) -> dict[str, Any] | None:
    """An episode as a row of ``trajectories.jsonl``; None where nothing was played.

    Args:
        played: the episode.
        item: its task.
        name: of the environment.
        sample: a number that no other recorded episode of the task has.
    """
    if played.record is not None:
        found = Trajectory.from_row(played.record)
        found.sample = sample
        found.metrics["audit"] = 1.0
        return found.to_row()
    golds = item.golds if item is not None else ()
    key = item.key if item is not None else f"task-{played.number}"
    task = Task(key, _clean(played.opening), golds or ("",), {"audited_with": played.script})
    messages, steps = [Message("user", _clean(played.opening))], []
    for place, reply in enumerate(played.replies):
        outcome = played.outcomes[place] if place < len(played.outcomes) else None
        seen = _clean(outcome.observation) if outcome else (played.raised or "")
        step = Step(_clean(reply), observation=seen)
        step.answer = step.action if outcome is not None and outcome.ended else None
        step.reward = _number(outcome.reward) if outcome is not None else 0.0
        steps.append(step)
        messages.append(Message("assistant", step.action))
        messages += [Message("user", seen)] if seen else []
    ended = played.ended
    return Trajectory(
        task, messages, steps, [], name, "audit", ended, not ended, seed=None, sample=sample
    ).to_row()


def _clean(text: str) -> str:
    """A text that strict JSON can hold: half a surrogate pair is shown as its number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _number(value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return 0.0
    return found if abs(found) < 1e300 else 0.0


def ids(rows: Sequence[dict[str, Any] | None]) -> tuple[str, ...]:
    """The first few ids of recorded episodes."""
    return tuple(row["id"] for row in rows if row is not None)[:_SHOWN]
