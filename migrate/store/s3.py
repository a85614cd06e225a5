"""A store in an S3 bucket: ``s3://bucket/prefix``, here or at whoever speaks the same protocol.

Credentials and region come from where the AWS tools take them (environment, ``~/.aws``, the
instance's role). Another provider's address is in ``AWS_ENDPOINT_URL`` or ``?endpoint=``.

The library is boto3, in the extra ``s3``: 33 MB installed, but released every week by those who
run the service, and the only one that knows every way to be given credentials.

Source: Amazon S3 API reference: PutObject, GetObject, ListObjectsV2, DeleteObject; RFC 9110
section 14 for ranges.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from migrate.errors import StoreError
from migrate.store.backend import Entry
from migrate.store.object_names import (
    begins_with,
    believed,
    missing,
    require_name,
    require_prefix,
    require_writable_size,
    short,
    wanted_length,
)

MAX_CONNECTIONS = 16
_CONFLICT_TRIES = 5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_ABSENT = frozenset(("NoSuchKey", "404", "NotFound"))
_DENIED = frozenset(
    (
        *("403", "401", "AccessDenied", "Forbidden", "InvalidAccessKeyId"),
        *("SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AllAccessDisabled"),
    )
)


def open_backend(url: str) -> S3Backend:
    """Prepare to use a bucket; nothing is asked of the server yet.

    Args:
        url: ``s3://bucket[/prefix][?endpoint=URL][&region=NAME]``.

    Raises:
        StoreError: reason ``bad-store-url``, or ``store-extra-missing`` without the library.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    endpoint, region = options.pop("endpoint", None), options.pop("region", None)
    if parts.scheme != "s3" or not parts.netloc or options or parts.fragment:
        raise StoreError(
            f"{_without_secrets(url)!r} is not s3://bucket/prefix[?endpoint=URL][&region=NAME]",
            reason="bad-store-url",
        )
    bucket, prefix = parts.netloc, parts.path.strip("/")
    if not re.fullmatch(r"[a-zA-Z0-9._-]+", bucket):
        raise StoreError(
            f"{_without_secrets(url)!r}: keys and passwords do not belong into a URL, and a bucket"
            " has letters, digits, dots, hyphens and underscores",
            reason="bad-store-url",
        )
    if endpoint is not None:
        told = urlsplit(endpoint)
        if told.scheme not in ("http", "https") or not told.hostname or told.username:
            raise StoreError(
                "s3: the endpoint is not http://host or https://host", reason="bad-store-url"
            )
    return S3Backend(bucket, prefix, endpoint, region)


def _without_secrets(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)


