"""Another program, executed by one that is measured: reports what it has inherited."""

from __future__ import annotations

from reporting import links, report, tasks

report("executed", links=links(), tasks=tasks())
