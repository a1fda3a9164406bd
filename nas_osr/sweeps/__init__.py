"""Sweeps: many runs from one YAML file, resumable. The files beside this module are the experiments of the papers."""
