"""What only an OCI registry has: artifacts that others can copy, logins, and answers to doubt.

The registry is Debian's docker-registry.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from migrate.errors import StoreError
from migrate.store import oci
from migrate.store.check import check_store
from migrate.store.config import Operation
from migrate.store.local import LocalBackend
from migrate.store.oci import OciBackend, name_of, tag_of
from migrate.store.prune import prune
from migrate.store.registry import MANIFEST_TYPE
from migrate.store.store import init_store, open_store
from tests.migrate.store.places import Place, oci_place
from tests.migrate.store.samples import noise, read_snapshot, write_snapshot
from tests.support.store_servers import Answer, docker_registry, http_server


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for all tests here."""
    with oci_place(tmp_path_factory.mktemp("registry")) as place:
        yield place


@pytest.fixture
def place(registry: Place, no_logins: None) -> Place:
    """A repository that nobody has used."""
    return registry.fresh()


@pytest.fixture
def backend(place: Place) -> Iterator[OciBackend]:
    """A client of it."""
    opened = oci.open_backend(place.url)
    yield opened
    opened.close()


@pytest.fixture
def no_logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has logged in anywhere."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def _skopeo(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["skopeo", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def _pieces(folder: Path) -> dict[str, bytes]:
    """Objects by name in a directory that skopeo wrote: what the manifest's titles say."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        layer["annotations"][oci.TITLE]: (folder / layer["digest"].partition(":")[2]).read_bytes()
        for layer in manifest["layers"]
    }


def _reference(place: Place, name: str) -> str:
    return f"docker://{place.url.removeprefix('oci+http://')}:{tag_of(name)}"


@pytest.mark.parametrize("name", ["config", "packs/ab/abc.pack", "a_b/c-d", "x__y/0._-"])
def test_names_and_tags(name: str) -> None:
    assert name_of(tag_of(name)) == name
    assert "/" not in tag_of(name)


@pytest.mark.parametrize("tag", ["Latest", "_x", "a__b", "a_b_c_d", "a_", "UU", "..", "", "a/b"])
def test_tags_that_are_no_objects(tag: str) -> None:
    assert name_of(tag) is None


def test_a_name_that_is_too_long_for_a_tag(backend: OciBackend) -> None:
    with pytest.raises(StoreError) as error:
        backend.put("a" * 129, b"")
    assert error.value.reason == "object-name"


def test_skopeo_copies_one_object(place: Place, backend: OciBackend, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    backend.put("packs/ab/abcd", data)
    source = _reference(place, "packs/ab/abcd")
    _skopeo("copy", "--src-tls-verify=false", source, f"dir:{tmp_path}/copy")
    assert _pieces(tmp_path / "copy") == {"packs/ab/abcd": data}


def test_skopeo_copies_a_snapshot_with_its_packs(
    place: Place, backend: OciBackend, tmp_path: Path
) -> None:
    objects = {f"packs/{n}": os.urandom(50_000) for n in range(5)} | {"snapshots/one": b"a list"}
    for name, data in objects.items():
        backend.put(name, data)
    wanted = ["packs/1", "packs/4", "packs/1", "snapshots/one"]
    backend.link("snapshots/one", wanted)
    assert backend.get("snapshots/one") == b"a list"
    source = _reference(place, "snapshots/one")
    _skopeo("copy", "--src-tls-verify=false", source, f"dir:{tmp_path}/copy")
    assert _pieces(tmp_path / "copy") == {name: objects[name] for name in wanted}
    with pytest.raises(StoreError) as error:
        backend.link("snapshots/one", ["packs/9"])
    assert error.value.reason == "object-missing"


def test_skopeo_copies_a_whole_store_to_another_registry(
    place: Place, backend: OciBackend, registry: Place, tmp_path: Path
) -> None:
    objects = {f"packs/{n}": os.urandom(20_000 + n) for n in range(4)} | {"config": b"c"}
    for name, data in objects.items():
        backend.put(name, data)
    other = registry.fresh()
    for name in objects:  # skopeo sync of this age takes --preserve-digests only one by one
        _skopeo(
            *("copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"),
            _reference(place, name),
            _reference(other, name),
        )
    copy = oci.open_backend(other.url)
    assert {entry.name: copy.get(entry.name) for entry in copy.entries()} == objects
    copy.close()
    source = place.url.removeprefix("oci+http://")
    options = ("--src", "docker", "--dest", "dir", "--src-tls-verify=false", "--scoped")
    _skopeo("sync", *options, source, tmp_path)
    folders = {path.parent for path in tmp_path.rglob("manifest.json")}
    found: dict[str, bytes] = {}
    for folder in folders:
        found |= _pieces(folder)
    assert found == objects


def test_a_copied_snapshot_can_be_restored(place: Place, tmp_path: Path) -> None:
    with init_store(place.url) as store:
        write_snapshot(store, noise(1, 2, 3))
        snapshot = write_snapshot(store, noise(2, 4))
    name = f"snapshots/{snapshot.snapshot_id.hex()}"
    _skopeo("copy", "--src-tls-verify=false", _reference(place, name), f"dir:{tmp_path}/copy")
    directory = LocalBackend(tmp_path / "store")
    for title, data in _pieces(tmp_path / "copy").items():  # as oras pull does it
        directory.put(title, data)
    with open_store(directory.url, Operation.READ, lambda *_: pytest.fail("asked")) as copy:
        assert copy.snapshots() == [snapshot]
        assert read_snapshot(copy, snapshot) == noise(2, 4)


def test_equal_bytes_are_sent_once(place: Place, backend: OciBackend) -> None:
    data = os.urandom(100_000)
    backend.put("packs/one", data)
    blobs = place.base_directory / "data/docker/registry/v2/blobs"
    digest = hashlib.sha256(data).hexdigest()
    stored = blobs / "sha256" / digest[:2] / digest / "data"
    before = stored.stat()
    backend.put("packs/two", data)
    assert (stored.stat().st_ino, stored.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    # And each of the two is an object of its own.
    backend.remove("packs/one")
    assert [entry.name for entry in backend.entries()] == ["packs/two"]
    assert backend.get("packs/two") == data


def test_the_registrys_garbage_collection_keeps_what_a_store_needs(
    place: Place, backend: OciBackend
) -> None:
    objects = {f"packs/{n}": os.urandom(10_000) for n in range(3)} | {"config": b"kept"}
    for name, data in objects.items():
        backend.put(name, data)
    backend.remove("packs/1")
    subprocess.run(
        [
            *("docker-registry", "garbage-collect", "--delete-untagged"),
            str(place.base_directory / "config.yml"),
        ],
        check=True,
        capture_output=True,
    )
    del objects["packs/1"]
    fresh = oci.open_backend(place.url)
    assert {entry.name: fresh.get(entry.name) for entry in fresh.entries()} == objects
    fresh.close()


def _tag_as(place: Place, name: str, tag: str) -> str:
    """Give an object a tag of somebody else's; returns its reference."""
    source = _reference(place, name)
    target = f"docker://{place.url.removeprefix('oci+http://')}:{tag}"
    tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
    _skopeo("copy", *tls, "--preserve-digests", source, target)
    return target


