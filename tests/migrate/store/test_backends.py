"""What every kind of storage does for a store, each on a real server on loopback.

SFTP is OpenSSH's server and OCI Debian's docker-registry; S3 is moto's, because Debian has none
that runs by itself.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from formats.errors import WherryError
from migrate.errors import StoreError
from migrate.store import s3, sftp
from migrate.store.backend import Backend, Entry
from migrate.store.check import check_store
from migrate.store.config import Operation
from migrate.store.store import init_store, open_store
from tests.migrate.store.places import (
    Place,
    hostile_sftp_place,
    local_place,
    oci_place,
    s3_place,
    sftp_place,
)
from tests.migrate.store.samples import noise, read_snapshot, write_snapshot
from tests.support.store_servers import Answer, http_server

KINDS = ("file", "sftp", "s3", "oci")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    """A server of each kind."""
    with (
        sftp_place(tmp_path_factory.mktemp("sftp")) as first,
        s3_place() as second,
        oci_place(tmp_path_factory.mktemp("oci")) as third,
        local_place(tmp_path_factory.mktemp("local")) as here,
    ):
        yield {"file": here, "sftp": first, "s3": second, "oci": third}


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, places: dict[str, Place]) -> Iterator[Place]:
    """One of the servers, with nothing of the tests before in the way."""
    with pytest.MonkeyPatch.context() as patch:
        chosen = places[request.param]
        for name, value in chosen.environment.items():
            patch.setenv(name, value)
        yield chosen.fresh()


@pytest.fixture
def backend(place: Place) -> Iterator[Backend]:
    """An empty place for objects."""
    opened = place.open()
    yield opened
    opened.close()


def _reason(error: pytest.ExceptionInfo[StoreError]) -> str:
    return error.value.reason


def _listed(backend: Backend, prefix: str = "") -> list[tuple[str, int]]:
    return sorted((entry.name, entry.size) for entry in backend.entries(prefix))


def test_what_is_put_can_be_got(backend: Backend) -> None:
    data = os.urandom(3 << 20) + b"the end"
    assert backend.put("packs/ab/abcdef.pack", memoryview(data))
    assert backend.get("packs/ab/abcdef.pack") == data
    assert backend.get("packs/ab/abcdef.pack", 3 << 20) == b"the end"
    assert backend.get("packs/ab/abcdef.pack", 70_000, 200_001) == data[70_000:270_001]
    assert backend.get("packs/ab/abcdef.pack", 5, 0) == b""
    assert _listed(backend) == [("packs/ab/abcdef.pack", len(data))]


def test_an_object_may_be_empty(backend: Backend) -> None:
    assert backend.put("config", b"")
    assert backend.get("config") == b""
    assert list(backend.entries()) == [Entry("config", 0)]


def test_an_object_that_is_not_there(backend: Backend) -> None:
    for arguments in ((), (3,), (0, 10)):
        with pytest.raises(StoreError) as error:
            backend.get("snapshots/none", *arguments)
        assert _reason(error) == "object-missing"
        assert "snapshots/none" in str(error.value)
    backend.remove("snapshots/none")
    assert list(backend.entries("snapshots")) == []


def test_an_object_that_ends_too_early(backend: Backend) -> None:
    backend.put("index/one", b"0123456789")
    for offset, length in ((0, 11), (9, 2), (10, 1), (11, 0), (100, 5)):
        with pytest.raises(StoreError) as error:
            backend.get("index/one", offset, length)
        assert _reason(error) == "object-short", (offset, length)
    assert backend.get("index/one", 10) == b""
    assert backend.get("index/one", 9, 1) == b"9"


def test_a_listing_goes_by_components(backend: Backend) -> None:
    names = ["config", "locks/a", "locks/b", "locks2/a", "packs/ab/1", "packs/ab/2", "packs/ac/1"]
    for number, name in enumerate(names):
        backend.put(name, b"x" * number)
    assert [name for name, _ in _listed(backend)] == names
    assert _listed(backend, "locks") == [("locks/a", 1), ("locks/b", 2)]
    assert _listed(backend, "packs/ab") == [("packs/ab/1", 4), ("packs/ab/2", 5)]
    assert _listed(backend, "pack") == []


def test_replacing_and_not_replacing(backend: Backend) -> None:
    assert backend.put("config", b"first", replace=False)
    assert not backend.put("config", b"second", replace=False)
    assert backend.get("config") == b"first"
    assert backend.put("config", b"third one")
    assert backend.get("config") == b"third one"
    assert backend.get("config", 6, 3) == b"one"
    assert _listed(backend) == [("config", 9)]
    backend.remove("config")
    assert list(backend.entries()) == []
    assert backend.put("config", b"again", replace=False)
    assert backend.get("config") == b"again"


def test_many_threads_at_once(backend: Backend) -> None:
    contents = {f"packs/{n % 3}/{n}": os.urandom(100_000 + n) for n in range(24)}
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(backend.put, contents, contents.values()))
        assert list(threads.map(backend.get, contents)) == list(contents.values())
        pieces = threads.map(lambda name: backend.get(name, 1000, 50_000), contents)
        assert list(pieces) == [data[1000:51_000] for data in contents.values()]
        assert _listed(backend) == sorted((name, len(data)) for name, data in contents.items())
        list(threads.map(backend.remove, contents))
    assert list(backend.entries()) == []


def test_of_many_writers_one_wins(place: Place, backend: Backend) -> None:
    with ThreadPoolExecutor(6) as threads:
        made = list(
            threads.map(
                lambda n: backend.put("locks/exclusive", b"%d" % n * 1000, replace=False), range(6)
            )
        )
    winners = [b"%d" % number * 1000 for number, won in enumerate(made) if won]
    assert backend.get("locks/exclusive") in winners
    if place.one_writer_wins:
        assert len(winners) == 1


@pytest.mark.parametrize(
    "name", ["", "/etc/x", "../x", "a/../b", "a//b", "A", "a/b/c/d", ".a", "a/"]
)
def test_a_name_that_is_none(backend: Backend, name: str) -> None:
    for call in (
        lambda: backend.put(name, b""),
        lambda: backend.get(name),
        lambda: backend.remove(name),
    ):
        with pytest.raises((StoreError, ValueError), match="name of an object"):
            call()


def test_what_others_keep_there_is_not_listed(place: Place, backend: Backend) -> None:
    backend.put("config", b"ours")
    place.litter()
    assert _listed(backend) == [("config", 4)]


def test_another_one_sees_the_objects(place: Place, backend: Backend) -> None:
    backend.put("config", b"one")
    other = place.open()
    assert other.get("config") == b"one"
    backend.put("config", b"number two")
    assert other.get("config") == b"number two"
    other.close()
    other.close()
    assert backend.url == place.url


def test_a_store_works_there(place: Place) -> None:
    with init_store(place.url) as store:
        first = write_snapshot(store, noise(1, 2, 3))
    with open_store(place.url, Operation.WRITE, _no_key) as store:
        second = write_snapshot(store, noise(3, 4, 2), tags=("second",))
        assert (second.new_chunks, second.chunks) == (1, 3)
    with open_store(place.url, Operation.READ, _no_key) as store:
        assert read_snapshot(store, first) == noise(1, 2, 3)
        assert read_snapshot(store, store.find("second")) == noise(3, 4, 2)
        report = check_store(store, read_data=True, progress=lambda *_: None)
        assert report.damages == []


def _no_key(*_: object) -> NoReturn:
    raise AssertionError("asked for a key")


@pytest.mark.parametrize("place", ["sftp", "s3", "oci"], indirect=True)
def test_a_server_that_is_gone(place: Place) -> None:
    with pytest.raises(StoreError) as error:
        place.open(place.url_of_nobody).get("config")
    assert _reason(error) == "store-unreachable"


@pytest.mark.parametrize(
    "url",
    [
        "sftp://host",
        "sftp://host/",
        "sftp:///path",
        "sftp://user:secret@host/path",
        "sftp://host:x/path",
        "sftp://-oProxyCommand=x/path",
        "sftp://host/path?x=y",
    ],
)
def test_an_sftp_url_that_makes_no_sense(url: str) -> None:
    with pytest.raises(StoreError) as error:
        sftp.open_backend(url)
    assert _reason(error) == "bad-store-url"
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("place", ["sftp"], indirect=True)
class TestSftp:
    """What only SFTP has."""

    def test_files_are_the_owners_alone_and_whole(self, place: Place, backend: Backend) -> None:
        backend.put("packs/ab/1", b"x" * 100_000)
        backend.put("packs/ab/1", b"y", replace=False)
        files = [path for path in place.directory.rglob("*") if path.is_file()]
        assert [path.name for path in files] == ["1"]  # no temporary one is left
        assert files[0].stat().st_mode & 0o777 == 0o600
        assert files[0].parent.stat().st_mode & 0o777 == 0o700

    def test_a_host_that_is_not_known_is_refused(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(WherryError) as error:
            place.open()
        assert error.value.reason == "host-key-unknown"

    def test_a_connection_that_broke_is_made_again(self, place: Place, backend: Backend) -> None:
        backend.put("config", b"one")
        place.break_connections()
        try:  # whether it is noticed before something is asked is chance
            assert backend.get("config") == b"one"
        except StoreError as exc:
            assert exc.reason == "store-unreachable"
        assert backend.get("config") == b"one"

    def test_after_closing_no_thread_is_left(self, place: Place) -> None:
        before = threading.active_count()
        backend = place.open()
        backend.put("config", b"x" * 100_000)
        assert len(backend.get("config")) == 100_000
        assert threading.active_count() > before
        backend.close()
        assert threading.active_count() == before

    def test_a_directory_that_cannot_be_made(self, place: Place) -> None:
        place.directory.mkdir(parents=True)
        (place.directory / "taken").write_bytes(b"")
        backend = place.open(f"{place.url}/taken")
        with pytest.raises(StoreError):
            backend.put("config", b"")
        backend.close()


@pytest.fixture(scope="module")
def hostile_sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server of SFTP that lies."""
    with hostile_sftp_place(tmp_path_factory.mktemp("hostile")) as place:
        yield place


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("huge", "store-protocol"),
        ("short", "object-short"),
        ("garbage", "store-protocol"),
    ],
)
def test_sftp_answers_that_are_lies(
    hostile_sftp: Place, monkeypatch: pytest.MonkeyPatch, way: str, reason: str
) -> None:
    for name, value in hostile_sftp.environment.items():
        monkeypatch.setenv(name, value)
    backend = hostile_sftp.open(f"{hostile_sftp.base_url}/{way}")
    with pytest.raises(StoreError) as error:
        backend.get("config")
    assert _reason(error) == reason
    backend.close()


