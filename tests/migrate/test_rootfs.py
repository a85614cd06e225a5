"""A container whose root file system is on one host only: it goes along, as it was asked for."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Lab
from tests.support.small_root import make_rooted_bundle
from tests.support.wait import wait_until

BUNDLE = "/run/bundles/web"
TAP = Path(__file__).with_name("tap.py")
RECEIVED = "/run/wherry/.bundles/web/rootfs"
# It writes to its root file system all the time: a file that grows, one that is replaced.
SCRIPT = """
n=0; exec 3>/state/open; rm -f /state/never
while :; do
  n=$((n+1)); echo $n >> /state/log; echo $n >&3
  echo $n > /state/new; mv /state/new /state/now; sleep 0.01
done
"""


@pytest.fixture
def web(lab: Lab) -> Iterator[Lab]:
    """The container ``web`` on host a, from a bundle that host b does not have."""
    make_rooted_bundle(lab.path("a", BUNDLE), SCRIPT)
    big = lab.path("a", f"{BUNDLE}/rootfs/etc/big")
    big.write_bytes(os.urandom(4 << 20))
    words = f"wherry run --detach --bundle {BUNDLE} web < /dev/null > /dev/null"
    lab.run("a", "sh", "-c", words)
    wait_until(lambda: _steps(lab, "a", f"{BUNDLE}/rootfs") > 3, what="steps")
    yield lab
    for host in ("a", "b"):
        lab.run(host, "wherry", "delete", "--force", "web", check=False)
        shutil.rmtree(lab.path(host, "/run/bundles"), ignore_errors=True)
        # What came with the container has gone with it.
        assert not list(lab.path(host, "/run/wherry/.bundles").glob("*"))


def _steps(lab: Lab, host: str, rootfs: str) -> int:
    """How far it is; what it has written must be whole."""
    text = lab.path(host, f"{rootfs}/state/log").read_text() if _has_log(lab, host, rootfs) else ""
    lines = text.split("\n")[:-1]
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    return len(lines)


def _has_log(lab: Lab, host: str, rootfs: str) -> bool:
    return lab.path(host, f"{rootfs}/state/log").exists()


def _move(lab: Lab, source: str, target: str, *options: str) -> dict[str, Any]:
    report: dict[str, Any] = lab.json(
        source, "wherry", "migrate", "--json", *options, "web", target
    )
    assert lab.containers(source) == {} and lab.containers(target) == {"web": "running"}
    return report


def _goes_on(lab: Lab, host: str, rootfs: str, before: int) -> None:
    wait_until(lambda: _steps(lab, host, rootfs) > before + 5, what="further steps")
    # The file that it holds open is the one that has the name.
    opened = lab.path(host, f"{rootfs}/state/open")
    size = opened.stat().st_size
    wait_until(lambda: opened.stat().st_size > size, what="the open file to grow")


@pytest.mark.parametrize("mode", ["stop", "precopy"])
def test_nothing_is_there(web: Lab, mode: str) -> None:
    before = _steps(web, "a", f"{BUNDLE}/rootfs")
    report = _move(web, "a", "b", "--rootfs", "all", "--mode", mode)
    assert report["rootfs"]["sent_files"] > 5
    assert report["rootfs"]["late_files"] >= 2  # it was at work meanwhile
    _goes_on(web, "b", RECEIVED, before)
    assert not web.path("b", BUNDLE).exists()
    # Back again, where nearly all of it still is: what is known does not travel.
    before = _steps(web, "b", RECEIVED)
    again = _move(web, "b", "a", "--rootfs", "all", "--mode", mode)
    assert again["rootfs"]["sent_bytes"] < 1 << 20 < report["rootfs"]["sent_bytes"]
    _goes_on(web, "a", RECEIVED, before)
    assert not list(web.path("b", "/run/wherry/.bundles").iterdir())


def test_a_copy_is_compared(web: Lab) -> None:
    lab = web
    copy = lab.path("b", BUNDLE)
    shutil.copytree(lab.path("a", BUNDLE), copy, symlinks=True)
    big = copy / "rootfs/etc/big"
    big.write_bytes(big.read_bytes()[:-1] + b"!")
    for options in (("--dry-run",), ()):
        done = lab.run(
            "a", "wherry", "migrate", "--rootfs", "present", *options, "web", "b", check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == 30 and "rootfs-differs" in said and "etc/big" in said
        assert "--rootfs changed" in said and lab.containers("a") == {"web": "running"}
    report = _move(lab, "a", "b", "--rootfs", "changed")
    assert 4 << 20 < report["rootfs"]["sent_bytes"] < 5 << 20
    _goes_on(lab, "b", f"{BUNDLE}/rootfs", 0)
    assert big.read_bytes() == lab.path("a", f"{BUNDLE}/rootfs/etc/big").read_bytes()


def test_a_copy_that_is_right(lab: Lab) -> None:
    make_rooted_bundle(lab.path("a", BUNDLE), "while :; do sleep 0.01; done")
    shutil.copytree(lab.path("a", BUNDLE), lab.path("b", BUNDLE), symlinks=True)
    try:
        words = f"wherry run --detach --bundle {BUNDLE} web < /dev/null > /dev/null"
        lab.run("a", "sh", "-c", words)
        report = _move(lab, "a", "b", "--rootfs", "present")
        assert report["rootfs"]["sent_files"] == 0
        # In use, it is not changed.
        lab.run("a", "sh", "-c", words.replace(" web ", " other "))
        done = lab.run("a", "wherry", "migrate", "--rootfs", "changed", "other", "b", check=False)
        assert done.returncode == 30 and "rootfs-in-use" in done.stderr
    finally:
        for host in ("a", "b"):
            for cid in lab.containers(host):
                lab.run(host, "wherry", "delete", "--force", cid)
            shutil.rmtree(lab.path(host, BUNDLE))


@pytest.mark.parametrize(
    ("message", "when", "what"),
    [
        ("files-wanted", "before", "kill"),
        ("data-end", "after", "cut"),
        ("files-end", "after", "kill"),
    ],
)
def test_cut_on_the_way(web: Lab, tmp_path: Path, message: str, when: str, what: str) -> None:
    plan = {"message": f"migrate-{message}", "when": when, "what": what}
    (tmp_path / "plan").write_text(json.dumps(plan))
    through = ("--remote-command", f"{sys.executable} {TAP} {tmp_path} -- wherry")
    words = ("wherry", "migrate", "--rootfs", "all", *through, "web", "b")
    done = web.run("a", *words, check=False)
    assert done.returncode not in (0, 70) and "Traceback" not in done.stderr
    assert not (tmp_path / "plan").exists()
    before = _steps(web, "a", f"{BUNDLE}/rootfs")
    _goes_on(web, "a", f"{BUNDLE}/rootfs", before)
    wait_until(lambda: not web.pids("b", "wherry receive"))
    # What a killed one has left goes with the next attempt.
    _move(web, "a", "b", "--rootfs", "all")
    _goes_on(web, "b", RECEIVED, before)


def test_what_has_come_before_a_cut_is_used(web: Lab) -> None:
    # The last file takes three seconds at that rate: time enough to cut the line in it.
    last = web.path("a", f"{BUNDLE}/rootfs/tmp/last")
    last.write_bytes(os.urandom(6 << 20))
    words = ("wherry", "migrate", "--json", "--rootfs", "all", "--bandwidth", "2M", "web", "b")
    call = web.popen("a", *words, stdout=-1, stderr=-1)
    bundles = web.path("b", "/run/wherry/.bundles")
    wait_until(lambda: list(bundles.glob("web/rootfs/tmp/last")), what="the last file")
    web.hang_up("b")
    assert call.wait(60) == 41
    call.communicate()
    wait_until(lambda: not web.pids("b", "wherry receive"))
    assert [path.name for path in bundles.iterdir()] == ["web~cut"]
    before = _steps(web, "a", f"{BUNDLE}/rootfs")
    report = _move(web, "a", "b", "--rootfs", "all")
    assert report["rootfs"]["sent_bytes"] < 8 << 20  # without the other large file
    _goes_on(web, "b", RECEIVED, before)
    assert [path.name for path in bundles.iterdir()] == ["web"]


def test_what_has_come_before_a_cut_can_be_removed(lab: Lab) -> None:
    cut = lab.path("b", "/run/wherry/.bundles/web~cut/rootfs/deep")
    cut.mkdir(parents=True)
    lab.run("b", "wherry", "delete", "--force", "web")
    assert list(lab.path("b", "/run/wherry/.bundles").iterdir()) == []


def test_without_it_is_a_refusal(web: Lab) -> None:
    done = web.run("a", "wherry", "migrate", "web", "b", check=False)
    assert done.returncode == 30 and "no-rootfs" in done.stderr and "--rootfs all" in done.stderr


def test_the_own_one_of_a_host_is_not_sent(lab: Lab) -> None:
    lab.run("a", "wherry", "do", "--id", "web", "--detach", "--", "sleep", "1000")
    done = lab.run("a", "wherry", "migrate", "--rootfs", "all", "web", "b", check=False)
    assert done.returncode == 40 and "rootfs-is-host" in done.stderr
    lab.run("a", "wherry", "delete", "--force", "web")
