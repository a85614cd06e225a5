"""The product's version, in one place; pyproject.toml repeats it and a test compares them."""

VERSION = "0.1.0"
