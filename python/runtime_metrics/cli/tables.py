"""What `catalogue` and `variables` share: a table of the core for people, programs and the documentation."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

Row = TypeVar("Row")


def add_forms(parser: argparse.ArgumentParser, page: str) -> argparse._MutuallyExclusiveGroup:
    """Adds the options for the other forms of a table, one of which is a page of the documentation; returns them."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a list of objects with every field")
    form.add_argument("--markdown", action="store_true", help=f"the page {page}")
    return form


def show(
    rows: Sequence[Row],
    fields: Sequence[str],
    arguments: argparse.Namespace,
    *,
    markdown: Callable[[Sequence[Row]], str],
    text: Callable[[Sequence[Row], int], str],
) -> None:
    """Prints a table in the form that was asked for; text is made for the width of the terminal."""
    if arguments.json:
        print(json.dumps([{field: getattr(row, field) for field in fields} for row in rows], indent=2))
    elif arguments.markdown:
        print(markdown(rows), end="")
    else:
        print(text(rows, shutil.get_terminal_size((100, 24)).columns))


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading: in lower case, without punctuation."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
