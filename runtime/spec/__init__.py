"""The OCI runtime configuration: load, parse, check, and make defaults."""

from runtime.spec.default import default_spec, do_spec
from runtime.spec.load import load_spec, parse_process_json, parse_spec
from runtime.spec.model import Process, Spec
from runtime.spec.rules import check_host

__all__ = [
    "Process",
    "Spec",
    "check_host",
    "default_spec",
    "do_spec",
    "load_spec",
    "parse_process_json",
    "parse_spec",
]
