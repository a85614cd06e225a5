"""The record of a container and its two locks."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from runtime.errors import ContainerError, ContainerNotFoundError
from runtime.metadata import (
    STATE_FILE,
    ExecSession,
    Metadata,
    OperationLock,
    now_rfc3339,
    read_metadata,
    update_metadata,
    write_metadata,
)
from runtime.process import ProcessRef
from runtime.status import Status


def example(cid: str = "web") -> Metadata:
    return Metadata(
        id=cid,
        bundle="/bundles/web",
        created=now_rfc3339(),
        status=Status.RUNNING,
        spec={"ociVersion": "1.2.0", "annotations": {"a": "b"}},
        init=ProcessRef(12, 345),
        monitor=ProcessRef(13, 346),
        exit_status=None,
        cgroups={"v1": {}},
        cgroups_made=True,
        overlay={"upper": "/u"},
        stdio=[{"device": 1, "inode": 2, "description": "pipe:[2]"}, None, None],
        exec_sessions=[ExecSession(ProcessRef(20, 400), 9, ["sh"], 256)],
        sandbox_id="pod",
        frozen_restore=True,
        restored_from={"path": "/x.wherry"},
        extra={"note": [1, 2]},
    )


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    metadata = example()
    write_metadata(tmp_path, metadata)
    assert read_metadata(tmp_path) == metadata
    assert metadata.annotations == {"a": "b"}


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        write_metadata(tmp_path, example())
    finally:
        os.umask(previous)
    assert (tmp_path / STATE_FILE).stat().st_mode & 0o777 == 0o600


def test_an_update_that_fails_changes_nothing(tmp_path: Path) -> None:
    write_metadata(tmp_path, example())
    with pytest.raises(RuntimeError), update_metadata(tmp_path) as metadata:
        metadata.status = Status.STOPPED
        raise RuntimeError
    assert read_metadata(tmp_path).status is Status.RUNNING
    assert sorted(path.name for path in tmp_path.iterdir()) == [STATE_FILE, "state.lock"]


def test_updates_at_once_lose_nothing(tmp_path: Path) -> None:
    write_metadata(tmp_path, example())

    def count() -> None:
        for _ in range(20):
            with update_metadata(tmp_path) as metadata:
                metadata.extra["n"] = metadata.extra.get("n", 0) + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_metadata(tmp_path).extra["n"] == 80


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"version": 99}', '{"version": 1, "id": "web"}', "\x00"]
)
def test_a_damaged_record_is_named_as_such(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(ContainerError) as caught:
        read_metadata(tmp_path)
    assert caught.value.reason == "corrupt-metadata"
    assert "delete --force" in str(caught.value)


def test_an_unknown_status_is_damage(tmp_path: Path) -> None:
    document = example().to_json()
    document["status"] = "sleeping"
    (tmp_path / STATE_FILE).write_text(json.dumps(document))
    with pytest.raises(ContainerError, match="sleeping"):
        read_metadata(tmp_path)


def test_a_directory_without_a_record_is_half_created(tmp_path: Path) -> None:
    with pytest.raises(ContainerError) as caught:
        read_metadata(tmp_path)
    assert caught.value.reason == "half-created"
    with pytest.raises(ContainerNotFoundError):
        read_metadata(tmp_path / "missing")


def test_the_operation_lock_keeps_others_out(tmp_path: Path) -> None:
    with OperationLock(tmp_path):
        assert not OperationLock(tmp_path).acquire(blocking=False)
    second = OperationLock(tmp_path)
    assert second.acquire(blocking=False)
    second.release()


def test_whoever_waited_for_a_deleted_container_is_told_so(tmp_path: Path) -> None:
    directory = tmp_path / "web"
    directory.mkdir()
    first = OperationLock(directory)
    first.acquire()
    caught: list[BaseException] = []
    waiting = threading.Event()

    def wait_for_it() -> None:
        waiting.set()
        try:
            OperationLock(directory).acquire()
        except ContainerNotFoundError as exc:
            caught.append(exc)

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    waiting.wait()
    shutil.rmtree(directory)
    first.release()
    thread.join(10)
    assert caught


def test_the_lock_of_a_new_container_under_the_same_name_is_another_one(tmp_path: Path) -> None:
    directory = tmp_path / "web"
    directory.mkdir()
    old = OperationLock(directory)
    old.acquire()
    # Keeps the old inode's number from being used again.
    directory.rename(tmp_path / "old")
    directory.mkdir()
    new = OperationLock(directory)
    assert new.acquire(blocking=False)
    new.release()
    old.release()


def test_a_lock_shared_over_fork_is_released_for_both(tmp_path: Path) -> None:
    lock = OperationLock(tmp_path)
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        lock.release()
        os._exit(0)
    os.waitpid(pid, 0)
    assert OperationLock(tmp_path).acquire(blocking=False)
    lock.forget()
