"""Where jobs are done: here, in worker processes, on a Ray cluster, or by what you have for it.

Rollouts, builds of scenarios, scoring and indexes give independent jobs to an executor in the shape
of `concurrent.futures`, and take in what comes back. All share what stands here: what is the same
for all jobs is packed once and opened once in each process, which compares by hash what it reads
before its first job; a job whose worker dies is done again, a few times; what an executor loses,
or mixes up, is told in one line; and after an error or Ctrl-C nothing new is begun.
"""

from toolgym.executors.calls import Call, Calls, Executor, LostWorkerError, code_of, pack
from toolgym.executors.pools import Here, RayExecutor, WorkerExecutor

__all__ = [
    "Call",
    "Calls",
    "Executor",
    "Here",
    "LostWorkerError",
    "RayExecutor",
    "WorkerExecutor",
    "code_of",
    "pack",
]
