"""known_hosts files as ssh and ssh-keygen write them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from migrate.known_hosts import Verdict, fingerprint, judge, keys_of, lookup_name, remember

KEY = bytes.fromhex("0000000b7373682d65643235353139") + b"\0\0\0 " + b"k" * 32
OTHER = KEY[:-1] + b"x"
KIND = "ssh-ed25519"


def _line(names: str, blob: bytes = KEY, kind: str = KIND) -> str:
    import base64

    return f"{names} {kind} {base64.b64encode(blob).decode()}\n"


def _verdict(path: Path, name: str, blob: bytes = KEY, kind: str = KIND) -> Verdict:
    return judge(keys_of(name, [path]), kind, blob)[0]


@pytest.mark.parametrize(
    ("names", "host", "verdict"),
    [
        ("b", "b", Verdict.KNOWN),
        ("a,b", "b", Verdict.KNOWN),
        ("B", "b", Verdict.KNOWN),
        ("*.example.com", "x.example.com", Verdict.KNOWN),
        ("*.example.com,!x.example.com", "x.example.com", Verdict.UNKNOWN),
        ("10.0.0.?", "10.0.0.7", Verdict.KNOWN),
        ("[b]:2222", "[b]:2222", Verdict.KNOWN),
        ("[b]:2222", "b", Verdict.UNKNOWN),
        ("b", "bb", Verdict.UNKNOWN),
    ],
)
def test_names(tmp_path: Path, names: str, host: str, verdict: Verdict) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(_line(names))
    assert _verdict(path, host) is verdict


def test_changed_revoked_and_other_types(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(_line("b", OTHER))
    assert _verdict(path, "b") is Verdict.CHANGED
    assert _verdict(path, "b", kind="ssh-rsa") is Verdict.UNKNOWN
    path.write_text(_line("b") + _line("@revoked *"))
    assert _verdict(path, "b") is Verdict.REVOKED
    path.write_text(_line("@cert-authority b"))
    assert _verdict(path, "b") is Verdict.UNKNOWN


def test_hashed_names_as_ssh_keygen_makes_them(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(_line("[b.example.com]:2222") + _line("c", OTHER))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    assert "example" not in path.read_text()
    assert _verdict(path, lookup_name("B.example.com", 2222)) is Verdict.KNOWN
    assert _verdict(path, "c") is Verdict.CHANGED
    assert _verdict(path, "d") is Verdict.UNKNOWN


def test_fingerprint_is_ssh_keygens(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    shown = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True)
    import base64

    blob = base64.b64decode(key.with_suffix(".pub").read_text().split()[1])
    assert fingerprint(blob) == shown.stdout.split()[1]


def test_odd_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    odd = "# b\n\nb\nb ssh-ed25519\nb ssh-ed25519 !!!\n|1|x|y ssh-ed25519 AAAA\n\xff\xfe\n"
    path.write_text(odd + _line("b"))
    assert _verdict(path, "b") is Verdict.KNOWN
    assert keys_of("b", [tmp_path / "missing"]) == ()


def test_remembers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "known_hosts"
    remember(path, "b", KIND, KEY)
    path.write_text(path.read_text().rstrip("\n"))  # as a careless editor leaves it
    remember(path, "c", KIND, OTHER)
    assert _verdict(path, "b") is Verdict.KNOWN
    assert _verdict(path, "c", OTHER) is Verdict.KNOWN
    assert path.stat().st_mode & 0o777 == 0o600
