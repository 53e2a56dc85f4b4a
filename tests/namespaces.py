"""Network namespaces: they touch nothing outside, and disappear with the processes that hold them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWNET = 0x40000000

Opened = TypeVar("Opened")


class Namespace:
    """A network namespace, held by a process."""

    def __init__(self) -> None:
        """Has nothing but a loopback interface."""
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo && cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        self.exists = self._holder.stdout.readline() == b"\n"
        self.pid = str(self._holder.pid)
        self.entering = ["nsenter", "--net", "--target", self.pid]

    def ip(self, command: str) -> bool:
        """Changes the network; returns whether that was possible."""
        return subprocess.run([*self.entering, "ip", *command.split()], check=False).returncode == 0

    def inside(self, open_there: Callable[[], Opened]) -> Opened:
        """Opens something in this namespace. A socket stays where it was opened."""
        opened = []

        def enter_and_open() -> None:
            with open(f"/proc/{self.pid}/ns/net") as namespace:
                entered = ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET)
            assert entered == 0
            opened.append(open_there())

        # Only this thread enters the namespace.
        thread = threading.Thread(target=enter_and_open)
        thread.start()
        thread.join()
        return opened[0]

    def close(self) -> None:
        """Ends the process that holds it."""
        self._holder.communicate()


def need_tools() -> None:
    """Skips the test where the programs are missing that make namespaces."""
    tools = ["ip", "nsenter", "unshare"]
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"needs {', '.join(missing)} to make network namespaces")
