"""Benchmarks: what refinement gains and costs, beside its baselines in one run."""
