"""Image noise: functions on uint8 arrays, seeded for each image, with five severities as data."""

from imc_agents.noise.image.kinds import IMAGE_NOISES, apply_image_noise

__all__ = ["IMAGE_NOISES", "apply_image_noise"]
