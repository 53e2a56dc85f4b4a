"""A program in a sandbox that refuses some system calls. It sends to each URL it is given, and prints what happened.

The sandbox is a seccomp filter, as containers, systemd's SystemCallFilter and browsers use; it holds from the start
or, with AFTER, once the first URL has been sent to.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import platform
import resource
import struct
import sys
import time
from typing import Any

from runtime_metrics import RuntimeMetrics

# linux/filter.h, linux/seccomp.h
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER, ALL_THREADS = 38, 1, 1
SECCOMP = {"x86_64": 317, "aarch64": 277}

messages: list[str] = []
sent: list[list[bool]] = []
snapshots: list[list[str]] = []


class Keeper(logging.Handler):
    """Keeps what we log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a message."""
        messages.append(record.getMessage())


def refuse(calls: list[int], error: int) -> None:
    """Has all threads refused these system calls, by number, with this error."""
    instruction = struct.Struct("HBBI").pack
    program = instruction(LOAD_WORD, 0, 0, 0)
    for index, call in enumerate(calls):
        program += instruction(JUMP_IF_EQUAL, len(calls) - index, 0, call)
    program += instruction(RETURN, 0, 0, ALLOW) + instruction(RETURN, 0, 0, REFUSE | error)
    code = ctypes.create_string_buffer(program)
    filters = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for done in (
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        libc.syscall(SECCOMP[platform.machine()], SECCOMP_SET_MODE_FILTER, ALL_THREADS, filters),
    ):
        if done != 0:
            raise OSError(ctypes.get_errno(), "no seccomp")


def main(urls: list[str], calls: list[int], error: int, after: bool) -> None:
    """Sends thrice to each URL."""
    logger = logging.getLogger("runtime_metrics")
    logger.addHandler(Keeper())
    logger.setLevel(logging.WARNING)
    before = None
    if not after:
        refuse(calls, error)
    for url in urls:
        RuntimeMetrics.enable(dogstatsd_url=url, flush_interval=3600)
        # Long enough for a percentage of CPU time.
        time.sleep(0.06)
        sent.append([RuntimeMetrics.flush()])
        if after and url == urls[0]:
            refuse(calls, error)
        before = before or descriptors()
        sent[-1] += [RuntimeMetrics.flush(), RuntimeMetrics.flush()]
        snapshots.append(sorted(RuntimeMetrics.snapshot()))
        RuntimeMetrics.disable()
    facts: dict[str, Any] = {"sent": sent, "messages": messages, "snapshots": snapshots}
    print(json.dumps(facts | {"leaked": sorted(set(descriptors()) - set(before or []))}))


def descriptors() -> list[int]:
    """The numbers in use, found without a folder being opened."""
    limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 256)
    return [number for number in range(limit) if os.path.lexists(f"/proc/self/fd/{number}")]


main(**json.loads(sys.argv[1]))
