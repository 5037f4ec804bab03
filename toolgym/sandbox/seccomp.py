"""The kernel's allow-list of system calls, through libc and nothing else (Linux, seccomp-BPF).

What is not on the list is answered with EPERM, so that Python code meets an exception that it can
report. Nothing on the list opens, connects, forks, executes, signals or traces. The filter is made
here since the bindings need the system's libseccomp, which a wheel cannot bring.
"""

from __future__ import annotations

import ctypes
import platform
import struct

__all__ = ["Filter", "build"]

# Memory, the clock, random bytes, waiting, and writing to what is open already: the answer's pipe;
# reading from a session's socket only.
_X86_64 = {
    **{
        "read": 0,
        "write": 1,
        "close": 3,
        "fstat": 5,
        "lseek": 8,
        "mmap": 9,
        "mprotect": 10,
        "munmap": 11,
    },
    **{"brk": 12, "rt_sigprocmask": 14, "rt_sigreturn": 15, "select": 23, "sched_yield": 24},
    **{"mremap": 25, "madvise": 28, "getpid": 39, "exit": 60, "gettimeofday": 96},
    **{"gettid": 186, "futex": 202, "clock_gettime": 228, "clock_nanosleep": 230},
    **{"exit_group": 231, "getrandom": 318},
}
_AARCH64 = {
    **{"close": 57, "lseek": 62, "read": 63, "write": 64, "pselect6": 72, "fstat": 80, "exit": 93},
    **{"exit_group": 94, "futex": 98, "clock_gettime": 113, "clock_nanosleep": 115},
    **{"sched_yield": 124, "rt_sigprocmask": 135, "rt_sigreturn": 139, "gettimeofday": 169},
    **{"getpid": 172, "gettid": 178, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222},
    **{"mprotect": 226, "madvise": 233, "getrandom": 278},
}
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}  # linux/audit.h

_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h
_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050001  # linux/seccomp.h
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_FIRST_ARGUMENT, _THIRD_ARGUMENT = 16, 32
_OWN = 3  # descriptor that may be read from; the null device lies before it
_EXECUTABLE = 0x4  # PROT_EXEC
_ADVICE = (4, 8)  # MADV_DONTNEED, MADV_FREE: how an allocator gives pages back
_SET_SECCOMP, _SET_NO_NEW_PRIVILEGES = 22, 38  # linux/prctl.h
_FILTER_MODE = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def build() -> bytes | None:
    """The filter's instructions, 8 bytes each; None where the machine or system is not known."""
    known = _MACHINES.get(platform.machine()) if platform.system() == "Linux" else None
    if known is None:
        return None
    architecture, calls = known

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    steps = [
        step(_LOAD, 0, 0, _ARCHITECTURE),
        step(_JUMP_EQUAL, 1, 0, architecture),
        step(_RETURN, 0, 0, _KILL),
        step(_LOAD, 0, 0, _NUMBER),
    ]
    for name, number in calls.items():
        if name in ("mmap", "mprotect"):  # memory, but none that can be executed
            steps += [
                step(_JUMP_EQUAL, 0, 4, number),
                step(_LOAD, 0, 0, _THIRD_ARGUMENT),
                step(_JUMP_SET, 0, 1, _EXECUTABLE),
                step(_RETURN, 0, 0, _EPERM),
                step(_RETURN, 0, 0, _ALLOW),
            ]
        elif name == "read":
            steps += [
                step(_JUMP_EQUAL, 0, 4, number),
                step(_LOAD, 0, 0, _FIRST_ARGUMENT),
                step(_JUMP_EQUAL, 0, 1, _OWN),
                step(_RETURN, 0, 0, _ALLOW),
                step(_RETURN, 0, 0, _EPERM),
            ]
        elif name == "madvise":
            steps += [
                step(_JUMP_EQUAL, 0, 5, number),
                step(_LOAD, 0, 0, _THIRD_ARGUMENT),
                step(_JUMP_EQUAL, 1, 0, _ADVICE[0]),
                step(_JUMP_EQUAL, 0, 1, _ADVICE[1]),
                step(_RETURN, 0, 0, _ALLOW),
                step(_RETURN, 0, 0, _EPERM),
            ]
        else:
            steps += [step(_JUMP_EQUAL, 0, 1, number), step(_RETURN, 0, 0, _ALLOW)]
    return b"".join([*steps, step(_RETURN, 0, 0, _EPERM)])


class Filter:
    """The filter, made ready in a process that forks, so that its children only have to ask.

    Raises:
        OSError: the system or machine is not known, or libc has no ``prctl``.
    """

    def __init__(self) -> None:
        program = build()
        if program is None:
            raise OSError("no seccomp filter for this system")
        self._prctl = ctypes.CDLL(None).prctl
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._program = _Program(len(program) // 8, ctypes.addressof(self._buffer))

    def install(self) -> bool:
        """Put this process behind the filter, for good; False: the kernel refused."""
        if self._prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
            return False
        failed: int = self._prctl(_SET_SECCOMP, _FILTER_MODE, ctypes.byref(self._program), 0, 0)
        return failed == 0
