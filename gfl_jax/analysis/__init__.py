"""What the paper claims, measured on a detector: quality correlation, label quality, distributions."""
