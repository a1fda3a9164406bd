"""Searches that train a supernet by the single paths of it that are drawn, and then try paths with its weights."""
