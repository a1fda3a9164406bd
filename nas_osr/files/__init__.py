"""Whole files: text, JSON, YAML, safe writing and reading."""
