"""Encoders by the spec that users type."""

from __future__ import annotations

from imc_agents.errors import ConfigError
from imc_agents.openmp import wait_passively
from imc_agents.vision.encoders.protocol import DTYPES, Encoder

__all__ = ["check_device", "load_encoder"]


def load_encoder(spec: str, *, device: str = "cpu", dtype: str = "auto") -> Encoder:
    """Load the encoder that a spec names.

    Args:
        spec: ``mllm:CHECKPOINT`` for the vision tower and projector of a multimodal model, or
            ``open_clip:NAME[:PRETRAINED or PATH]`` for a CLIP model.
        device: Where it runs.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for that of the checkpoint.

    Raises:
        ConfigError: no such encoder, or it cannot be used.
        BackendUnreachableError: a hub does not give it, or there is no such device.
    """
    kind, colon, name = spec.partition(":")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not known; take one of {', '.join(DTYPES)}")
    if not colon or not name or kind not in ("mllm", "open_clip"):
        raise ConfigError(
            f"encoder {spec!r}: write it as mllm:CHECKPOINT or open_clip:NAME[:PRETRAINED or PATH]"
        )
    wait_passively()
    check_device(device)
    if kind == "mllm":
        from imc_agents.vision.encoders.mllm import load as load_mllm

        return load_mllm(name, device=device, dtype=dtype)
    from imc_agents.vision.encoders.open_clip import load as load_open_clip

    return load_open_clip(name, device=device, dtype=dtype)


def check_device(device: str) -> None:
    """Check that a device is there.

    Raises:
        ConfigError: it is not.
    """
    import torch

    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is not known; take cpu, cuda or cuda:N") from error
    if wanted.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not for encoders; take cpu, cuda or cuda:N")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device!r} is not there; {torch.cuda.device_count()} GPUs are seen")
