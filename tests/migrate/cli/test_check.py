"""``wherry check`` as a table, as JSON, and its exit status."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner

from migrate.cli import check
from runtime.kernel.features import Feature, Need, all_features


@pytest.fixture
def crippled(monkeypatch: pytest.MonkeyPatch) -> Feature:
    """A host that lacks one required feature."""
    broken = dataclasses.replace(
        all_features()[0], need=Need.REQUIRED, available=False, detail="", why_not="it is Tuesday"
    )
    monkeypatch.setattr(check, "all_features", lambda: (broken, *all_features()[1:]))
    return broken


def test_the_table_names_every_feature() -> None:
    result = CliRunner().invoke(check.command, [])
    assert result.exit_code == 0, result.output
    for feature in all_features():
        assert feature.name in result.output
        assert feature.group in result.output
    assert "wherry works here" in result.output


def test_json_has_every_field() -> None:
    result = CliRunner().invoke(check.command, ["--json"])
    report = json.loads(result.output)
    assert report["ok"] is True
    assert [entry["name"] for entry in report["features"]] == [f.name for f in all_features()]
    assert set(report["features"][0]) == {f.name for f in dataclasses.fields(Feature)}


def test_a_missing_required_feature_exits_with_1_and_says_why(crippled: Feature) -> None:
    result = CliRunner().invoke(check.command, [])
    assert result.exit_code == 1
    assert "it is Tuesday" in result.output
    assert f"lacks {crippled.name}" in result.output
    report = json.loads(CliRunner().invoke(check.command, ["--json"]).output)
    assert report["ok"] is False
