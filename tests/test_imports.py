"""The one import direction, and the one home of each outside dependency."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sources import (
    PACKAGES,
    for_each_source,
    imported_at_load,
    imported_names,
    module_name,
)

SOURCES = list(for_each_source(*PACKAGES))

# What each part may not import; the arrows point migrate -> runtime -> formats, and inside runtime
# container -> sandbox, engine -> kernel.
FORBIDDEN = {
    "formats": ("runtime", "migrate"),
    "runtime": ("migrate",),
    "runtime/kernel": ("runtime.container", "runtime.monitor", "runtime.sandbox", "runtime.engine"),
    "runtime/sandbox": ("runtime.container", "runtime.monitor", "runtime.engine"),
    "runtime/engine": ("runtime.container", "runtime.monitor"),
}

HOMES = {
    "ctypes": ("runtime/kernel",),
    "msgpack": ("formats",),
    "zstandard": ("formats",),
    "blake3": ("formats",),
    "pyseccomp": ("runtime/sandbox",),
    "cronsim": ("migrate/schedule/timing.py",),
    "paramiko": ("migrate/ssh.py", "migrate/ssh", "migrate/transport", "migrate/store/sftp.py"),
    "boto3": ("migrate/store/s3.py",),
    "botocore": ("migrate/store/s3.py",),
    "urllib3": ("migrate/store/registry.py",),
    "click": ("migrate/cli",),
    "cryptography": (
        "migrate/store/crypto.py",
        "migrate/store/secrets.py",
        "migrate/store/signing.py",
    ),
    "rich": ("migrate/cli",),
    "psutil": ("runtime", "migrate"),
}


def _below(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_follow_the_arrows(path: Path) -> None:
    for part, forbidden in FORBIDDEN.items():
        if path.is_relative_to(part):
            wrong = [name for name in imported_names(path) if _below(name, *forbidden)]
            assert wrong == [], f"{path} is in {part}/, which imports nothing of {forbidden}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_each_dependency_has_one_home(path: Path) -> None:
    for name in {name.partition(".")[0] for name in imported_names(path)} & HOMES.keys():
        assert any(path.is_relative_to(home) for home in HOMES[name]), (
            f"{path} imports {name}, whose home is {' or '.join(HOMES[name])}"
        )


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    modules = {module_name(path): path for path in SOURCES}
    graph = {
        name: {target for target in imported_at_load(path) if target in modules and target != name}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
