"""Readers and writers of question files: a row in, the same row with its refinement out."""
