"""The device rules of a container: lines for the v1 controller, a BPF program for cgroup v2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from runtime.kernel import bpf
from runtime.spec.model import DeviceRule

# Every container may use these, whatever its configuration says: the default device nodes,
# pseudo-terminals, and making nodes (which needs CAP_MKNOD; opening one is another matter).
DEFAULT_RULES: Final = (
    DeviceRule(True, "c", None, None, "m"),
    DeviceRule(True, "b", None, None, "m"),
    DeviceRule(True, "c", 1, 3),  # null
    DeviceRule(True, "c", 1, 5),  # zero
    DeviceRule(True, "c", 1, 7),  # full
    DeviceRule(True, "c", 1, 8),  # random
    DeviceRule(True, "c", 1, 9),  # urandom
    DeviceRule(True, "c", 5, 0),  # tty
    DeviceRule(True, "c", 5, 1),  # console
    DeviceRule(True, "c", 5, 2),  # ptmx
    DeviceRule(True, "c", 136, None),  # pseudo-terminals
)
_DENY_ALL: Final = DeviceRule(False)

_ACCESS_BITS: Final = {
    "m": bpf.BPF_DEVCG_ACC_MKNOD,
    "r": bpf.BPF_DEVCG_ACC_READ,
    "w": bpf.BPF_DEVCG_ACC_WRITE,
}
_KINDS: Final = {"b": bpf.BPF_DEVCG_DEV_BLOCK, "c": bpf.BPF_DEVCG_DEV_CHAR}


def complete_rules(rules: Sequence[DeviceRule]) -> tuple[DeviceRule, ...]:
    """Deny everything, then the configuration's rules in order, then the default ones."""
    return (_DENY_ALL, *rules, *DEFAULT_RULES)


def v1_lines(rules: Sequence[DeviceRule]) -> Iterator[tuple[str, str]]:
    """File (``devices.allow`` or ``devices.deny``) and line, in order.

    Source: Documentation/admin-guide/cgroup-v1/devices.rst.
    """
    for rule in rules:
        file = "devices.allow" if rule.allow else "devices.deny"
        if rule.kind != "a":
            yield file, _line(rule, rule.kind)
        elif rule.major is None and rule.minor is None and set(rule.access) == set("rwm"):
            yield file, "a"
        else:
            # "a" in a line ignores the rest of it, so both kinds are written out
            yield file, _line(rule, "b")
            yield file, _line(rule, "c")


def _line(rule: DeviceRule, kind: str) -> str:
    major = "*" if rule.major is None else rule.major
    minor = "*" if rule.minor is None else rule.minor
    return f"{kind} {major}:{minor} {rule.access}"


def bpf_program(rules: Sequence[DeviceRule]) -> bytes:
    """A BPF_PROG_TYPE_CGROUP_DEVICE program in which the last matching rule decides.

    An allow rule must cover all that is asked for at once; a deny rule needs to touch any of it.
    """
    code = [
        bpf.instruction(bpf.BPF_LDX_MEM_W, dst=2, src=1, offset=0),  # r2 = access << 16 | kind
        bpf.instruction(bpf.BPF_ALU64_MOV_X, dst=3, src=2),
        bpf.instruction(bpf.BPF_ALU64_AND_K, dst=2, imm=0xFFFF),  # r2 = kind
        bpf.instruction(bpf.BPF_ALU64_RSH_K, dst=3, imm=16),  # r3 = access
        bpf.instruction(bpf.BPF_LDX_MEM_W, dst=4, src=1, offset=4),  # r4 = major
        bpf.instruction(bpf.BPF_LDX_MEM_W, dst=5, src=1, offset=8),  # r5 = minor
    ]
    for rule in reversed(rules):
        code += _rule_code(rule)
        if _matches_everything(rule):
            break  # the verifier refuses code that cannot be reached
    else:
        code += _return(False)
    return b"".join(code)


def _matches_everything(rule: DeviceRule) -> bool:
    anything = rule.kind == "a" and rule.major is None and rule.minor is None
    return anything and set(rule.access) == set("rwm")


def _return(allow: bool) -> list[bytes]:
    return [bpf.instruction(bpf.BPF_ALU64_MOV_K, dst=0, imm=int(allow)), _EXIT]


_EXIT: Final = bpf.instruction(bpf.BPF_EXIT)


def _rule_code(rule: DeviceRule) -> list[bytes]:
    # Each test is (instructions before the jump, code, dst, src, imm); the jump leaves the rule
    tests: list[tuple[list[bytes], int, int, int, int]] = []
    if rule.kind != "a":
        tests.append(([], bpf.BPF_JMP_JNE_K, 2, 0, _KINDS[rule.kind]))
    if set(rule.access) != set("rwm"):
        mask = sum(_ACCESS_BITS[letter] for letter in set(rule.access))
        masked = [
            bpf.instruction(bpf.BPF_ALU64_MOV_X, dst=1, src=3),
            bpf.instruction(bpf.BPF_ALU64_AND_K, dst=1, imm=mask),
        ]
        leave = (bpf.BPF_JMP_JNE_X, 1, 3, 0) if rule.allow else (bpf.BPF_JMP_JEQ_K, 1, 0, 0)
        tests.append((masked, *leave))
    if rule.major is not None:
        tests.append(([], bpf.BPF_JMP_JNE_K, 4, 0, rule.major))
    if rule.minor is not None:
        tests.append(([], bpf.BPF_JMP_JNE_K, 5, 0, rule.minor))
    length = sum(len(before) + 1 for before, *_ in tests) + 2
    code: list[bytes] = []
    for before, opcode, dst, src, imm in tests:
        code += before
        code.append(bpf.instruction(opcode, dst, src, length - len(code) - 1, imm))
    return code + _return(rule.allow)
