"""Fixtures and rules for all tests.

* ``wherry`` runs the command with a state root of its own; ``wherry_root`` is that root.
* Whatever a test leaves behind is destroyed and fails the test, by name; the whole run is
  compared once more at its end.
* ``@pytest.mark.needs_feature("pagemap-scan")`` skips where the kernel lacks a feature. With
  ``WHERRY_NO_SKIPS=1`` every other skip is a failure, so that a machine that should run a test
  cannot quietly not run it.
* ``@pytest.mark.timeout(seconds)`` bounds a test's body, 300 s unless it says otherwise.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from runtime.kernel.features import feature, feature_names
from tests.support import leftovers
from tests.support.command import Wherry

_DEFAULT_TIMEOUT_S = 300.0
_RUN_LOCK = Path(tempfile.gettempdir()) / "wherry-tests.lock"
_outcome = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share",
        metavar="DIRECTORY",
        type=Path,
        help="Leave to others what they have taken; who takes a test makes a file in DIRECTORY.",
    )
    parser.addoption("--backwards", action="store_true", help="Begin with the last file.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--backwards"):
        # Only the files: the tests of each stay in their order.
        order = {path: -at for at, path in enumerate(dict.fromkeys(item.path for item in items))}
        items.sort(key=lambda item: order[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    directory = session.config.getoption("--share")
    if directory is None or session.testsfailed or session.config.option.collectonly:
        return None
    ours = _taken(directory, session.items)
    item = next(ours, None)
    while item is not None:
        following = next(ours, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def _taken(directory: Path, items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """The tests that nobody else has taken, each when it is asked for."""
    for item in items:
        name = hashlib.sha256(item.nodeid.encode()).hexdigest()
        try:
            (directory / name).touch(exist_ok=False)
        except FileExistsError:
            continue
        yield item


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs_feature(name): skip where `wherry check` lacks the feature"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs_feature"):
        found = feature(marker.args[0])
        if not found.available:
            pytest.skip(f"feature {found.name}: {found.why_not}")


def _explained(reason: str) -> bool:
    """Whether a skip names a feature that is really absent."""
    words = reason.removeprefix("Skipped: ").split()
    if len(words) < 2 or words[0] != "feature":
        return False
    name = words[1].rstrip(":")
    return name in feature_names() and not feature(name).available


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_outcome] = False
    if report.skipped and os.environ.get("WHERRY_NO_SKIPS") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not _explained(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped although WHERRY_NO_SKIPS is set: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0]) if marker else _DEFAULT_TIMEOUT_S

    def expire(_signum: int, _frame: FrameType | None) -> None:
        pytest.fail(f"the test did not end within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def scratch(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory with a short name (a UNIX socket's path has 107 bytes), gone afterwards.

    At the end nothing may be left that mentions it: no process, mount, cgroup or container.
    """
    base = Path(tempfile.mkdtemp(prefix="w-"))
    base.chmod(0o755)  # a container's program may run as another user
    before = leftovers.our_descendants()
    seen: dict[Path, int] = {}
    request.node.stash[_cgroups_key] = seen
    try:
        yield base
    finally:
        found = leftovers.settle(base, seen, before)
        if found:
            environment = {**os.environ, "WHERRY_ROOT": str(base / "r")}
            leftovers.destroy(base, seen, before, environment)
        shutil.rmtree(base)
    if found:
        message = "left behind: " + "; ".join(map(str, found))
        if request.node.stash.get(_outcome, True):
            pytest.fail(message)
        print(message)  # the failure itself matters more


_cgroups_key = pytest.StashKey[dict[Path, int]]()


@pytest.fixture
def wherry_root(scratch: Path) -> Path:
    """The state root of this test."""
    root = scratch / "r"
    root.mkdir(mode=0o711)
    return root


@pytest.fixture
def wherry(request: pytest.FixtureRequest, scratch: Path, wherry_root: Path) -> Wherry:
    """Runs the command with this test's state root."""
    calls = scratch / "io"
    calls.mkdir()
    return Wherry(wherry_root, calls, seen_cgroups=request.node.stash[_cgroups_key])


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_of_the_run() -> Iterator[None]:
    """Compare cgroups, mounts and named network namespaces before and after the whole run.

    The comparison goes by name, so it is made only when no other test run shares the machine.
    """
    with _RUN_LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        before = _of_the_run()
        yield
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another test run is under way; the final comparison is left to it")
            return
        left = sorted(_of_the_run() - before)
    assert not left, f"the run left behind: {', '.join(left)}"


def _of_the_run() -> set[str]:
    found = {f"cgroup {path}" for path in leftovers.cgroups() if "wherry" in str(path)}
    found |= {f"mount {target}" for target in leftovers.mounts_of("wherry")}
    found |= {f"network namespace {name}" for name in leftovers.network_namespaces()}
    return found
