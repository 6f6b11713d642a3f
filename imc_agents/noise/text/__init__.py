"""Text noise: eight kinds, five severities each, that leave the answer true."""

from imc_agents.noise.text.core import Noised, Slip
from imc_agents.noise.text.kinds import TEXT_NOISES, apply_text_noise

__all__ = ["TEXT_NOISES", "Noised", "Slip", "apply_text_noise"]
