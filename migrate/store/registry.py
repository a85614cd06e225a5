"""A repository of an OCI registry: blobs, manifests and tags over HTTP.

Only what a store needs of the protocol, with the logins that ``docker login`` and ``podman login``
have left behind (`registry_login`).

The library is urllib3, in the extra ``oci``: it may be used from many threads, which those made for
registries (oras-py, which is made for files on disk, and works on one request after the other)
may not.

Source: OCI distribution specification 1.1; RFC 9110 section 14 for ranges; distribution's token
authentication specification.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from migrate.errors import StoreError
from migrate.store.registry_login import Login, challenge_of, login_for

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager, Retry

MAX_MANIFEST_SIZE = 4 << 20  # the specification lets registries refuse larger ones
MAX_LISTING_SIZE = 64 << 20  # of one page
MAX_CONNECTIONS = 16
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_OTHER_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')


class Blob(NamedTuple):
    """What identifies some bytes.

    Attributes:
        digest: ``sha256:`` and 64 hexadecimal digits.
        size: Bytes.
    """

    digest: str
    size: int


def blob_of(data: bytes) -> Blob:
    """What identifies *data*."""
    return Blob(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


class Repository:
    """One repository of one registry. Safe to use from several threads.

    Every method raises `StoreError`: ``store-unreachable``, ``store-denied``, ``store-protocol``.
    """

    def __init__(self, registry: str, repository: str, *, secure: bool, shown: str) -> None:
        """Prepare; nothing is asked yet.

        Args:
            registry: ``host[:port]``.
            repository: Its path there.
            secure: Whether to speak HTTPS.
            shown: How people call it.
        """
        urllib3 = _library()
        self._shown = shown
        self._origin = f"{'https' if secure else 'http'}://{registry}"
        self._base = f"{self._origin}/v2/{repository}/"
        self._scope = f"repository:{repository}:pull,push,delete"
        self._login: Login = login_for(registry)
        self._authorization: str | None = None
        self._pool = _pool(urllib3, self._origin)
        self._retries: Retry = urllib3.Retry(
            total=3,
            backoff_factor=0.2,
            # Distribution writes the small files that lead to blobs and tags in place: who asks in
            # the moment in which another one makes the same has 500.
            status_forcelist=(500, 502, 503, 504),
            allowed_methods=("GET", "HEAD"),
            raise_on_status=False,
        )

    def close(self) -> None:
        """Let go of connections. Idempotent."""
        self._pool.clear()

    def tags(self) -> Iterator[str]:
        """All tags; none when the registry does not know the repository."""
        url, seen = self._base + "tags/list?n=1000", set[str]()
        while url not in seen:
            seen.add(url)
            with self._request("GET", url) as response:
                if response.status == 404:
                    return
                self._require(response, (200,), "tags")
                body = self._body(response, MAX_LISTING_SIZE, "the list of tags")
                link = _NEXT.search(response.headers.get("Link", ""))
            listed = self._json(body, "the list of tags").get("tags") or []
            if not isinstance(listed, list) or not all(isinstance(tag, str) for tag in listed):
                raise self._nonsense("the list of tags", "no list of names")
            yield from listed
            if link is None:
                return
            url = urljoin(url, link[1])
            if not url.startswith(self._base + "tags/list?"):
                raise self._nonsense("the list of tags", f"goes on at {link[1]!r}")
        raise self._nonsense("the list of tags", "goes round in a circle")

    def manifest(
        self, reference: str, *, of_any_kind: bool = False
    ) -> tuple[Mapping[str, Any], str] | None:
        """A manifest and its digest, or None.

        Args:
            reference: A tag, or a digest.
            of_any_kind: Also one that lists others, and those of Docker's own formats.
        """
        url = self._base + f"manifests/{reference}"
        accept = ", ".join((MANIFEST_TYPE, *_OTHER_TYPES)) if of_any_kind else MANIFEST_TYPE
        with self._request("GET", url, {"Accept": accept}) as response:
            if response.status == 404:
                return None
            self._require(response, (200,), reference)
            body = self._body(response, MAX_MANIFEST_SIZE, reference)
        return self._json(body, reference), blob_of(body).digest

    def put_manifest(self, tag: str, manifest: Mapping[str, Any]) -> str:
        """Make a manifest and let a tag stand for it. All its blobs are there already.

        Returns:
            Its digest.
        """
        body = json.dumps(manifest, separators=(",", ":"), sort_keys=True).encode()
        if len(body) > MAX_MANIFEST_SIZE:
            raise StoreError(
                f"{self._shown}: {tag}: a manifest of {len(body)} bytes is more than registries"
                f" take ({MAX_MANIFEST_SIZE})",
                reason="object-too-large",
            )
        headers = {"Content-Type": MANIFEST_TYPE}
        url = self._base + f"manifests/{tag}"
        for pause_s in (0.05, 0.2, 0.8, None):
            with self._request("PUT", url, headers, body) as response:
                # See above: a blob that another one sends in this moment, too, may be unknown.
                if response.status != 400 or pause_s is None:
                    self._require(response, (201,), tag)
                    break
            time.sleep(pause_s)
        return blob_of(body).digest

    def delete_manifest(self, digest: str) -> None:
        """Remove a manifest with all its tags; one that is not there is no error."""
        with self._request("DELETE", self._base + f"manifests/{digest}") as response:
            if response.status in (404, 202):
                return
            if response.status in (405, 400):
                raise StoreError(
                    f"{self._shown}: the registry does not let anything be removed; distribution's"
                    " needs REGISTRY_STORAGE_DELETE_ENABLED=true",
                    reason="store-denied",
                )
            self._require(response, (200, 204), digest)

    def has_blob(self, blob: Blob) -> bool:
        """Whether it need not be sent."""
        with self._request("HEAD", self._base + f"blobs/{blob.digest}") as response:
            if response.status == 404:
                return False
            self._require(response, (200,), blob.digest)
            return True

    def put_blob(self, data: bytes) -> Blob:
        """Send a blob, unless the repository has it."""
        blob = blob_of(data)
        if self.has_blob(blob):
            return blob
        with self._request("POST", self._base + "blobs/uploads/", body=b"") as response:
            self._require(response, (202,), blob.digest)
            location = urljoin(self._base, response.headers.get("Location", ""))
        if location == self._base:
            raise self._nonsense(blob.digest, "does not say where to send it")
        joint = "&" if urlsplit(location).query else "?"
        url = location + joint + urlencode({"digest": blob.digest})
        headers = {"Content-Type": "application/octet-stream"}
        with self._request("PUT", url, headers, data) as response:
            self._require(response, (201,), blob.digest)
        return blob

    def get_blob(self, blob: Blob, offset: int, length: int) -> bytes | None:
        """Bytes of a blob, which holds them; None when it is not there.

        What is got whole is compared with its digest.

        Args:
            blob: Which.
            offset: First byte.
            length: Bytes, at least 1.
        """
        whole = (offset, length) == (0, blob.size)
        headers = {} if whole else {"Range": f"bytes={offset}-{offset + length - 1}"}
        url = self._base + f"blobs/{blob.digest}"
        with self._request("GET", url, headers) as response:
            if response.status == 404:
                return None
            self._require(response, (200, 206), blob.digest)
            if response.status == 206:
                said = response.headers.get("Content-Range", "")
                match = _CONTENT_RANGE.fullmatch(said)
                if match is None or (int(match[1]), int(match[2])) != (offset, offset + length - 1):
                    raise self._nonsense(blob.digest, f"answers with the range {said!r}")
                data = self._body(response, length, blob.digest)
                if len(data) != length:
                    raise self._nonsense(blob.digest, f"sends {len(data)} bytes of {length}")
                return data
            # A registry need not know ranges.
            data = self._body(response, blob.size, blob.digest)
        if blob_of(data) != blob:
            raise StoreError(
                f"{self._shown}: {blob.digest}: the registry sends other bytes under this digest",
                reason="object-damaged",
            )
        return data[offset : offset + length]

    # Requests

    @contextlib.contextmanager
    def _request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Iterator[BaseHTTPResponse]:
        """Ask, log in if that is asked for, and let go of the answer afterwards."""
        with self._explained(), contextlib.ExitStack() as stack:
            response = stack.enter_context(self._once(method, url, headers or {}, body))
            if response.status == 401 and url.startswith(self._origin + "/"):
                challenge = challenge_of(response.headers.get_all("WWW-Authenticate", []))
                if challenge is not None:
                    stack.close()
                    self._authorization = self._login.answer(
                        challenge, self._scope, self._origin, self._fetch_token
                    )
                    response = stack.enter_context(self._once(method, url, headers or {}, body))
            yield response

    @contextlib.contextmanager
    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Iterator[BaseHTTPResponse]:
        all_headers = {"Accept-Encoding": "identity", "User-Agent": "wherry", **headers}
        # An upload may lead to another host, which our login is none of the business of; and on a
        # redirect the library drops it.
        if self._authorization is not None and url.startswith(self._origin + "/"):
            all_headers["Authorization"] = self._authorization
        response = self._pool.request(
            method,
            url,
            body=body if method in ("PUT", "POST") else None,
            headers=all_headers,
            preload_content=False,
            decode_content=False,
            retries=self._retries,
            redirect=method in ("GET", "HEAD"),
        )
        try:
            yield response
            # What was read to its end leaves a connection that can be used again.
            if response.read(1):
                response.close()
            else:
                response.release_conn()
        except BaseException:
            response.close()
            raise

    def _fetch_token(self, url: str, authorization: str | None) -> bytes:
        headers = {} if authorization is None else {"Authorization": authorization}
        with self._once("GET", url, headers, b"") as response:
            if response.status != 200:
                raise StoreError(
                    f"{self._shown}: the registry's login at {urlsplit(url).hostname} answers with"
                    f" {response.status}; see docker login or podman login",
                    reason="store-denied",
                )
            return self._body(response, 1 << 20, "the login")

    def _body(self, response: BaseHTTPResponse, limit: int, what: str) -> bytes:
        data = response.read(limit + 1, decode_content=False)
        while data and len(data) <= limit and (more := response.read(limit + 1 - len(data))):
            data += more
        if len(data) > limit:
            raise self._nonsense(what, f"sends more than {limit} bytes")
        return data

    def _json(self, body: bytes, what: str) -> Mapping[str, Any]:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise self._nonsense(what, f"is no JSON: {exc}") from exc
        if not isinstance(found, dict):
            raise self._nonsense(what, "is no JSON object")
        return found

    def _require(self, response: BaseHTTPResponse, expected: tuple[int, ...], what: str) -> None:
        if response.status in expected:
            return
        said = response.read(2000).decode("utf-8", "replace").strip()
        status = response.status
        subject = f"{self._shown}: {what}: the registry answers with {status}"
        if status in (401, 403):
            raise StoreError(f"{subject}; see docker login or podman login", reason="store-denied")
        later = status >= 500 or status == 429
        raise StoreError(f"{subject} {said}", reason="store-unreachable" if later else None)

    def _nonsense(self, what: str, how: str) -> StoreError:
        return StoreError(f"{self._shown}: {what}: the registry {how}", reason="store-protocol")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        urllib3 = _library()
        try:
            yield
        except urllib3.exceptions.LocationValueError as exc:
            raise StoreError(f"{self._shown}: {exc}", reason="store-protocol") from exc
        except urllib3.exceptions.HTTPError as exc:
            why = getattr(exc, "reason", None) or exc
            raise StoreError(f"{self._shown}: {why}", reason="store-unreachable") from exc


def _library() -> Any:
    try:
        import urllib3
    except ImportError as exc:
        raise StoreError(
            "oci: stores in a registry need a library that is not installed:"
            " pip install 'wherry[oci]'",
            reason="store-extra-missing",
        ) from exc
    return urllib3


def _pool(urllib3: Any, origin: str) -> PoolManager:
    parts = urlsplit(origin)
    options = {
        "maxsize": MAX_CONNECTIONS,
        "block": False,
        "timeout": urllib3.Timeout(connect=10, read=60),
    }
    proxy = getproxies().get(parts.scheme)
    pool: PoolManager = (
        urllib3.ProxyManager(proxy, **options)
        if proxy and not proxy_bypass(parts.netloc)
        else urllib3.PoolManager(**options)
    )
    return pool
