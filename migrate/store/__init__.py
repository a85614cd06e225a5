"""Stores: many images whose equal chunks are kept once."""