def test_more_bytes_than_were_asked_for(
    hostile_sftp: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in hostile_sftp.environment.items():
        monkeypatch.setenv(name, value)
    backend = hostile_sftp.open(f"{hostile_sftp.base_url}/longer")
    assert backend.get("config") == b"x" * 10
    backend.close()


@pytest.mark.parametrize("way", ["dots", "absolute", "odd"])
def test_sftp_names_that_lead_elsewhere(
    hostile_sftp: Place, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    for name, value in hostile_sftp.environment.items():
        monkeypatch.setenv(name, value)
    backend = hostile_sftp.open(f"{hostile_sftp.base_url}/{way}")
    with pytest.raises(StoreError) as error:
        list(backend.entries())
    assert _reason(error) == "store-protocol"
    backend.close()


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///prefix",
        "s3://key:secret@bucket/prefix",
        "s3://bucket/prefix?endpoint=ftp://host",
        "s3://bucket/prefix?endpoint=http://key:secret@host",
        "s3://bucket/prefix?colour=red",
    ],
)
def test_an_s3_url_that_makes_no_sense(url: str) -> None:
    with pytest.raises(StoreError) as error:
        s3.open_backend(url)
    assert _reason(error) == "bad-store-url"
    assert "secret" not in str(error.value)


def _s3_listing(key: str, size: str) -> Answer:
    return Answer(
        200,
        {"Content-Type": "application/xml"},
        f"<ListBucketResult><Contents><Key>{key}</Key><Size>{size}</Size></Contents>"
        "<IsTruncated>false</IsTruncated></ListBucketResult>".encode(),
    )


