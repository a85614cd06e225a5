"""The project's own source files, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("formats", "runtime", "migrate")


def for_each_source(*folders: str) -> Iterator[Path]:
    """Python files below *folders*, relative to the checkout."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT)


def module_name(path: Path) -> str:
    """``runtime/kernel/libc.py`` as ``runtime.kernel.libc``."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _names_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import of {node.module}"
        assert node.module is not None
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_names(path: Path) -> set[str]:
    """Every module name that a file imports, anywhere in it."""
    tree = ast.parse((ROOT / path).read_text())
    return {name for node in ast.walk(tree) for name in _names_of(node)}


def imported_at_load(path: Path) -> set[str]:
    """Module names that a file imports when it is itself imported."""
    found: set[str] = set()
    frontier: list[ast.stmt] = list(ast.parse((ROOT / path).read_text()).body)
    while frontier:
        node = frontier.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node):
            continue
        found.update(_names_of(node))
        frontier += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found
