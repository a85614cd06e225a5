"""Compile an OCI seccomp profile to BPF through libseccomp (pyseccomp).

Compiling happens before the container exists, where modules can still be imported; the init only
installs the bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime.errors import MissingFeatureError
from runtime.kernel.numbers import NR
from runtime.kernel.seccomp import (
    FILTER_INSTRUCTION_SIZE,
    MAX_INSTRUCTIONS,
    SECCOMP_FILTER_FLAG_LOG,
    SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    SECCOMP_FILTER_FLAG_TSYNC,
)
from runtime.spec.model import Seccomp, SeccompRule
from runtime.spec.reader import invalid, unsupported

_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": SECCOMP_FILTER_FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": SECCOMP_FILTER_FLAG_SPEC_ALLOW,
}


class SeccompFilter(NamedTuple):
    """A program for ``runtime.kernel.seccomp.install_filter``.

    Attributes:
        program: Classic BPF.
        flags: ``SECCOMP_FILTER_FLAG_*``.
        allows_execveat: Whether execveat(2) works under it.
    """

    program: bytes
    flags: int
    allows_execveat: bool = True


def compile_profile(profile: Seccomp) -> SeccompFilter:
    """Compile *profile*.

    A name that no kernel of this architecture has cannot be called, so its rule is met by doing
    nothing. A name that only libseccomp is too old for is given by number.

    Raises:
        MissingFeatureError: pyseccomp or libseccomp is not installed.
        SpecError: The profile names an unknown architecture, or cannot be compiled.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as exc:
        raise MissingFeatureError(
            f"config.json: linux.seccomp: needs libseccomp and pyseccomp ({exc}); install "
            "wherry[seccomp] and libseccomp2",
            reason="seccomp-missing",
        ) from exc
    default = _action(pyseccomp, profile.default_action, profile.default_errno)
    native = pyseccomp.SyscallFilter(default)
    others = _other_architectures(pyseccomp, profile, default)
    for index, rule in enumerate(profile.rules):
        if _plain(rule.action) == _plain(profile.default_action) and (
            rule.errno == profile.default_errno or rule.action not in _WITH_ERRNO
        ):
            continue  # what happens anyway; libseccomp refuses such a rule
        path = f"linux.seccomp.syscalls[{index}]"
        _add_rule(pyseccomp, native, rule, path, NR)
        if others is not None:
            _add_rule(pyseccomp, others, rule, path, {})
    if others is not None:
        native.merge(others)
    flags = 0
    for flag in profile.flags:
        flags |= _FLAGS[flag]
    return SeccompFilter(_exported(native), flags, _allows(profile, "execveat"))


def _allows(profile: Seccomp, name: str) -> bool:
    """Whether a call works without conditions."""
    harmless = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
    actions = [rule.action for rule in profile.rules if name in rule.names and not rule.args]
    restricted = any(rule.action not in harmless for rule in profile.rules if name in rule.names)
    if restricted:
        return False
    return bool(actions) or profile.default_action in harmless


_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")


def _plain(action: str) -> str:
    return "SCMP_ACT_KILL_THREAD" if action == "SCMP_ACT_KILL" else action


def _action(pyseccomp: Any, name: str, number: int | None) -> int:
    name = _plain(name)
    if name in _WITH_ERRNO:
        make = pyseccomp.ERRNO if name == "SCMP_ACT_ERRNO" else pyseccomp.TRACE
        return int(make(errno.EPERM if number is None else number))
    return int(getattr(pyseccomp, name.removeprefix("SCMP_ACT_")))


def _other_architectures(pyseccomp: Any, profile: Seccomp, default: int) -> Any:
    """A filter for all architectures of the profile but our own; None when there is no other.

    Apart, because a call that libseccomp is too old to know can be given by number for one
    architecture only.
    """
    others = pyseccomp.SyscallFilter(default)
    native = int(pyseccomp.system_arch())
    found = False
    for index, name in enumerate(profile.architectures):
        path = f"linux.seccomp.architectures[{index}]"
        arch = getattr(pyseccomp.Arch, name.removeprefix("SCMP_ARCH_"), None)
        if arch is None or not name.startswith("SCMP_ARCH_"):
            raise invalid(path, f"{name!r} is no architecture that libseccomp knows")
        if arch in (native, pyseccomp.Arch.NATIVE):
            continue
        try:
            others.add_arch(arch)
        except OSError as exc:
            raise unsupported(path, f"{name}: libseccomp refuses it: {exc.strerror}") from exc
        found = True
    if not found:
        return None
    others.remove_arch(native)
    return others


def _add_rule(
    pyseccomp: Any, compiled: Any, rule: SeccompRule, path: str, numbers: Mapping[str, int]
) -> None:
    """Add a rule; *numbers* has those of calls that libseccomp does not know."""
    action = _action(pyseccomp, rule.action, rule.errno)
    args = [
        pyseccomp.Arg(
            arg.argument,
            getattr(pyseccomp, arg.op.removeprefix("SCMP_CMP_")),
            arg.value,
            arg.value_two,
        )
        for arg in rule.args
    ]
    # libseccomp joins the conditions of one rule by "and" and allows one condition per argument;
    # several on one argument are, as in runc, alternatives
    indices = [arg.argument for arg in rule.args]
    groups = [args] if len(set(indices)) == len(indices) else [[arg] for arg in args]
    for name in rule.names:
        number = _number(pyseccomp, name, numbers)
        if number is None:
            continue
        for group in groups:
            try:
                compiled.add_rule(action, number, *group)
            except OSError as exc:
                raise unsupported(path, f"{name}: libseccomp: {exc.strerror}") from exc


def _number(pyseccomp: Any, name: str, numbers: Mapping[str, int]) -> int | None:
    number = int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))
    # -1 is __NR_SCMP_ERROR; other negative numbers are calls of other architectures, which
    # libseccomp handles
    return numbers.get(name) if number == -1 else number


def _exported(compiled: Any) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with open(fd, "rb") as file:
        compiled.export_bpf(file)
        file.seek(0)
        program = file.read()
    if len(program) > MAX_INSTRUCTIONS * FILTER_INSTRUCTION_SIZE:
        raise unsupported("linux.seccomp", "the profile needs more than 4096 instructions")
    return program
