"""NAS-OSR's own constants: section 3 of the paper, and its code where the paper is silent. Free of torch."""

from __future__ import annotations

LAYERS = 6
CHANNELS = 256
OPERATIONS = ("skip", "conv", "conv2")
STEM = "strided"
BRANCHES = (2,)
SLOPE = 0.2  # of every LeakyReLU
INITIAL_LOGIT = 1e-3  # of every alpha and beta: all choices start equal
