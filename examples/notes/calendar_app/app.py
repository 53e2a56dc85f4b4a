"""The calendar service: responds with a random date.

python -m calendar_app.app
"""

from __future__ import annotations

import os
import random
from datetime import date, timedelta

from flask import Flask

app = Flask(__name__)


@app.get("/calendar")
def any_date() -> str:
    """A random day of 2022, as `12/31/2022`."""
    day = date(2022, 1, 1) + timedelta(days=random.randrange(365))
    return day.strftime("%m/%d/%Y")


if __name__ == "__main__":
    app.run(
        debug=True, host=os.environ.get("FLASK_RUN_HOST"), port=int(os.environ.get("FLASK_RUN_PORT", "9090"))
    )
