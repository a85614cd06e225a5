"""Snapshots at set times: of which containers, when, into which store, and what stays."""
