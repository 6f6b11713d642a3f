"""Readers of published data sets: questions about images with their gold answers, and arrays with their labels."""
