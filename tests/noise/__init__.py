"""Tests of the noise functions."""
