"""Where the root file system of a container goes that is being received, and what may be there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats.errors import Refusal
from migrate.errors import ProtocolError, TransportError
from migrate.messages import OfferContainer
from migrate.protocol import Peer
from migrate.rootfs.listing import Listing
from migrate.rootfs.modes import RootfsMode
from migrate.rootfs.receiving import TakenTree, refusals_of, take_listing
from runtime.errors import ContainerError
from runtime.ids import BUNDLES
from runtime.metadata import read_metadata
from runtime.received_bundle import ORIGINS, cut_bundle, received_bundle, remove_bundle
from runtime.spec import parse_spec
from runtime.state_root import ids

MAX_BASES = 16


@dataclass(frozen=True, slots=True)
class Offered:
    """A root file system that was offered with a container.

    Attributes:
        mode: What is to become of it.
        listing: Its files.
        offer: The container.
        root: State root of this host's containers.
    """

    mode: RootfsMode
    listing: Listing
    offer: OfferContainer
    root: Path

    @property
    def _own_place(self) -> Path:
        """Where it is at the source, and here, if it is."""
        return parse_spec(self.offer.spec, Path(self.offer.bundle or "/")).rootfs

    @property
    def bundle(self) -> Path:
        """The bundle that is made for it."""
        return received_bundle(self.root, self.offer.container_id)

    def obstacles(self, peer: Peer) -> list[Refusal]:
        """What stands in the way of taking it in, besides what `migrate.preflight` finds."""
        if self.mode is RootfsMode.ALL:
            return []
        place = self._own_place
        if not place.is_dir():
            return []  # preflight says so
        if self.mode is RootfsMode.PRESENT:
            return refusals_of(self.listing, place, peer)
        return _in_use(self.root, place)

    def take(self, peer: Peer) -> TakenTree | None:
        """Take it in, as far as it is not here."""
        if self.mode is RootfsMode.PRESENT:
            return None
        if self.mode is RootfsMode.CHANGED:
            tree = TakenTree(self.listing, self._own_place, (), peer, fresh=False)
        else:
            tree = self._begin(peer)
        try:
            tree.take(peer)
        except TransportError:
            if self.mode is RootfsMode.ALL:
                # The next attempt goes on with it; in `CHANGED`, what has come is in its place.
                self.bundle.rename(self._cut)
            raise
        return tree

    @property
    def _cut(self) -> Path:
        return cut_bundle(self.root, self.offer.container_id)

    def _begin(self, peer: Peer) -> TakenTree:
        """Make the bundle's directory, with what has come of it before, if anything."""
        remove_bundle(self.bundle)
        top = self.bundle / "rootfs"
        resumed = self._cut.is_dir()
        if resumed:
            self._cut.rename(self.bundle)
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.bundle.parent.chmod(0o711)
        self.bundle.chmod(0o711)
        return TakenTree(self.listing, top, self._bases(), peer, fresh=not resumed)

    def relocated(self, spec: dict[str, Any], bundle: Path) -> tuple[dict[str, Any], Path]:
        """The configuration and the bundle that the container has here."""
        if self.mode is not RootfsMode.ALL:
            return spec, bundle
        place = self.bundle.absolute()
        spec = {**spec, "root": {**spec["root"], "path": str(place / "rootfs")}}
        (place / "config.json").write_text(json.dumps(spec, indent=2) + "\n")
        origins = [str(self._own_place), *self.offer.rootfs_bases]
        (place / ORIGINS).write_text("".join(f"{path}\n" for path in dict.fromkeys(origins)))
        return spec, place

    def _bases(self) -> list[Path]:
        """Trees here that are likely to have much of it."""
        named = [self._own_place, *map(Path, self.offer.rootfs_bases[:MAX_BASES])]
        received = sorted((self.root / BUNDLES).glob("*/rootfs"))
        mine = self.bundle / "rootfs"
        found = [path for path in dict.fromkeys([*named, *received]) if path != mine]
        return [
            path for path in found if path.is_absolute() and path != Path("/") and path.is_dir()
        ]


def take_offer(peer: Peer, offer: OfferContainer, root: Path) -> Offered | None:
    """Read the list of files that follows an offer; None when none does.

    Raises:
        ProtocolError: It makes no sense.
    """
    try:
        mode = RootfsMode(offer.rootfs)
    except ValueError:
        raise ProtocolError(f"a root file system is to be {offer.rootfs!r:.40}") from None
    if mode is RootfsMode.SHARED:
        return None
    return Offered(mode, take_listing(peer), offer, root)


def _in_use(root: Path, place: Path) -> list[Refusal]:
    if place == Path("/"):
        sentence = "it is this host's own root file system, which is not to be changed"
        return [Refusal("rootfs-is-host", str(place), sentence)]
    for cid in ids(root):
        try:
            metadata = read_metadata(root / cid)
            other = parse_spec(metadata.spec, Path(metadata.bundle or "/")).rootfs
        except ContainerError:
            continue
        nested = other == place or place in other.parents or other in place.parents
        if nested and other != Path("/"):
            sentence = f"container {cid} here uses {other}"
            return [Refusal("rootfs-in-use", str(place), sentence)]
    return []