def _put_index(place: Place, tag: str, name: str) -> str:
    """Put an object's manifest into an image index; returns its reference by digest."""
    base = place.url.removeprefix("oci+")
    server, _, repository = base.partition("://")[2].partition("/")
    url = f"http://{server}/v2/{repository}/manifests"
    accept = {"Accept": MANIFEST_TYPE}
    with urlopen(Request(f"{url}/{tag_of(name)}", headers=accept)) as answer:
        body = answer.read()
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    kind = "application/vnd.oci.image.index.v1+json"
    part = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": len(body)}
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [part]}).encode()
    with urlopen(Request(f"{url}/{tag}", index, {"Content-Type": kind}, method="PUT")) as answer:
        assert answer.status == 201
    return f"docker://{server}/{repository}@{digest}"


def _collect_garbage(place: Place, *options: str) -> None:
    command = ("docker-registry", "garbage-collect", *options)
    config = str(place.base_directory / "config.yml")
    subprocess.run([*command, config], check=True, capture_output=True)


@pytest.mark.parametrize("way", ["tag", "index"])
def test_what_a_tag_of_others_needs_is_never_removed(
    way: str, place: Place, tmp_path: Path
) -> None:
    """A snapshot under another tag, or in an image index, outlives forget, prune and garbage."""
    with init_store(place.url) as store:
        kept = write_snapshot(store, noise(1, 2, 3))
        left = write_snapshot(store, noise(3, 4))
        name = f"snapshots/{kept.snapshot_id.hex()}"
        if way == "tag":
            reference = _tag_as(place, name, "Keep-This")
        else:
            reference = _put_index(place, "Keep-All", name)
        store.backend.remove(name)
        assert [one.snapshot_id for one in store.snapshots()] == [left.snapshot_id]
        prune(store, max_unused=0)
        assert read_snapshot(store, left) == noise(3, 4)
        assert check_store(store, read_data=True, progress=lambda *_: None).damages == []
    # Debian's registry would take away the parts of an index as well.
    _collect_garbage(place, *(["--delete-untagged"] if way == "tag" else []))
    _skopeo("copy", "--src-tls-verify=false", reference, f"dir:{tmp_path}/copy")
    directory = LocalBackend(tmp_path / "store")
    for title, data in _pieces(tmp_path / "copy").items():
        directory.put(title, data)
    with open_store(directory.url, Operation.READ, lambda *_: pytest.fail("asked")) as copy:
        assert copy.snapshots() == [kept]
        assert read_snapshot(copy, kept) == noise(1, 2, 3)
    with open_store(place.url, Operation.READ, lambda *_: pytest.fail("asked")) as again:
        assert read_snapshot(again, left) == noise(3, 4)


