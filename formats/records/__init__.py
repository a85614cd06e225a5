"""The records of an image: what is known about tasks, memory, files and the sandbox.

One module per family of state. A record class registers itself when its module is imported;
`load_all` imports every module of this folder, so that the registry is complete. It is called by
the codec when it meets a name it does not know yet, and costs nothing before that.
"""

from __future__ import annotations

_loaded = False


def load_all() -> None:
    """Import every record module once."""
    global _loaded  # noqa: PLW0603  (a one-way latch; importing twice would be harmless)
    if _loaded:
        return
    import importlib
    import pkgutil

    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    _loaded = True
