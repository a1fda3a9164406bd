"""Strategies: how an architecture is found."""
