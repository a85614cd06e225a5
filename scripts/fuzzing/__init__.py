"""Damaged and forged images and stores, and who has to survive them; see `scripts/fuzz-images`."""
