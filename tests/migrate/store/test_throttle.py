"""A store that is written to no faster than allowed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from migrate.store.backend import Linking
from migrate.store.local import LocalBackend
from migrate.store.throttle import throttled


def test_all_threads_together_keep_to_the_rate(tmp_path: Path) -> None:
    backend = throttled(LocalBackend(tmp_path), 1_000_000)
    started = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda n: backend.put(f"packs/{n}", b"x" * 50_000), range(8)))
    # The first goes at once, each further one after the 50 ms of the one before it.
    assert time.monotonic() - started >= 0.35
    assert made == [True] * 8
    assert sorted(entry.name for entry in backend.entries()) == [f"packs/{n}" for n in range(8)]
    assert backend.get("packs/3", 10, 5) == b"xxxxx"
    backend.remove("packs/3")
    assert backend.url == str(tmp_path)
    assert not isinstance(backend, Linking)
    backend.close()


def test_what_links_goes_on_linking(tmp_path: Path) -> None:
    class Links(LocalBackend):
        def link(self, name: str, others: object) -> None:
            linked.append((name, others))

    linked: list[object] = []
    backend = throttled(Links(tmp_path), 1_000_000)
    assert isinstance(backend, Linking)
    backend.link("a", ["b"])
    assert linked == [("a", ["b"])]
