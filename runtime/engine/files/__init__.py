"""Open files: one module per kind, each with its dump and its restore side by side.

A kind is a subclass of `runtime.engine.files.kind.Kind`; importing its module registers it. The
kinds are asked in the order of their ``rank``, so that the general ones come last.
"""
