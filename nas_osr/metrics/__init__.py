"""Open-set metrics on plain arrays, and their resampling."""
