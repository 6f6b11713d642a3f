"""Runs: the folder a batch keeps its results in, the batch runner, resume and export."""
