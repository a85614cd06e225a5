"""What a destination answers when it is asked about a handover."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from formats.errors import WherryError
from migrate.ledger import Entry, open_ledger, phase_of
from migrate.messages import Answer, PageState, Phase, Query, Wish
from migrate.ownership import commit, finish
from migrate.receive_query import answer_for

TOKEN = "1" * 32


def _noted(root: Path, phase: Phase, pages: PageState = PageState.COMPLETE) -> None:
    with open_ledger(root) as entries:
        entries[TOKEN] = Entry("job", phase, changed=time.time(), pages=pages)


def _asked(root: Path, wish: Wish) -> Answer:
    return answer_for(root, Query(TOKEN, wish))


def test_nothing_comes_of_what_it_does_not_know(tmp_path: Path) -> None:
    assert _asked(tmp_path, Wish.ASK).phase is Phase.UNKNOWN
    assert phase_of(tmp_path, TOKEN) is Phase.UNKNOWN
    assert _asked(tmp_path, Wish.FINISH).phase is Phase.UNKNOWN
    answer = _asked(tmp_path, Wish.ABORT)
    assert answer.phase is Phase.ABORTED and not answer.container_id


@pytest.mark.parametrize("phase", [Phase.RECEIVING, Phase.PREPARED])
def test_what_has_not_run_is_given_back(tmp_path: Path, phase: Phase) -> None:
    _noted(tmp_path, phase)
    answer = _asked(tmp_path, Wish.ABORT)
    assert answer == Answer(Phase.ABORTED, "job")


def test_what_may_have_run_is_given_back_only_to_who_says_so(tmp_path: Path) -> None:
    """It was committed, and is not there any more: it may have been started before."""
    _noted(tmp_path, Phase.COMMITTED)
    with pytest.raises(WherryError) as caught:
        finish(tmp_path, TOKEN)
    assert caught.value.reason == "removed-meanwhile"
    for wish in (Wish.FINISH, Wish.ABORT):
        answer = _asked(tmp_path, wish)
        assert (answer.phase, answer.pages) == (Phase.COMMITTED, PageState.LOST)
        assert "removed" in answer.sentence
    assert _asked(tmp_path, Wish.TAKE_BACK) == Answer(Phase.ABORTED, "job", answer.sentence)
    assert phase_of(tmp_path, TOKEN) is Phase.ABORTED


def test_what_has_run_and_was_removed(tmp_path: Path) -> None:
    _noted(tmp_path, Phase.RUNNING, PageState.WANTED)
    for wish in (Wish.ASK, Wish.FINISH, Wish.ABORT):
        answer = _asked(tmp_path, wish)
        assert (answer.phase, answer.pages) == (Phase.RUNNING, PageState.LOST)
    assert _asked(tmp_path, Wish.TAKE_BACK).phase is Phase.ABORTED


def test_all_had_come_before_it_was_removed(tmp_path: Path) -> None:
    _noted(tmp_path, Phase.RUNNING)
    for wish in Wish:
        assert _asked(tmp_path, wish) == Answer(Phase.RUNNING, "job")


def test_lost_before_the_commit(tmp_path: Path) -> None:
    """It has not run, so it is not to be ours."""
    _noted(tmp_path, Phase.PREPARED, PageState.LOST)
    assert commit(tmp_path, TOKEN) is Phase.PREPARED
    assert _asked(tmp_path, Wish.FINISH).phase is Phase.ABORTED
