"""Tests of the run store, the batch runner and resume."""
