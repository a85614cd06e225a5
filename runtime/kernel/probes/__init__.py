"""The probes behind ``runtime.kernel.features``, one module per part of the kernel."""
