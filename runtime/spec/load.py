"""Load and parse a bundle's ``config.json``."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.errors import SpecError
from runtime.spec.linux import parse_linux, parse_mappings
from runtime.spec.model import Json, Mount, Process, Spec
from runtime.spec.mount_options import with_options
from runtime.spec.process import parse_process
from runtime.spec.reader import Node, invalid, unsupported
from runtime.spec.rules import check_rules

HOOK_NAMES = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)

MAX_CONFIG_BYTES = 16 << 20


def load_spec(bundle: Path) -> Spec:
    """Read, parse and check ``config.json`` of a bundle.

    Raises:
        SpecError: There is no such file, it is no JSON, or it asks for something invalid,
            unsupported or unknown; the message names the path inside the configuration.
    """
    path = bundle / "config.json"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as exc:
        why = f"{path}: {exc.strerror}; a bundle is a directory with config.json and a rootfs"
        raise SpecError(why, reason="no-config") from exc
    if len(text) > MAX_CONFIG_BYTES:
        raise SpecError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes", reason="spec-invalid")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise SpecError(f"{path}: not JSON: {exc}", reason="spec-invalid") from exc
    return parse_spec(raw, bundle)


def parse_spec(raw: Any, bundle: Path) -> Spec:
    """Parse and check a configuration.

    Args:
        raw: The JSON value.
        bundle: Directory that relative paths start at.

    Raises:
        SpecError: As ``load_spec``.
    """
    node = Node(raw)
    bundle = bundle.absolute()
    version = node.need("ociVersion").text()
    if not re.match(r"1\.\d+\.\d+(?:[-+].*)?\Z", version):
        raise unsupported("ociVersion", f"{version!r}; wherry knows version 1")
    root = node.need("root")
    process = node.get("process")
    if process is None:
        raise invalid("process", "is missing; wherry needs the program at create")
    spec = Spec(
        raw=raw,
        oci_version=version,
        bundle=bundle,
        rootfs=bundle / root.need("path").text(),
        root_readonly=root.bool_of("readonly"),
        process=parse_process(process),
        mounts=tuple(_parse_mount(entry, i, bundle) for i, entry in enumerate(_mounts(node))),
        hostname=node.str_of("hostname"),
        domainname=node.str_of("domainname"),
        hooks=_parse_hooks(node.get("hooks")),
        annotations=node.string_map("annotations"),
        linux=parse_linux(node.get("linux")),
    )
    root.done()
    for platform in ("windows", "solaris", "vm", "zos", "freebsd"):
        node.refuse(platform, "wherry runs Linux containers only")
    node.done()
    check_rules(spec)
    return spec


def parse_process_json(raw: Any) -> Process:
    """Parse a ``process`` object on its own, as ``exec --process`` takes it."""
    return parse_process(Node(raw, "process"))


def _mounts(node: Node) -> list[Node]:
    return node.list_of("mounts")


def _parse_mount(node: Node, index: int, bundle: Path) -> Mount:
    destination = node.need("destination").text()
    if not destination:
        raise invalid(f"{node.path}.destination", "is empty")
    # "/" in front: 1.0.x allowed relative destinations, and tools still write them
    destination = posixpath.normpath(posixpath.join("/", destination))
    if destination in ("/", "//"):
        raise invalid(f"{node.path}.destination", "is the root itself; use root.path")
    options = node.strings("options")
    mount = Mount(index, destination, node.str_of("type"), node.str_of("source"))
    mount = with_options(mount, options)
    uids, gids = parse_mappings(node, "uidMappings"), parse_mappings(node, "gidMappings")
    node.done()
    if bool(uids) != bool(gids):
        raise invalid(f"{node.path}.uidMappings", "uidMappings and gidMappings go together")
    if uids and not mount.bind:
        raise unsupported(f"{node.path}.uidMappings", "only bind mounts can be id-mapped")
    if uids:
        id_mapped = mount.id_mapped or "idmap"
        mount = replace(mount, uid_mappings=uids, gid_mappings=gids, id_mapped=id_mapped)
    if mount.bind:
        if not mount.source:
            raise invalid(f"{node.path}.source", "a bind mount needs one")
        return replace(mount, source=str(bundle / mount.source))
    if not mount.fstype or mount.fstype in ("bind", "none"):
        why = f"{mount.fstype!r} is no file system; a bind mount needs the option bind or rbind"
        raise invalid(f"{node.path}.type", why)
    return mount


def _parse_hooks(node: Node | None) -> dict[str, tuple[Json, ...]]:
    if node is None:
        return {}
    hooks = {}
    for name in HOOK_NAMES:
        entries = node.list_of(name)
        for entry in entries:
            path = entry.need("path").text()
            if not posixpath.isabs(path):
                raise invalid(f"{entry.path}.path", f"{path!r} is not an absolute path")
            entry.strings("args")
            entry.strings("env")
            entry.int_of("timeout", 1, 1 << 31)
            entry.done()
        if entries:
            hooks[name] = tuple(entry.value for entry in entries)
    node.done()
    return hooks
