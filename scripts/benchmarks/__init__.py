"""The measured parts of scripts/benchmark.py."""
