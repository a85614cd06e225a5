"""PostgreSQL under pgbench: no failed transaction, equal sums, and its own checkers are content."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from pathlib import Path

from tests.support.command import Wherry
from tests.support.programs import UNDER_LOAD, load, need, python_program

pytestmark = UNDER_LOAD


def test_no_transaction_is_lost(wherry: Wherry, scratch: Path) -> None:
    need("pgbench")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert found, "Debian's PostgreSQL is not where it was"
    binaries = found[-1]
    server = pwd.getpwnam("postgres")
    with load(wherry, scratch) as database:
        shutil.chown(database.directory, server.pw_uid, server.pw_gid)
        # The server refuses to be root's.
        user = (f"--reuid={server.pw_uid}", f"--regid={server.pw_gid}", "--clear-groups")
        as_server = ("setpriv", *user, "--")
        options = ("-k", "-N", "--wal-segsize=1", "--locale=C.UTF-8", "-A", "trust")
        subprocess.run(
            [*as_server, binaries / "initdb", *options, "-D", database.directory / "data"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        database.start(
            *as_server, *python_program("postgres_load.py"), database.directory, binaries
        )
        database.move_often(longest_pause_s=0.3)
        assert int(database.finish().split()[0]) > 100
