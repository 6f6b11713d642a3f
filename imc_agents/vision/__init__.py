"""The visual half: encoders, which noise an image has, and the calibration of its features."""
