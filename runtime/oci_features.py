"""What this runtime supports, in the form that OCI defines.

Source: https://github.com/opencontainers/runtime-spec/blob/main/features.md
"""

from __future__ import annotations

import importlib.util
from typing import Any

from runtime.hooks import HOOK_NAMES
from runtime.kernel.capabilities import CAPABILITY_NAMES
from runtime.oci_state import OCI_VERSION
from runtime.spec import linux, mount_options
from runtime.version import VERSION


def oci_features() -> dict[str, Any]:
    """The features document. It tells what wherry can do, whatever this host's kernel offers."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(HOOK_NAMES),
        "mountOptions": mount_options.option_names(),
        "linux": {
            "namespaces": list(linux.NAMESPACE_KINDS),
            "capabilities": list(CAPABILITY_NAMES),
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": False,
                "systemdUser": False,
                "rdma": False,
            },
            "seccomp": {
                "enabled": importlib.util.find_spec("pyseccomp") is not None,
                **linux.seccomp_names(),
            },
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": False}},
        },
        "annotations": {"io.wherry.version": VERSION, "io.wherry.checkpoint.enabled": "true"},
    }
