"""An application whose system calls are traced: `getsid` marks the first and the last request."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def wsgi(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Answers; the first request waits until the test opens the pipe GATE."""
    if environ["PATH_INFO"] == "/begin":
        with open(os.environ["GATE"]):
            pass
    if environ["PATH_INFO"] in ("/begin", "/end"):
        os.getsid(0)
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\n"]