def test_a_snapshot_that_is_tagged_still_carries_its_packs(place: Place, tmp_path: Path) -> None:
    with init_store(place.url) as store:
        snapshot = write_snapshot(store, noise(1, 2))
        _, image = store.read_image(snapshot.snapshot_id)
        store.write_snapshot(dataclasses.replace(snapshot, tags=("good",)), image)
    reference = _reference(place, f"snapshots/{snapshot.snapshot_id.hex()}")
    _skopeo("copy", "--src-tls-verify=false", reference, f"dir:{tmp_path}/copy")
    directory = LocalBackend(tmp_path / "store")
    for title, data in _pieces(tmp_path / "copy").items():
        directory.put(title, data)
    with open_store(directory.url, Operation.READ, lambda *_: pytest.fail("asked")) as copy:
        (found,) = copy.snapshots()
        assert found.tags == ("good",) and read_snapshot(copy, found) == noise(1, 2)


def test_an_object_that_is_replaced_is_read_anew(backend: OciBackend, place: Place) -> None:
    backend.put("locks/one", b"first")
    assert backend.get("locks/one", 0, 3) == b"fir"
    other = oci.open_backend(place.url)
    other.put("locks/one", b"second")
    other.close()
    assert backend.get("locks/one") == b"second"
    assert backend.get("locks/one", 0, 6) == b"second"


