"""Tests of the vision encoders and of visual calibration."""
