"""A store in an OCI registry: ``oci://registry[:port]/repository``, ``oci+http://`` without TLS.

Each object is a small artifact with a tag of its own: a manifest with one layer, which is the
object. So everything a store needs is below a tag, and the registry's garbage collection keeps it;
``skopeo sync`` copies a whole store and ``oras pull`` gets an object under its name. Bytes that the
repository has are not sent again, whatever object they belong to.

An object's artifact can carry others as further layers (`OciBackend.link`): a snapshot's has all
that a restore needs, so ``skopeo copy`` of that one tag takes a snapshot along, and ``oras pull``
makes a directory of it that is a store.

To remove an object is to remove its manifest, for a tag alone cannot be removed; and then all tags
go that stand for it. Somebody may have given a snapshot a tag of their own, or put it into an image
index. So before anything is removed it is seen what foreign tags need; what they do stays, and only
our tag goes: it gets another manifest first.

A tag has no slashes. Names are lower-case, so ``_`` stands for a slash and ``U`` for ``_``; tags
with other capitals belong to somebody else.

Source: OCI image specification 1.1, manifest.md and annotations.md; distribution specification 1.1.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from migrate.errors import StoreError
from migrate.store.backend import NAME, Entry
from migrate.store.object_names import (
    MAX_OBJECT_SIZE,
    begins_with,
    missing,
    require_name,
    require_prefix,
    require_writable_size,
    wanted_length,
)
from migrate.store.objects import FOLDERS, Kind
from migrate.store.registry import MANIFEST_TYPE, Blob, Repository, blob_of

ARTIFACT_TYPE = "application/vnd.wherry.store.object.v1+json"
"""Media type of the (empty) configuration, by which registries show what kind of artifact it is."""
LAYER_TYPE = "application/vnd.wherry.store.object.v1"
TITLE = "org.opencontainers.image.title"
"""Annotation with the object's name: oras calls the file so."""
MAX_TAG_LENGTH = 128
_REMOVED_TYPE = "application/vnd.wherry.store.removed.v1+json"
_CONFIG = b"{}"
_CARRYING = FOLDERS[Kind.SNAPSHOT] + "/"
_KEPT = 50_000  # objects whose digest is remembered
_LISTERS = 8
_REMEMBER_S = 5.0
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::\d+)?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[a-z0-9][a-z0-9._U-]*")


def open_backend(url: str) -> OciBackend:
    """Prepare to use a repository; nothing is asked of the registry yet.

    Args:
        url: ``oci://registry[:port]/repository`` or the same with ``oci+http``.

    Raises:
        StoreError: reason ``bad-store-url``, ``store-login``, or ``store-extra-missing`` without
            the library.
    """
    parts = urlsplit(url)
    repository = parts.path.strip("/")
    if (
        parts.scheme not in ("oci", "oci+http")
        or _REGISTRY.fullmatch(parts.netloc) is None
        or _REPOSITORY.fullmatch(repository) is None
        or parts.query
        or parts.fragment
    ):
        shown = re.sub(r"//[^/@]*@", "//…@", url)
        raise StoreError(
            f"{shown!r} is not oci://registry[:port]/repository (lower-case, without a login: see"
            " docker login)",
            reason="bad-store-url",
        )
    registry = "registry-1.docker.io" if parts.netloc == "docker.io" else parts.netloc
    shown = f"{parts.scheme}://{parts.netloc}/{repository}"
    secure = parts.scheme == "oci"
    return OciBackend(Repository(registry, repository, secure=secure, shown=shown), shown)


def tag_of(name: str) -> str:
    """The tag that stands for an object.

    Raises:
        StoreError: reason ``object-name``: it is none, or longer than a tag may be.
    """
    require_name(name)
    if len(name) > MAX_TAG_LENGTH:
        raise StoreError(
            f"{name!r}: an object in a registry has a name of at most {MAX_TAG_LENGTH} characters",
            reason="object-name",
        )
    return name.replace("_", "U").replace("/", "_")


def name_of(tag: str) -> str | None:
    """The object that a tag stands for, or None."""
    if _TAG.fullmatch(tag) is None:
        return None
    name = tag.replace("_", "/").replace("U", "_")
    return name if NAME.fullmatch(name) else None


