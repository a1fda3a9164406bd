"""Data: class splits, image sources, in-memory batches, augmentation."""
