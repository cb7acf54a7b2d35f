"""Transformers that several whole networks share."""
