"""A job that commits rows to SQLite: ``database.py DIRECTORY ROWS JOURNAL``.

After each commit the row's number goes to ``committed``, synced. Whatever happens to the job, a
number in that file must be in the table, each row must be whole, and the running total right.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import time
from pathlib import Path

directory, rows, journal = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def main() -> None:
    database = sqlite3.connect(directory / "data.sqlite", isolation_level=None)
    database.execute(f"PRAGMA journal_mode = {journal}")
    database.execute("PRAGMA wal_autocheckpoint = 50")
    database.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY, text TEXT, digest TEXT)")
    database.execute("CREATE TABLE total (rows INTEGER, bytes INTEGER)")
    database.execute("INSERT INTO total VALUES (0, 0)")
    database.execute("CREATE INDEX by_digest ON entry (digest)")
    committed = os.open(directory / "committed", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in range(rows):
        text = f"row {number} " * (number % 30 + 1)
        database.execute("BEGIN IMMEDIATE")
        digest = hashlib.sha256(text.encode()).hexdigest()
        database.execute("INSERT INTO entry VALUES (?, ?, ?)", (number, text, digest))
        database.execute("UPDATE total SET rows = rows + 1, bytes = bytes + ?", (len(text),))
        time.sleep(0.001)  # a moment in the middle of the transaction
        database.execute("COMMIT")
        os.write(committed, f"{number}\n".encode())
        os.fsync(committed)
    database.close()
    (directory / "done").write_text("done\n")


main()
