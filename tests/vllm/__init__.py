"""Tests on real vLLM servers with the default model; one server serves all test processes."""
