"""Retraining: a discrete or baseline network on any protocol, from scratch, with its open-set evaluation."""
