"""What the system offers a process without root to give up its rights: namespaces, no new privileges, system calls.

Each part that is missing (another system, a container that forbids it) is left out; `enter` says which are in force.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Sequence

NAMESPACES, PRIVILEGES, CALLS = "no network", "no new privileges", "no sockets, programs or tracing"
PARTS = (NAMESPACES, PRIVILEGES, CALLS)

_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000
_PLATFORMS = {
    # socket, connect, ptrace, execve, execveat, process_vm_readv, process_vm_writev, io_uring_setup; of asm/unistd.h
    "x86_64": (0xC000003E, (41, 42, 101, 59, 322, 310, 311, 425)),
    "aarch64": (0xC00000B7, (198, 203, 117, 221, 281, 270, 271, 425)),
}
"""Audit number of a platform, and the system calls that are refused there."""


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction))]


def enter() -> tuple[str, ...]:
    """Give up what can be given up, for this process and its children, and name it. It must have one thread."""
    if not sys.platform.startswith("linux"):
        return ()
    library = ctypes.CDLL(None, use_errno=True)
    done = []
    if library.unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC) == 0:
        done.append(NAMESPACES)
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0:
        done.append(PRIVILEGES)
        if _refuse_calls(library):
            done.append(CALLS)
    return tuple(done)


def offered() -> tuple[str, ...]:
    """What `enter` gives up on this machine, tried in a process of its own."""
    code = "from saccade.tools.render.sandbox import enter; print(*enter(), sep=';')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    words = [sys.executable, "-c", code]
    try:
        said = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(part for part in said.strip().split(";") if part in PARTS)


def _refuse_calls(library: ctypes.CDLL) -> bool:
    """Install a filter of system calls (seccomp) under which some fail with EPERM."""
    if platform.machine() not in _PLATFORMS or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    audit, refused = _PLATFORMS[platform.machine()]
    instructions = _filter(audit, refused)
    array = (_Instruction * len(instructions))(*instructions)
    program = _Program(len(instructions), array)
    return library.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0


def _filter(audit: int, refused: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Instructions of the kernel's packet filter: the platform must be the expected one, then numbers are compared."""
    compared = [(_EQUAL, len(refused) - i, 0, number) for i, number in enumerate(refused)]
    return [
        (_LOAD, 0, 0, 4),  # the platform
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number of the call
        *compared,
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
