"""Measures the claims of the paper on a detector: quality correlation, label quality, distributions."""