@contextlib.contextmanager
def _s3_that_says(answer: Answer) -> Iterator[Backend]:
    with http_server(lambda *_: answer) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        backend = s3.open_backend(f"s3://bucket/prefix?endpoint={url}")
        yield backend
        backend.close()


@pytest.mark.parametrize(
    ("answer", "wanted", "reason"),
    [
        (Answer(200, {"Content-Length": "100"}, b"x" * 10), (), "store-unreachable"),
        (Answer(200, {"Content-Length": str(1 << 50)}, b"x"), (), "store-protocol"),
        (Answer(200, {}, b"the whole object"), (4, 5), "store-protocol"),
        (Answer(206, {"Content-Range": "bytes 0-4/16"}, b"the w"), (4, 5), "store-protocol"),
        (Answer(206, {"Content-Range": "bytes 4-6/7"}, b"who"), (4, 5), "object-short"),
        (Answer(206, {"Content-Range": "bytes 4-8/16"}, b"who"), (4, 5), "store-unreachable"),
        (Answer(206, {"Content-Range": "bytes 4-8/16"}, b"whole o"), (4, 5), "store-protocol"),
        (Answer(403, {}, b""), (), "store-denied"),
        (Answer(404, {}, b"<Error><Code>NoSuchBucket</Code></Error>"), (), "store-error"),
    ],
)
def test_s3_answers_that_are_lies(answer: Answer, wanted: tuple[int, ...], reason: str) -> None:
    with _s3_that_says(answer) as backend, pytest.raises(StoreError) as error:
        backend.get("config", *wanted)
    assert _reason(error) == reason


