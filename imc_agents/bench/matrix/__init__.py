"""The robustness benchmark: what its file says, what is laid out, carried out and stored."""
