"""Servers of `imc serve`."""
