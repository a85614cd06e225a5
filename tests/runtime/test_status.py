"""The words for a container's state, and refusals in them."""

from __future__ import annotations

import pytest

from runtime.errors import WrongStatusError
from runtime.status import Status, require_status


def test_the_words_are_those_of_oci() -> None:
    assert [str(status) for status in Status] == [
        "creating",
        "created",
        "running",
        "paused",
        "stopped",
    ]


def test_only_what_runs_can_be_saved() -> None:
    assert {status for status in Status if status.can_checkpoint} == {
        Status.RUNNING,
        Status.PAUSED,
    }


def test_the_refusal_says_what_there_is_and_what_is_needed() -> None:
    require_status("web", Status.RUNNING, "pause", Status.RUNNING)
    with pytest.raises(WrongStatusError) as caught:
        require_status("web", Status.STOPPED, "kill", Status.RUNNING, Status.PAUSED)
    assert str(caught.value) == (
        "cannot kill container 'web' in status stopped, needs running or paused"
    )
