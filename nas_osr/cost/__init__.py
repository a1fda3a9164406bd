"""What steps cost, what a run will cost, and what a device has left."""

GIB = 2**30  # bytes
