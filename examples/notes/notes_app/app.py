"""The notes service: stores notes in Postgres, and gets dates from the calendar service.

python -m notes_app.app

DB_HOST is the host of Postgres; without it the notes are in memory, until the program ends. CALENDAR_URL is the address
of the calendar.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

import psycopg
import requests
from flask import Flask, abort, request

CALENDAR_URL = os.environ.get("CALENDAR_URL", "http://localhost:9090/calendar")

app = Flask(__name__)


class Database:
    """One table of notes."""

    def __init__(self, host: str | None) -> None:
        """Connects, and creates the table if it does not exist. Each statement is its own transaction."""
        self._connection: Any
        if host:
            self._connection = psycopg.connect(
                host=host, dbname="testdb", user="postgres", password="password", autocommit=True
            )
            key, self._placeholder = "SERIAL PRIMARY KEY", "%s"
        else:
            # Each request is served in its own thread.
            self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            key, self._placeholder = "INTEGER PRIMARY KEY AUTOINCREMENT", "?"
        self.execute(f"CREATE TABLE IF NOT EXISTS notes (id {key}, description VARCHAR(255) NOT NULL)")

    def execute(self, statement: str, *values: object) -> list[tuple[int, str]]:
        """Runs a statement, in which each `?` stands for a value, and returns its notes."""
        cursor = self._connection.execute(statement.replace("?", self._placeholder), values)
        return list(cursor.fetchall()) if cursor.description else []


database = Database(os.environ.get("DB_HOST"))


@app.get("/notes")
def read() -> str | dict[int, str]:
    """All notes, or the one with this id."""
    if "id" in request.args:
        return shown(database.execute("SELECT id, description FROM notes WHERE id = ?", parameter("id", int)))
    return dict(database.execute("SELECT id, description FROM notes ORDER BY id"))


@app.post("/notes")
def create() -> str:
    """Adds a note, with a date if `add_date=y`."""
    description = parameter("desc")
    if request.args.get("add_date", "").lower() == "y":
        description = f"{description} with date {date_from_calendar()}"
    insertion = "INSERT INTO notes (description) VALUES (?) RETURNING id, description"
    return shown(database.execute(insertion, description))


@app.put("/notes")
def update() -> str:
    """Changes the text of a note."""
    change = "UPDATE notes SET description = ? WHERE id = ? RETURNING id, description"
    return shown(database.execute(change, parameter("desc"), parameter("id", int)))


@app.delete("/notes")
def delete() -> str:
    """Deletes a note."""
    database.execute("DELETE FROM notes WHERE id = ?", parameter("id", int))
    return "Deleted"


def parameter(name: str, kind: type[int | str] = str) -> int | str:
    """A query parameter of the request; responds with 400 if it is missing or invalid."""
    value: int | str | None = request.args.get(name, type=kind)
    return abort(400, f"{name} is missing or invalid") if value is None else value


def date_from_calendar() -> str:
    """The date from the calendar; responds with 502 if it cannot be had."""
    try:
        response = requests.get(CALENDAR_URL, timeout=5)
        response.raise_for_status()
    except requests.RequestException as error:
        abort(502, f"no date from the calendar: {error}")
    return str(response.text)


def shown(notes: list[tuple[int, str]]) -> str:
    """The note as `(1, hello)`."""
    return "".join(f"({number}, {description})" for number, description in notes) or "Note does not exist"


if __name__ == "__main__":
    app.run(
        debug=True, host=os.environ.get("FLASK_RUN_HOST"), port=int(os.environ.get("FLASK_RUN_PORT", "8080"))
    )
