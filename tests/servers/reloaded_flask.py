"""An application of Flask that works at its import; the test touches it, so that it is loaded again."""

from __future__ import annotations

from flask import Flask
from jobs import work

app = Flask(__name__)
work()