class S3Backend:
    """Objects of a bucket; a `Backend`."""

    def __init__(self, bucket: str, prefix: str, endpoint: str | None, region: str | None) -> None:
        self._bucket, self._prefix = bucket, prefix
        self._url = f"s3://{bucket}/{prefix}" + (f"?endpoint={endpoint}" if endpoint else "")
        self._conditional = True  # until the server says that it knows no conditions
        with self._explained("the library"):
            self._client = _client(endpoint, region)

    @property
    def url(self) -> str:
        """See `Backend`."""
        return self._url

    def put(self, name: str, data: bytes | bytearray | memoryview, *, replace: bool = True) -> bool:
        """See `Backend`. With ``replace=False`` of two writers one wins, on servers that know
        ``If-None-Match`` (AWS does since August 2024); others are asked before.
        """
        require_name(name)
        body = bytes(data)
        require_writable_size(name, len(body))
        with self._explained(name):
            if replace:
                self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=body)
                return True
            return self._put_new(name, body)

    def _put_new(self, name: str, body: bytes) -> bool:
        from botocore.exceptions import ClientError

        wanted = {"Bucket": self._bucket, "Key": self._key(name), "Body": body}
        for _ in range(_CONFLICT_TRIES if self._conditional else 0):
            try:
                self._client.put_object(**wanted, IfNoneMatch="*")
                return True
            except ClientError as exc:
                code, status = _code(exc)
                if status == 412:
                    return False
                if status == 501 or code == "NotImplemented":
                    self._conditional = False
                    break
                # 409: another writer was at it in the same moment, and may have failed.
                if status != 409 or code != "ConditionalRequestConflict":
                    raise
        if self._size(name) is not None:
            return False
        self._client.put_object(**wanted)
        return True

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Backend`."""
        require_name(name)
        with self._explained(name):
            if length == 0 or (offset and length is None):
                # A range may be neither empty nor begin at the end.
                size = self._size(name)
                if size is None:
                    raise missing(name)
                length = wanted_length(name, size, offset, length)
                if not length:
                    return b""
            if length is None:
                return self._whole(name)
            return self._part(name, offset, length)

    def _whole(self, name: str) -> bytes:
        answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
        size = answer["ContentLength"]
        with contextlib.closing(answer["Body"]) as body:
            wanted_length(name, size, 0, None)
            return _read(body, name, size)

    def _part(self, name: str, offset: int, length: int) -> bytes:
        from botocore.exceptions import ClientError

        wanted = f"bytes={offset}-{offset + length - 1}"
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name), Range=wanted)
        except ClientError as exc:
            if _code(exc)[1] != 416:
                raise
            raise short(name, offset, length, self._size(name) or 0) from None
        with contextlib.closing(answer["Body"]) as body:
            match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
            if match is None or int(match[1]) != offset:
                raise StoreError(
                    f"{name}: the server was asked for {wanted} and answers with"
                    f" {answer.get('ContentRange', 'the whole')!r}",
                    reason="store-protocol",
                )
            if int(match[2]) != offset + length - 1:
                raise short(name, offset, length, int(match[3]))
            return _read(body, name, length)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """See `Backend`."""
        require_prefix(prefix)
        base = self._key("")
        with self._explained(prefix or "the list of objects"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=base + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    key, size = item.get("Key", ""), item.get("Size")
                    if not key.startswith(base + prefix):
                        raise StoreError(
                            f"{self._url}: the server lists {key!r}, which was not asked for",
                            reason="store-protocol",
                        )
                    name = key[len(base) :]
                    # Consoles mark a folder with an empty object whose name ends with a slash.
                    if not name or name.endswith("/") or not believed(name, size, self._url):
                        continue
                    if begins_with(name, prefix):
                        yield Entry(name, size)

    def remove(self, name: str) -> None:
        """See `Backend`."""
        require_name(name)
        with self._explained(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def close(self) -> None:
        """See `Backend`."""
        self._client.close()

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _size(self, name: str) -> int | None:
        """Bytes of an object; None when there is none."""
        from botocore.exceptions import ClientError

        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=self._key(name))
        except ClientError as exc:
            if _code(exc)[0] in _ABSENT:
                return None
            raise
        return int(answer["ContentLength"])

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn the library's failures into `StoreError`."""
        _require_library()
        from botocore import exceptions as failures

        subject = f"{self._url}: {name}"
        try:
            yield
        except failures.ClientError as exc:
            raise self._refused(exc, name) from exc
        except (failures.NoCredentialsError, failures.PartialCredentialsError) as exc:
            raise StoreError(
                f"{self._url}: {exc}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
                " AWS_PROFILE",
                reason="store-denied",
            ) from exc
        except (failures.HTTPClientError, failures.ConnectionError) as exc:
            raise StoreError(f"{subject}: {exc}", reason="store-unreachable") from exc
        except failures.IncompleteReadError as exc:
            raise StoreError(
                f"{subject}: connection lost: {exc}", reason="store-unreachable"
            ) from exc
        except failures.BotoCoreError as exc:
            raise StoreError(f"{subject}: {exc}", reason="store-protocol") from exc

    def _refused(self, exc: Any, name: str) -> StoreError:
        code, status = _code(exc)
        if code == "NoSuchBucket":
            return StoreError(f"{self._url}: there is no bucket {self._bucket!r}")
        if code in _ABSENT:
            return missing(name)
        said = exc.response.get("Error", {}).get("Message") or code
        if code in _DENIED or status in (401, 403):
            return StoreError(f"{self._url}: {name}: {said}", reason="store-denied")
        reason = "store-unreachable" if status >= 500 or status == 429 else None
        return StoreError(f"{self._url}: {name}: {said} ({code})", reason=reason)


def _code(exc: Any) -> tuple[str, int]:
    response = exc.response
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(response.get("Error", {}).get("Code", "")), int(status)


def _read(body: Any, name: str, length: int) -> bytes:
    """Exactly *length* bytes of an answer that should have as many."""
    data: bytes = body.read(length + 1)
    if len(data) < length:
        raise StoreError(
            f"{name}: the connection ended after {len(data)} of {length} bytes",
            reason="store-unreachable",
        )
    if len(data) > length:
        raise StoreError(
            f"{name}: the server sends more than the {length} bytes it promised",
            reason="store-protocol",
        )
    return data


def _require_library() -> None:
    try:
        import boto3  # noqa: F401
    except ImportError as exc:
        raise StoreError(
            "s3: stores in S3 need a library that is not installed: pip install 'wherry[s3]'",
            reason="store-extra-missing",
        ) from exc


def _client(endpoint: str | None, region: str | None) -> Any:
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=MAX_CONNECTIONS,
        retries={"mode": "standard", "max_attempts": 4},
        # Checksums in trailers are AWS's own; other servers take them for content or refuse them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # A provider without a name for each bucket must find it in the path.
        s3={"addressing_style": "path"} if endpoint else None,
    )
    return session.client(
        "s3", endpoint_url=endpoint, region_name=region or session.region_name or "us-east-1",
        config=config,
    )  # fmt: skip