def test_a_registry_that_lets_nothing_be_removed(tmp_path: Path, no_logins: None) -> None:
    with docker_registry(tmp_path / "registry", may_remove=False) as port:
        backend = oci.open_backend(f"oci+http://127.0.0.1:{port}/store")
        backend.put("config", b"")
        with pytest.raises(StoreError) as error:
            backend.remove("config")
        backend.close()
    assert error.value.reason == "store-denied"
    assert "REGISTRY_STORAGE_DELETE_ENABLED" in str(error.value)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a registry that wants a login."""
    with docker_registry(tmp_path_factory.mktemp("guarded"), login=("boat", "oar")) as port:
        yield port


class TestLogin:
    """Basic logins at a real registry, tokens at one that only gives those."""

    def _write(self, path: Path, port: int, pair: str, **more: object) -> None:
        auth = base64.b64encode(pair.encode()).decode()
        path.write_text(json.dumps({"auths": {f"127.0.0.1:{port}": {"auth": auth}}, **more}))

    def _try(self, port: int) -> str:
        backend = oci.open_backend(f"oci+http://127.0.0.1:{port}/store")
        try:
            backend.put("config", b"x")
            assert backend.get("config") == b"x"
        except StoreError as exc:
            assert "oar" not in str(exc)
            return exc.reason
        finally:
            backend.close()
        return "in"

    def test_dockers_file(self, guarded: int, no_logins: None, tmp_path: Path) -> None:
        assert self._try(guarded) == "store-denied"
        self._write(tmp_path / "config.json", guarded, "boat:anchor")
        assert self._try(guarded) == "store-denied"
        self._write(tmp_path / "config.json", guarded, "boat:oar")
        assert self._try(guarded) == "in"
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(StoreError) as error:
            oci.open_backend(f"oci+http://127.0.0.1:{guarded}/store")
        assert error.value.reason == "store-login"

    def test_podmans_file(
        self, guarded: int, no_logins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._write(tmp_path / "auth.json", guarded, "boat:oar")
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
        assert self._try(guarded) == "in"

    def test_a_credential_helper(
        self, guarded: int, no_logins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        helper = tmp_path / "docker-credential-locker"
        helper.write_text(
            f'#!/bin/sh\n[ "$1" = get ] && [ "$(cat)" = "127.0.0.1:{guarded}" ] || exit 1\n'
            'echo \'{"Username": "boat", "Secret": "oar"}\'\n'
        )
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        config = {"credHelpers": {f"127.0.0.1:{guarded}": "locker"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert self._try(guarded) == "in"

    def test_a_token(self, no_logins: None, tmp_path: Path) -> None:
        asked: list[tuple[str, str | None]] = []

        def answer(_method: str, path: str, headers: Mapping[str, str]) -> Answer:
            given = headers.get("Authorization")
            asked.append((path.partition("?")[0], given))
            if path.startswith("/token"):
                assert "service=the+boathouse" in path and "scope=repository%3Astore" in path
                return Answer(200, {}, b'{"token": "abc"}')
            if given == "Bearer abc":
                return Answer(404)
            challenge = f'Bearer realm="http://{headers["Host"]}/token",service="the boathouse"'
            return Answer(401, {"WWW-Authenticate": challenge})

        with http_server(answer) as url:
            port = int(url.rpartition(":")[2])
            self._write(tmp_path / "config.json", port, "boat:oar")
            backend = oci.open_backend(f"oci+http://127.0.0.1:{port}/store")
            for _ in range(2):
                with pytest.raises(StoreError) as error:
                    backend.get("config")
                assert error.value.reason == "object-missing"
            backend.close()
        basic = "Basic " + base64.b64encode(b"boat:oar").decode()
        manifest = "/v2/store/manifests/config"
        assert asked == [
            (manifest, None),
            ("/token", basic),
            (manifest, "Bearer abc"),
            (manifest, "Bearer abc"),
        ]


_DIGEST = "sha256:" + hashlib.sha256(b"x" * 100).hexdigest()


def _manifest(**changes: object) -> bytes:
    layer = {"digest": _DIGEST, "size": 100, "annotations": {oci.TITLE: "config"}, **changes}
    return json.dumps({"config": {"mediaType": oci.ARTIFACT_TYPE}, "layers": [layer]}).encode()


def _registry_that_says(manifest: bytes, blob: Answer) -> Callable[..., Answer]:
    def answer(_method: str, path: str, _headers: Mapping[str, str]) -> Answer:
        if "/tags/" in path:
            return Answer(200, {}, b'{"tags": ["config"]}')
        return Answer(200, {}, manifest) if "/manifests/" in path else blob

    return answer


_RIGHT = Answer(200, {}, b"x" * 100)


@pytest.mark.parametrize(
    ("manifest", "blob", "wanted", "reason"),
    [
        (_manifest(), _RIGHT, (), None),
        (_manifest(), _RIGHT, (3, 5), None),  # a registry without ranges
        (_manifest(), Answer(200, {}, b"y" * 100), (), "object-damaged"),
        (_manifest(), Answer(200, {}, b"x" * 99), (), "object-damaged"),
        (_manifest(), Answer(200, {}, b"x" * 101), (), "store-protocol"),
        (_manifest(), Answer(200, {"Content-Length": "100"}, b"x"), (), "store-unreachable"),
        (_manifest(), Answer(404), (), "object-missing"),
        (_manifest(), Answer(500), (), "store-unreachable"),
        (_manifest(), Answer(206, {"Content-Range": "bytes 0-4/100"}, b"x" * 5), (3, 5),
         "store-protocol"),
        (_manifest(), Answer(206, {"Content-Range": "bytes 3-7/100"}, b"x" * 4), (3, 5),
         "store-protocol"),
        (_manifest(), Answer(206, {"Content-Range": "bytes 3-7/100"}, b"x" * 9), (3, 5),
         "store-protocol"),
        (_manifest(size=1 << 60), _RIGHT, (), "store-protocol"),
        (_manifest(size=-1), _RIGHT, (), "store-protocol"),
        (_manifest(size=True), _RIGHT, (), "store-protocol"),
        (_manifest(digest="sha256:../../../etc/passwd"), _RIGHT, (), "store-protocol"),
        (_manifest(annotations={oci.TITLE: "packs/x"}), _RIGHT, (), "store-protocol"),
        (b"[]", _RIGHT, (), "store-protocol"),
        (b"[" * 100_000, _RIGHT, (), "store-protocol"),
        (b" " * (5 << 20), _RIGHT, (), "store-protocol"),
        (b'{"layers": []}', _RIGHT, (), "store-protocol"),
    ],
)  # fmt: skip
def test_answers_that_are_lies(
    manifest: bytes, blob: Answer, wanted: tuple[int, ...], reason: str | None, no_logins: None
) -> None:
    with http_server(_registry_that_says(manifest, blob)) as url:
        backend = oci.open_backend(url.replace("http:", "oci+http:") + "/store")
        if reason is None:
            assert backend.get("config", *wanted) == b"x" * (wanted[1] if wanted else 100)
        else:
            with pytest.raises(StoreError) as error:
                backend.get("config", *wanted)
            assert error.value.reason == reason
        backend.close()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {}, b'{"tags": "config"}'),
        Answer(200, {}, b'{"tags": [1]}'),
        Answer(200, {"Link": '</v2/store/tags/list?n=1000>; rel="next"'}, b'{"tags": []}'),
        Answer(200, {"Link": '<http://elsewhere/v2/x>; rel="next"'}, b'{"tags": []}'),
        Answer(200, {"Link": '</v2/other/tags/list?n=1>; rel="next"'}, b'{"tags": []}'),
    ],
)
def test_listings_that_are_lies(answer: Answer, no_logins: None) -> None:
    with http_server(lambda *_: answer) as url:
        backend = oci.open_backend(url.replace("http:", "oci+http:") + "/store")
        with pytest.raises(StoreError) as error:
            list(backend.entries())
        assert error.value.reason == "store-protocol"
        backend.close()


def test_a_long_listing_has_pages(no_logins: None) -> None:
    def answer(_method: str, path: str, _headers: Mapping[str, str]) -> Answer:
        if "/tags/" not in path:
            return Answer(404)
        pages.append(path)
        more = {"Link": f"</v2/store/tags/list?n=1000&last=t{len(pages)}>; rel=next"}
        return Answer(200, more if len(pages) < 3 else {}, b'{"tags": ["a", "..", "A"]}')

    pages: list[str] = []
    with http_server(answer) as url:
        backend = oci.open_backend(url.replace("http:", "oci+http:") + "/store")
        assert list(backend.entries()) == []
        backend.close()
    assert [page.partition("last=")[2] for page in pages] == ["", "t1", "t2"]


@pytest.mark.parametrize(
    "url",
    [
        "oci://registry",
        "oci:///repository",
        "oci://user:secret@registry/repository",
        "oci://registry/UPPER",
        "oci://registry/a/../b",
        "oci://registry/repository:tag",
        "oci://registry/repository?x=y",
        "docker://registry/repository",
    ],
)
def test_a_url_that_makes_no_sense(url: str) -> None:
    with pytest.raises(StoreError) as error:
        oci.open_backend(url)
    assert error.value.reason == "bad-store-url"
    assert "secret" not in str(error.value)
