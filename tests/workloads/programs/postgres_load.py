"""A PostgreSQL server with pgbench: ``postgres_load.py DIRECTORY BINARIES``.

The cluster is in ``DIRECTORY/data``. pgbench's transactions keep sums equal; clients of our own use
what pgbench does not: notifications, advisory locks, large sorts in temporary files, prepared
transactions, sequences. At the end pg_amcheck compares tables and indexes, and once more after the
server was started anew; pg_checksums reads every page.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import conduct

BINARIES = Path(sys.argv[2])
DATA = conduct.directory / "data"
USER = "postgres"
failures: list[str] = []
transactions: list[int] = []


def call(program: str, *words: str | Path) -> str:
    """The output of one of PostgreSQL's own programs; it must succeed."""
    done = subprocess.run(
        [str(BINARIES / program), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
    return done.stdout


def sql(text: str) -> str:
    return call("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text).strip()


def start_server() -> None:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(conduct.directory),
        "shared_buffers": "16MB",
        "max_connections": "30",
        "max_prepared_transactions": "5",
        "max_wal_size": "32MB",
        "wal_level": "logical",
        "autovacuum_naptime": "1s",
        "checkpoint_timeout": "30s",
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    log = str(conduct.directory / "server.log")
    call("pg_ctl", "-w", "-D", DATA, "-l", log, "-o", options, "start")


def stop_server() -> None:
    call("pg_ctl", "-w", "-m", "fast", "-D", DATA, "stop")


def bench() -> None:
    """Rounds of pgbench; none of its transactions may fail."""
    while not over():
        said = call("pgbench", "-n", "-c", "4", "-j", "2", "-t", "150", "-M", "prepared")
        assert "number of failed transactions: 0 " in said, said
        assert "transactions actually processed: 600/600" in said, said
        transactions.append(600)


def sort_on_disk() -> None:
    """A query with temporary files and parallel workers."""
    query = (
        "SET work_mem = '128kB'; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; "
        "SET min_parallel_table_scan_size = 0; SELECT md5(string_agg(md5(n::text), '')) FROM "
        "(SELECT aid AS n FROM pgbench_accounts WHERE aid % 5 = 0 ORDER BY md5(aid::text)) s"
    )
    wanted = sql(query)
    while not over():
        assert sql(query) == wanted


def count_up() -> None:
    """One session with a model: what it reads is what it wrote."""
    session = subprocess.Popen(
        [str(BINARIES / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert session.stdin is not None and session.stdout is not None

    def ask(text: str) -> str:
        assert session.stdin is not None and session.stdout is not None
        session.stdin.write(text + "\n")
        session.stdin.flush()
        return session.stdout.readline().strip()

    assert ask("SELECT pg_advisory_lock(7), 'locked';").endswith("locked")
    number = 0
    while not over():
        number += 1
        assert ask(f"INSERT INTO own VALUES ({number}) RETURNING n;") == str(number)
        assert ask("SELECT count(*) FROM own;") == str(number)
        assert ask("SELECT nextval('numbers');") == str(number)
        if number % 10 == 0:
            session.stdin.write(
                f"BEGIN; UPDATE own SET twice = n WHERE n = {number}; "
                f"PREPARE TRANSACTION 'own-{number}';\n"
                f"COMMIT PREPARED 'own-{number}';\n"
            )
            assert ask(f"SELECT twice FROM own WHERE n = {number};") == str(number)
    session.stdin.close()
    assert session.wait(60) == 0


def over() -> bool:
    return bool(failures) or conduct.stopping()


def run(body: Callable[[], None]) -> threading.Thread:
    def guarded() -> None:
        try:
            body()
        except BaseException:
            failures.append(traceback.format_exc())

    thread = threading.Thread(target=guarded)
    thread.start()
    return thread


def check() -> None:
    """Sums of all tables, and what the server's own checkers say."""
    sums = sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM "
        "pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM "
        "pgbench_history)"
    )
    assert len(set(sums.split("|"))) == 1, sums
    count = sql("SELECT count(*) FROM pgbench_history")
    assert int(count) == sum(transactions), (count, sum(transactions))
    call("pg_amcheck", "--heapallindexed", "--install-missing", "-j", "2", "postgres")


def main() -> None:
    os.chdir(conduct.directory)
    os.environ.update(PGHOST=str(conduct.directory), PGUSER=USER, PGDATABASE="postgres")
    start_server()
    call("pgbench", "-i", "-q", "-s", "1")
    sql("CREATE TABLE own (n int PRIMARY KEY, twice int)")
    sql("CREATE SEQUENCE numbers")
    threads = [run(bench), run(sort_on_disk), run(count_up)]
    conduct.wait_for(lambda: transactions or failures, what="the first round")
    conduct.ready()
    for thread in threads:
        thread.join()
    assert not failures, "\n".join(failures)
    check()
    stop_server()
    call("pg_checksums", "--check", "-D", DATA)
    start_server()
    check()
    stop_server()
    log = (conduct.directory / "server.log").read_text()
    # A worker that is told to end calls that fatal.
    log = log.replace("FATAL:  terminating", "LOG:  terminating")
    bad = [line for line in log.splitlines() if "PANIC" in line or "FATAL" in line]
    assert not bad, bad
    conduct.done(f"{sum(transactions)} transactions")


main()
