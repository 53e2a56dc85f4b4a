"""Another program, executed by one that is measured: tells what it has been left."""

from __future__ import annotations

from telling import links, tasks, tell

tell("executed", links=links(), tasks=tasks())
