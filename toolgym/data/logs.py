"""Recorded episodes as logs of other evaluation frameworks: Inspect's, and lm-evaluation-harness's.

Both are written without those packages, episode by episode. Written for inspect-ai 0.3 (log
version 2) and lm-eval 0.4; their own readers are the test (``make agents``).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import dump_line, write_json, write_lines, write_rows
from toolgym._util.optional import installed_versions
from toolgym.data.conditions import condition, measure
from toolgym.errors import BadInputError
from toolgym.messages import Message
from toolgym.rollouts.recording import Recording, open_recording
from toolgym.trajectory import Trajectory

__all__ = ["write_inspect_log", "write_lm_eval_log"]

_MEASURED = ("exact_match", "accuracy")
_UNSAFE = re.compile(r"[^\w.-]+")


@dataclass
class _Totals:
    """Means of scores, with standard errors that know which episodes share a task."""

    count: int = 0
    sums: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)

    def add(self, task: str, scores: dict[str, float]) -> None:
        self.count += 1
        for name, value in scores.items():
            by_task = self.sums.setdefault(name, {})
            total, episodes = by_task.get(task, (0.0, 0))
            by_task[task] = total + value, episodes + 1

    def means(self) -> dict[str, tuple[float, float]]:
        """Mean and standard error by name; the error is clustered by task, NaN for one task."""
        found = {}
        for name, by_task in self.sums.items():
            count = sum(episodes for _, episodes in by_task.values())
            mean = sum(total for total, _ in by_task.values()) / count
            groups = len(by_task)
            squares = sum((total - n * mean) ** 2 for total, n in by_task.values())
            more = groups / (groups - 1) if groups > 1 else math.nan
            found[name] = mean, math.sqrt(squares * more) / count
        return found


class _Source:
    """Episodes of a recording, each with its scores.

    Args:
        source: see `toolgym.rollouts.recording.Recording`.
        where: a condition, or None.
    """

    def __init__(self, source: Recording, where: str | None) -> None:
        self._episodes = open_recording(source)
        self._holds: Callable[[Trajectory], bool] = (
            condition(where) if where is not None else lambda _: True
        )
        self._measures = {name: measure(name) for name in _MEASURED}
        self.origin, self.totals = self._episodes.origin, _Totals()
        env = self.origin.get("env")
        env = env.get("id") if isinstance(env, dict) else env
        self.task = str(env or next((t.env_id for t in self._episodes), "") or "toolgym")
        policy = self.origin.get("policy")
        self.policy = policy if isinstance(policy, dict) else {}
        self.model = str(self.policy.get("model") or self.policy.get("policy") or "unknown")
        moment = datetime.now(UTC)
        path = self.origin.get("path")
        if isinstance(path, str) and Path(path).exists():
            moment = datetime.fromtimestamp(Path(path).stat().st_mtime, UTC)
        self.moment = moment.replace(microsecond=0)

    def __iter__(self) -> Iterator[tuple[Trajectory, dict[str, float]]]:
        for trajectory in self._episodes:
            if not self._holds(trajectory):
                continue
            scores = {"reward": float(trajectory.reward)}
            for name in {name: 0 for step in trajectory.steps for name in step.reward_parts}:
                scores[name] = sum(s.reward_parts.get(name, 0.0) for s in trajectory.steps)
            scores |= {n: float(f(trajectory)) for n, f in self._measures.items()}
            self.totals.add(trajectory.task.id, scores)
            yield trajectory, scores
        if not self.totals.count:
            raise BadInputError("no episode to write: the recording is empty, or none is as asked")


def write_inspect_log(source: Recording, out: str | Path, *, where: str | None = None) -> Path:
    """Write a log that ``inspect view`` and ``inspect_ai.log.read_eval_log`` read.

    Args:
        source: a run, a selection, the path of either, or trajectories.
        out: a ``.json`` file.
        where: only episodes such as ``accuracy>=1``.

    Returns:
        The file.

    Raises:
        MissingFileError: no such recording.
        BadInputError: no episode, another kind of file, or a condition that cannot be read.
        UnknownNameError: a condition on a name that there is not.
    """
    path = Path(out)
    if path.suffix != ".json":
        raise BadInputError(f"Inspect's log is a .json file, not {str(out)!r}: give it that ending")
    write_lines(path, _inspect(_Source(source, where)))
    return path


def _inspect(source: _Source) -> Iterator[str]:
    created = source.moment.isoformat()
    task_id = hashlib.sha256(f"{source.task} {source.origin}".encode()).hexdigest()[:22]
    spec = {
        "eval_id": task_id,
        "run_id": task_id,
        "task_id": task_id,
        "created": created,
        "task": source.task,
        "dataset": {"name": source.origin.get("task_source")},
        "model": f"toolgym/{source.model}",
        "config": {},
        "packages": {"toolgym": installed_versions().get("toolgym", "0")},
        "metadata": {"policy": source.policy},
    }
    for _ in source:  # Inspect looks for results before the samples
        pass
    count, means = source.totals.count, source.totals.means()
    results: dict[str, Any] = {"total_samples": count, "completed_samples": count}
    results["scores"] = [_score(name, *figures) for name, figures in means.items()]
    head: dict[str, Any] = {"version": 2, "status": "success", "eval": spec}
    head["plan"] = {"name": "plan", "steps": [], "config": {}}
    head |= {"results": results, "stats": {"started_at": created, "completed_at": created}}
    yield dump_line(head).rstrip()[:-1] + ', "samples": [\n'
    for number, (trajectory, scores) in enumerate(source):
        yield (",\n" if number else "") + dump_line(_sample(trajectory, scores, source.model))
    yield "]}\n"


def _score(name: str, mean: float, error: float) -> dict[str, Any]:
    both = {"mean": mean, "stderr": error}
    finite = {kind: value for kind, value in both.items() if math.isfinite(value)}
    metrics = {kind: {"name": kind, "value": value} for kind, value in finite.items()}
    return {"name": name, "scorer": name, "metrics": metrics}


def _sample(trajectory: Trajectory, scores: dict[str, float], model: str) -> dict[str, Any]:
    task = trajectory.task
    messages = [_chat(message) for message in trajectory.messages]
    last = next((m for m in reversed(messages) if m["role"] == "assistant"), None)
    output: dict[str, Any] = {"model": model, "choices": [], "completion": ""}
    if last is not None and trajectory.steps:
        reason = "max_tokens" if trajectory.steps[-1].cut else "stop"
        output["choices"] = [{"message": last, "stop_reason": reason}]
        output["completion"] = last["content"]
    ended = {"terminated": trajectory.terminated, "truncated": trajectory.truncated}
    return {
        "id": task.id,
        "epoch": trajectory.sample + 1,
        "input": messages[: trajectory.opening],
        "target": list(task.answers),
        "messages": messages,
        "output": output,
        "scores": {
            name: {"value": value, "answer": trajectory.answer} for name, value in scores.items()
        },
        "metadata": {**task.metadata, "question": task.question, **ended},
    }


def _chat(message: Message) -> dict[str, Any]:
    chat: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "tool":
        chat |= {"tool_call_id": message.tool_call_id, "function": message.name}
    if message.tool_calls:
        chat["tool_calls"] = [
            {"id": c.id, "function": c.name, "arguments": c.arguments, "type": "function"}
            for c in message.tool_calls
        ]
    return chat


def write_lm_eval_log(source: Recording, out: str | Path, *, where: str | None = None) -> Path:
    """Write what ``lm_eval --output_path --log_samples`` leaves: results, and a file of samples.

    Args:
        source: a run, a selection, the path of either, or trajectories.
        out: a folder, in which one is made for the model.
        where: only episodes such as ``accuracy>=1``.

    Returns:
        The file of results.

    Raises:
        MissingFileError: no such recording.
        BadInputError: no episode, or a condition that cannot be read.
        UnknownNameError: a condition on a name that there is not.
    """
    opened = _Source(source, where)
    task = _UNSAFE.sub("_", opened.task)
    folder = Path(out) / _UNSAFE.sub("__", opened.model)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = opened.moment.strftime("%Y-%m-%dT%H-%M-%S.000000")
    samples = folder / f"samples_{task}_{stamp}.jsonl"
    hashes = hashlib.sha256()
    shots = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal shots
        for number, (trajectory, scores) in enumerate(opened):
            shots, row = trajectory.examples, _row(number, trajectory, scores)
            hashes.update((row["doc_hash"] + row["prompt_hash"] + row["target_hash"]).encode())
            yield row

    write_rows(samples, rows())
    figures: dict[str, Any] = {"alias": task}
    means = opened.totals.means()
    for name, (mean, error) in means.items():
        figures[f"{name},none"] = mean
        figures[f"{name}_stderr,none"] = error if math.isfinite(error) else "N/A"
    count = opened.totals.count
    path = folder / f"results_{stamp}.json"
    write_json(
        path,
        {
            "results": {task: figures},
            "group_subtasks": {task: []},
            "configs": {task: {"task": task, "dataset_path": opened.origin.get("task_source")}},
            "versions": {task: 1},
            "n-shot": {task: shots},
            "higher_is_better": {task: dict.fromkeys(means, True)},
            "n-samples": {task: {"original": count, "effective": count}},
            "config": {"model": "toolgym", "model_args": opened.policy},
            "date": opened.moment.timestamp(),
            "model_name": opened.model,
            "model_name_sanitized": folder.name,
            "task_hashes": {task: hashes.hexdigest()},
        },
    )
    return path


def _row(number: int, trajectory: Trajectory, scores: dict[str, float]) -> dict[str, Any]:
    prompt = json.dumps([_chat(m) for m in trajectory.messages[: trajectory.opening]])
    doc, answer = trajectory.task.to_row(), trajectory.answer or ""
    said = [step.action for step in trajectory.steps]
    return {
        "doc_id": number,
        "doc": doc,
        "target": trajectory.task.target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"sample": trajectory.sample}}},
        "resps": [said],
        "filtered_resps": [answer],
        "filter": "none",
        "metrics": list(scores),
        "doc_hash": _hash(json.dumps(doc, sort_keys=True)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(trajectory.task.target),
        **scores,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
