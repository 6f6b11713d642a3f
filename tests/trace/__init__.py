"""Tests of the events and their views."""
