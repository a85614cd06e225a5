"""Where the tests of this folder keep objects: a real server of each kind, and how to open it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import boto3

from migrate.store import local, oci, s3, sftp
from migrate.store.backend import Backend
from migrate.store.registry import MANIFEST_TYPE, Repository
from tests.support import leftovers
from tests.support.store_servers import docker_registry, s3_server, sshd

_numbers = itertools.count()


@dataclass(frozen=True)
class Place:
    """One server.

    Attributes:
        base_url: Where on it `fresh` makes its places.
        opener: ``open_backend`` of its kind.
        url_of_nobody: An address like it where nobody listens.
        environment: What a client needs.
        one_writer_wins: Whether the storage can tell which of two writers was first.
        base_directory: Where the server keeps its files, when that means something.
        url: The place itself.
        litterer: Puts something there that is no object of a store.
    """

    base_url: str
    opener: Callable[[str], Backend]
    url_of_nobody: str
    environment: Mapping[str, str]
    one_writer_wins: bool = True
    base_directory: Path = Path("/nonexistent")
    url: str = ""
    litterer: Callable[[Place], None] = field(default=lambda place: None)

    def fresh(self) -> Place:
        """A place on the server that nobody has used."""
        return replace(self, url=f"{self.base_url}/t{next(_numbers)}")

    @property
    def directory(self) -> Path:
        """The server's own directory of this place."""
        return self.base_directory / self.url.rpartition("/")[2]

    def open(self, url: str | None = None) -> Backend:
        """A new client."""
        return self.opener(url or self.url)

    def litter(self) -> None:
        """Leave things that other people could leave there."""
        self.litterer(self)

    def break_connections(self) -> None:
        """Kill the processes that serve single SSH connections of ours."""
        children = {
            pid
            for pid in leftovers.our_descendants()
            if b"sshd: root" in Path(f"/proc/{pid}/cmdline").read_bytes()
        }
        assert children
        for pid in children:
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def sftp_place(base: Path) -> Iterator[Place]:
    """OpenSSH's sshd."""

    def litter(place: Place) -> None:
        (place.directory / ".config.0123").write_bytes(b"half of an obj")
        (place.directory / "README").write_bytes(b"of somebody")
        (place.directory / "link").symlink_to("/etc/passwd")
        (place.directory / "a" / "b" / "c").mkdir(parents=True)
        (place.directory / "a" / "b" / "c" / "d").write_bytes(b"too deep")

    with sshd(base) as (port, home):
        yield Place(
            base_url=f"sftp://root@127.0.0.1:{port}{base}/stores",
            opener=sftp.open_backend,
            url_of_nobody="sftp://root@127.0.0.1:1/nowhere",
            environment={"HOME": str(home), "SSH_AUTH_SOCK": ""},
            base_directory=base / "stores",
            litterer=litter,
        )


@contextlib.contextmanager
def hostile_sftp_place(base: Path) -> Iterator[Place]:
    """An SFTP server that lies, behind an honest sshd."""
    program = Path(__file__).with_name("hostile_sftp.py")
    with sshd(base, f"{sys.executable} {program}") as (port, home):
        yield Place(
            base_url=f"sftp://root@127.0.0.1:{port}",
            opener=sftp.open_backend,
            url_of_nobody="sftp://root@127.0.0.1:1/nowhere",
            environment={"HOME": str(home), "SSH_AUTH_SOCK": ""},
        )


@contextlib.contextmanager
def s3_place() -> Iterator[Place]:
    """A bucket at moto's server; its conditional put looks first and writes then."""

    def litter(place: Place) -> None:
        key = place.url.partition("bucket/")[2].partition("?")[0]
        for name in ("README", "folder/", "a/b/c/d", "Config"):
            client.put_object(Bucket="bucket", Key=f"{key}/{name}", Body=b"other")
        client.put_object(Bucket="bucket", Key=f"{key}x/config", Body=b"other")

    with s3_server() as url:
        environment = {
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_ENDPOINT_URL": url,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_MAX_ATTEMPTS": "1",
        }
        client = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="y",
            region_name="us-east-1",
        )  # fmt: skip
        client.create_bucket(Bucket="bucket")
        yield Place(
            base_url="s3://bucket/some/where",
            opener=s3.open_backend,
            url_of_nobody="s3://bucket/x?endpoint=http://127.0.0.1:1",
            environment=environment,
            one_writer_wins=False,
            litterer=litter,
        )


@contextlib.contextmanager
def oci_place(base: Path) -> Iterator[Place]:
    """Debian's docker-registry; it has no way to make a tag only when there is none."""

    def litter(place: Place) -> None:
        repository = Repository(
            f"127.0.0.1:{port}", place.url.partition(f":{port}/")[2], secure=False, shown="litter"
        )
        blob = repository.put_blob(b"{}")
        layer = repository.put_blob(b"somebody's layer")
        for tag in ("latest", "v1.0", "Config", "packs_ab_1"):
            repository.put_manifest(
                tag,
                {
                    "schemaVersion": 2,
                    "mediaType": MANIFEST_TYPE,
                    "config": {
                        "mediaType": "application/vnd.oci.image.config.v1+json",
                        "digest": blob.digest,
                        "size": blob.size,
                    },
                    "layers": [
                        {
                            "mediaType": "application/vnd.oci.image.layer.v1.tar",
                            "digest": layer.digest,
                            "size": layer.size,
                        }
                    ],
                },
            )
        repository.close()

    with docker_registry(base) as port:
        yield Place(
            base_url=f"oci+http://127.0.0.1:{port}/some/where",
            opener=oci.open_backend,
            url_of_nobody="oci+http://127.0.0.1:1/nowhere",
            environment={"DOCKER_CONFIG": str(base), "REGISTRY_AUTH_FILE": str(base / "none")},
            one_writer_wins=False,
            litterer=litter,
            base_directory=base,
        )


@contextlib.contextmanager
def local_place(base: Path) -> Iterator[Place]:
    """A directory."""

    def litter(place: Place) -> None:
        (place.directory / "README").write_bytes(b"of somebody")
        (place.directory / "link").symlink_to("/etc/passwd")
        (place.directory / ".config.x").write_bytes(b"half")

    yield Place(
        base_url=str(base),
        opener=local.open_backend,
        url_of_nobody="/proc/nowhere",
        environment={},
        litterer=litter,
        base_directory=base,
    )
