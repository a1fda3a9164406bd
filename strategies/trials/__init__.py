"""Strategies that try architectures one after the other, each trained shortly."""
