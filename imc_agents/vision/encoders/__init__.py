"""The vision encoders of CLIP models and of MLLM checkpoints, behind one protocol."""
