"""Noise for benchmarks: a registry, and functions whose draws nest over severities and depend on no order."""
