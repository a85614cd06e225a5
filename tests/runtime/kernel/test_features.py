"""The probes answer quickly, explain themselves and leave nothing behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from runtime.kernel import features
from runtime.kernel.features import Need, UnavailableError, all_features, feature, feature_names


def test_every_feature_explains_itself() -> None:
    for found in all_features():
        assert found.used_for, found
        assert found.without_it, found
        assert found.available == (not found.why_not), found


def test_names_are_stable_slugs() -> None:
    for name in feature_names():
        assert name == name.lower()
        assert " " not in name
        assert "_" not in name


def test_this_machine_has_what_wherry_requires() -> None:
    assert [found.name for found in all_features() if found.blocks] == []


def test_probing_everything_takes_less_than_a_second() -> None:
    feature.cache_clear()
    start = time.monotonic()
    all_features()
    assert time.monotonic() - start < 1.0


def test_probing_leaves_no_descriptor_child_or_cgroup() -> None:
    feature.cache_clear()
    descriptors = set(Path("/proc/self/fd").iterdir())
    all_features()
    assert set(Path("/proc/self/fd").iterdir()) == descriptors
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    left = list(Path("/sys/fs/cgroup").glob("*/wherry-check-*"))
    assert left == []


def test_an_unknown_feature_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        feature("no-such-feature")


def test_the_reason_of_an_absence_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_registry", dict(features._registry))

    @features.probe("test-raises", group="test", used_for="a", without_it="b", need=Need.REQUIRED)
    def _raises() -> str:
        raise UnavailableError("because")

    @features.probe("test-oserror", group="test", used_for="a", without_it="b")
    def _oserror() -> str:
        raise OSError(38, "Function not implemented")

    assert feature("test-raises").why_not == "because"
    assert feature("test-raises").blocks
    assert feature("test-oserror").why_not == "Function not implemented"
    assert not feature("test-oserror").blocks


def test_a_name_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        features.probe(feature_names()[0], group="g", used_for="a", without_it="b")(lambda: "")
