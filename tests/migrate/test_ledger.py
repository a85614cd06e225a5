"""The destination's book: one decision per handover, whoever comes first."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from migrate import ledger
from migrate.errors import MigrateError
from migrate.ledger import Entry, advance, entry_of, note_pages, open_ledger, phase_of
from migrate.messages import PageState, Phase

TOKEN = "0" * 32


def _begin(root: Path, phase: Phase = Phase.PREPARED) -> None:
    with open_ledger(root) as entries:
        entries[TOKEN] = Entry("c", phase, changed=time.time())


def test_a_handover_moves_on_only_from_where_it_is(tmp_path: Path) -> None:
    _begin(tmp_path)
    assert advance(tmp_path, TOKEN, to=Phase.COMMITTED, only_from=(Phase.PREPARED,)) == "committed"
    assert advance(tmp_path, TOKEN, to=Phase.ABORTED, only_from=(Phase.PREPARED,)) == "committed"
    assert phase_of(tmp_path, TOKEN) is Phase.COMMITTED
    assert phase_of(tmp_path, "f" * 32) is Phase.UNKNOWN


def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    _begin(tmp_path)
    with pytest.raises(RuntimeError), open_ledger(tmp_path) as entries:
        del entries[TOKEN]
        raise RuntimeError
    assert phase_of(tmp_path, TOKEN) is Phase.PREPARED


def test_settled_ones_are_forgotten_in_time(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as entries:
        old = time.time() - ledger.KEPT_S - 1
        entries["1" * 32] = Entry("c", Phase.RUNNING, changed=old)
        entries["2" * 32] = Entry("d", Phase.COMMITTED, changed=old)
    assert phase_of(tmp_path, "1" * 32) is Phase.UNKNOWN
    assert phase_of(tmp_path, "2" * 32) is Phase.COMMITTED


def test_what_became_of_memory_is_written_once(tmp_path: Path) -> None:
    old = time.time() - ledger.KEPT_S - 1
    with open_ledger(tmp_path) as entries:
        entries[TOKEN] = Entry("c", Phase.RUNNING, changed=old, pages=PageState.WANTED)
    assert note_pages(tmp_path, TOKEN, PageState.LOST, "the line broke") is PageState.LOST
    assert note_pages(tmp_path, TOKEN, PageState.COMPLETE) is PageState.LOST
    entry = entry_of(tmp_path, TOKEN)
    assert entry is not None and entry.sentence == "the line broke"
    assert note_pages(tmp_path, "f" * 32, PageState.LOST) is None
    with open_ledger(tmp_path) as entries:
        entries[TOKEN].changed = old
    assert phase_of(tmp_path, TOKEN) is Phase.UNKNOWN


def test_damage_is_told(tmp_path: Path) -> None:
    (tmp_path / ledger.FILE).write_text('{"x": {"phase": "sideways"}}')
    with pytest.raises(MigrateError) as caught:
        phase_of(tmp_path, TOKEN)
    assert caught.value.reason == "ledger-corrupt"


def _race(root: Path, to: Phase, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    results.put(advance(root, TOKEN, to=to, only_from=(Phase.PREPARED,)))  # type: ignore[attr-defined]


def test_two_that_decide_at_once_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        _begin(tmp_path)
        barrier, results = context.Barrier(2), context.SimpleQueue()
        racers = [
            context.Process(target=_race, args=(tmp_path, phase, barrier, results))
            for phase in (Phase.COMMITTED, Phase.ABORTED)
        ]
        for racer in racers:
            racer.start()
        answers = {results.get(), results.get()}
        for racer in racers:
            racer.join()
        assert answers == {phase_of(tmp_path, TOKEN)}
