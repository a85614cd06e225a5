"""Run the hooks of a configuration, in the runtime's namespaces or in the container."""

from __future__ import annotations

from typing import Any

from runtime.spec.model import Spec

# Names that run before or in the init; poststart and poststop are the container's
CREATE_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer")


class SpecHooks:
    """The hooks of one configuration."""

    def __init__(self, spec: Spec) -> None:
        self._hooks = spec.hooks
        if any(name in spec.hooks for name in CREATE_HOOKS):
            # Inside the container there is nothing left to import from
            import runtime.hooks  # noqa: F401

    def run(self, name: str, state: dict[str, Any]) -> None:
        """Run all hooks *name*, each with *state* on its standard input.

        Raises:
            HookError: One failed; the rest is not run.
        """
        hooks = self._hooks.get(name)
        if hooks:
            from runtime.hooks import run_hooks

            run_hooks(hooks, state, name=name)
