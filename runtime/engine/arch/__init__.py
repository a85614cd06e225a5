"""Everything that depends on the processor architecture: registers, blobs, restart rules.

One module per architecture, chosen once, here. Code outside of this package says
``from runtime.engine.arch import current as arch``.
"""

from __future__ import annotations

import platform

if platform.machine() != "x86_64":
    from runtime.errors import MissingFeatureError

    raise MissingFeatureError(
        f"the engine runs on x86_64, this machine is {platform.machine()}", reason="architecture"
    )

from runtime.engine.arch import x86_64 as current

__all__ = ["current"]
