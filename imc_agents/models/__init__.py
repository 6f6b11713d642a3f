"""Model backends: one protocol with two calls, ``generate`` and ``score``."""