class OciBackend:
    """Objects as artifacts of a registry; a `Backend`.

    A registry has no way to make a tag only if there is none: with ``replace=False`` of two writers
    in the same moment both may believe that they were first. The last one's bytes stay.
    """

    def __init__(self, repository: Repository, url: str) -> None:
        self._repository = repository
        self._url = url
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Blob] = OrderedDict()
        self._config_lock = threading.Lock()
        self._config_is_there = False
        self._foreign: set[str] = set()  # digests that tags of others need
        self._looked = -_REMEMBER_S  # time.monotonic() when that was seen

    @property
    def url(self) -> str:
        """See `Backend`."""
        return self._url

    def put(self, name: str, data: bytes | bytearray | memoryview, *, replace: bool = True) -> bool:
        """See `Backend`, and the class for ``replace=False``."""
        tag = tag_of(name)
        content = bytes(data)
        require_writable_size(name, len(content))
        if not replace and self._repository.manifest(tag) is not None:
            return False
        blob = self._repository.put_blob(content)
        self._put_artifact(name, [(name, blob), *self._linked(name)])
        if not replace:
            # Not proof, but most of those who come second learn it here.
            made = self._find(name)
            return made is not None and made == blob
        return True

    def link(self, name: str, others: Iterable[str]) -> None:
        """See `Linking`: the others become further layers of the object's artifact.

        Their bytes stay as long as the artifact does, even when they themselves are removed.
        """
        names = [name, *(other for other in dict.fromkeys(others) if other != name)]
        with ThreadPoolExecutor(_LISTERS) as threads:
            blobs = list(threads.map(lambda n: self._remembered(n) or self._require(n), names))
        self._put_artifact(name, list(zip(names, blobs, strict=True)))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Backend`."""
        tag_of(name)
        # An object that is read in parts is a pack, which nobody replaces.
        blob = None if length is None else self._remembered(name)
        blob = blob or self._require(name)
        wanted = wanted_length(name, blob.size, offset, length)
        if not wanted:
            return b""
        data = self._repository.get_blob(blob, offset, wanted)
        if data is None:
            self._forget(name)
            raise missing(name)
        return data

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """See `Backend`. A listing of a registry has no sizes, so each manifest is read."""
        require_prefix(prefix)
        names = [
            name
            for name in map(name_of, self._repository.tags())
            if name is not None and begins_with(name, prefix)
        ]
        with ThreadPoolExecutor(_LISTERS) as threads:
            for name, blob in zip(names, threads.map(self._find_ours, names), strict=True):
                if blob is not None:
                    yield Entry(name, blob.size)

    def remove(self, name: str) -> None:
        """See `Backend`. The bytes go when the registry collects its garbage."""
        found = self._repository.manifest(tag_of(name))
        self._forget(name)
        if found is None:
            return
        digest = found[1]
        # Snapshots are what others tag.
        if digest in self._needed_by_others(afresh=name.startswith(_CARRYING)):
            digest = self._put_nothing(name)
        self._repository.delete_manifest(digest)

    def close(self) -> None:
        """See `Backend`."""
        self._repository.close()

    # Artifacts

    def _linked(self, name: str) -> list[tuple[str, Blob]]:
        """What an object that is written anew carries along; only snapshots do."""
        found = self._repository.manifest(tag_of(name)) if name.startswith(_CARRYING) else None
        if found is None or not _is_ours(found[0]):
            return []
        layers = [_layer_of(layer) for layer in found[0].get("layers", ())[1:]]
        return [layer for layer in layers if layer is not None]

    def _needed_by_others(self, *, afresh: bool) -> set[str]:
        """Digests of the manifests that tags stand for which are none of ours, and their parts.

        Args:
            afresh: Look now. Else what was seen some seconds ago is good enough: a prune removes
                many objects one after the other.
        """
        if not afresh and time.monotonic() - self._looked < _REMEMBER_S:
            return self._foreign
        foreign = [tag for tag in self._repository.tags() if name_of(tag) is None]
        needed: set[str] = set()
        waiting = list(foreign)
        while waiting:
            reference = waiting.pop()
            found = self._repository.manifest(reference, of_any_kind=True)
            if found is None:
                continue
            manifest, digest = found
            if digest in needed:
                continue
            needed.add(digest)
            for part in manifest.get("manifests") or ():
                inner = part.get("digest") if isinstance(part, dict) else None
                if isinstance(inner, str) and _DIGEST.fullmatch(inner) and inner not in needed:
                    waiting.append(inner)
        self._foreign, self._looked = needed, time.monotonic()
        return needed

    def _put_nothing(self, name: str) -> str:
        """Let an object's tag stand for a manifest that nobody else has; its digest."""
        blob = self._repository.put_blob(_CONFIG)
        layer = {"mediaType": LAYER_TYPE, "digest": blob.digest, "size": blob.size}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": _REMOVED_TYPE, "digest": blob.digest, "size": blob.size},
            "layers": [layer | {"annotations": {TITLE: os.urandom(16).hex()}}],
        }
        return self._repository.put_manifest(tag_of(name), manifest)

    def _put_artifact(self, name: str, layers: list[tuple[str, Blob]]) -> None:
        with self._config_lock:
            if not self._config_is_there:
                self._repository.put_blob(_CONFIG)
                self._config_is_there = True
        config = blob_of(_CONFIG)
        # The name makes each manifest another one: removing one by its digest takes no other along.
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": ARTIFACT_TYPE, "digest": config.digest, "size": config.size},
            "layers": [
                {
                    "mediaType": LAYER_TYPE,
                    "digest": blob.digest,
                    "size": blob.size,
                    "annotations": {TITLE: title},
                }
                for title, blob in layers
            ],
        }
        self._repository.put_manifest(tag_of(name), manifest)
        self._remember(name, layers[0][1])

    def _find(self, name: str) -> Blob | None:
        found = self._repository.manifest(tag_of(name))
        if found is None:
            self._forget(name)
            return None
        blob = _object_of(found[0], name)
        if blob is None:
            raise StoreError(
                f"{self._url}: {name}: the tag stands for something that is no object of a store",
                reason="store-protocol",
            )
        self._remember(name, blob)
        return blob

    def _find_ours(self, name: str) -> Blob | None:
        """Like `_find`; what somebody else keeps in the repository is none."""
        found = self._repository.manifest(tag_of(name))
        if found is None or not _is_ours(found[0]):
            return None
        blob = _object_of(found[0], name)
        if blob is None:
            raise StoreError(
                f"{self._url}: {name}: the manifest names no object or another one",
                reason="store-protocol",
            )
        self._remember(name, blob)
        return blob

    def _require(self, name: str) -> Blob:
        blob = self._find(name)
        if blob is None:
            raise missing(name)
        return blob

    def _remembered(self, name: str) -> Blob | None:
        with self._lock:
            blob = self._known.get(name)
            if blob is not None:
                self._known.move_to_end(name)
            return blob

    def _remember(self, name: str, blob: Blob) -> None:
        with self._lock:
            self._known[name] = blob
            self._known.move_to_end(name)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._known.pop(name, None)


def _is_ours(manifest: Mapping[str, Any]) -> bool:
    config = manifest.get("config")
    return isinstance(config, dict) and config.get("mediaType") == ARTIFACT_TYPE


def _object_of(manifest: Mapping[str, Any], name: str) -> Blob | None:
    """What a manifest says of its object; None when it makes no sense."""
    layers = manifest.get("layers")
    if not _is_ours(manifest) or not isinstance(layers, list) or not layers:
        return None
    first = _layer_of(layers[0])
    return first[1] if first is not None and first[0] == name else None


def _layer_of(layer: object) -> tuple[str, Blob] | None:
    """The object in a layer, by its name; None when it makes no sense."""
    if not isinstance(layer, dict):
        return None
    annotations, digest, size = layer.get("annotations"), layer.get("digest"), layer.get("size")
    title = annotations.get(TITLE) if isinstance(annotations, dict) else None
    if not isinstance(title, str) or NAME.fullmatch(title) is None:
        return None
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_OBJECT_SIZE:
        return None
    return title, Blob(digest, size)