@pytest.mark.parametrize(
    ("key", "size"),
    [
        ("prefix/../../etc/passwd", "3"),
        ("prefix//etc/passwd", "3"),
        ("elsewhere/config", "3"),
        ("prefix/config", "-3"),
    ],
)
def test_s3_names_that_lead_elsewhere(key: str, size: str) -> None:
    with _s3_that_says(_s3_listing(key, size)) as backend, pytest.raises(StoreError) as error:
        list(backend.entries())
    assert _reason(error) == "store-protocol"


def test_s3_without_conditions_looks_first() -> None:
    """Some servers know no If-None-Match for a put."""
    objects: set[str] = set()

    def answer(method: str, path: str, headers: Mapping[str, str]) -> Answer:
        if method == "PUT" and "If-None-Match" in headers:
            return Answer(501, {}, b"<Error><Code>NotImplemented</Code></Error>")
        if method == "PUT":
            objects.add(path)
            return Answer(200)
        return Answer(200 if path in objects else 404)

    with http_server(answer) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        backend = s3.open_backend(f"s3://bucket/prefix?endpoint={url}")
        assert backend.put("config", b"one", replace=False)
        assert not backend.put("config", b"two", replace=False)
        backend.close()


def test_s3_without_credentials(places: dict[str, Place], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in places["s3"].environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    backend = places["s3"].fresh().open()
    with pytest.raises(StoreError) as error:
        backend.get("config")
    assert _reason(error) == "store-denied" and "AWS_ACCESS_KEY_ID" in str(error.value)
    backend.close()


@pytest.mark.parametrize(("kind", "library"), [("s3", "boto3"), ("oci", "urllib3")])
def test_a_library_that_is_not_installed(
    kind: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    module = importlib.import_module(f"migrate.store.{kind}")
    with pytest.raises(StoreError) as error:
        module.open_backend(f"{kind}://host/path")
    assert _reason(error) == "store-extra-missing"
    assert f"pip install 'wherry[{kind}]'" in str(error.value)
