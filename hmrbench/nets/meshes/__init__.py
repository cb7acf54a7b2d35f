"""Whole networks for human mesh recovery: one file per family, named after it."""
