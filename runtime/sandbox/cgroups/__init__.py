"""Control groups of a container, on cgroup v1, v2 and both at once."""

from runtime.sandbox.cgroups.manager import Cgroups

__all__ = ["Cgroups"]
