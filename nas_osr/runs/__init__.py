"""The run folder: names, writing, checkpoints, provenance, resumption, progress, stopping."""
