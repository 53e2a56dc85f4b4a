"""What was probably meant by a word of the command line that is not known. Imported only after such a mistake."""

from __future__ import annotations

import difflib
import os
import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def unknown_command(word: str, commands: Iterable[str]) -> str:
    """The message about a command that does not exist."""
    hint = _did_you_mean(word, commands)
    if not hint and (shutil.which(word) or os.path.isfile(word)):
        hint = f"; did you mean `runtime-metrics run {word}`?"
    return f"unknown command {word}{hint} (choose from {', '.join(commands)})"


def unknown_option(words: list[str], usage: str) -> str:
    """The message about arguments that a command does not take, by the usage that names those that it takes."""
    options = re.findall(r"(?<!\S)\[?(--?[a-z][a-z-]*)", usage)
    return f"unrecognized arguments: {' '.join(words)}{_did_you_mean(words[0], options)}"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.partition("=")[0], list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
