"""Training-free calibration of noisy text and images for medical multimodal LLMs (IMC, arXiv 2512.21964)."""

__version__ = "0.1.0"
