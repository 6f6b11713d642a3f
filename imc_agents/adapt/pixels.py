"""Images as an encoder takes them, read ahead in threads, and kept in memory as far as that is allowed."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from imc_agents.adapt.labelled import LabelledImages
from imc_agents.noise.pool import usable_cores
from imc_agents.vision.encoders.open_clip_models import Created
from imc_agents.vision.variants import at_encoder_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Pixels", "ahead"]

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A", "NDArray[np.uint8]", "Tensor")

_AHEAD = 2
_KEPT_BYTES = 2**30


class Pixels:
    """The images of a set at the size and in the form that an encoder takes.

    Each is read once, and preprocessed once where it is not altered, as far as that fits in ``keep`` bytes.

    Args:
        images: The set.
        created: The model whose preprocessing is used.
        keep: Bytes that may be held.
    """

    def __init__(self, images: LabelledImages, created: Created, keep: int = _KEPT_BYTES) -> None:
        self._images = images
        self._created = created
        self._room = keep
        self._arrays: dict[int, NDArray[np.uint8]] = {}
        self._inputs: dict[int, Tensor] = {}

    def array(self, index: int) -> NDArray[np.uint8]:
        """One image with its shorter side as the encoder takes it, uint8 [H, W, 3]; safe in several threads."""
        import numpy as np

        kept = self._arrays.get(index)
        if kept is not None:
            return kept
        array = np.asarray(at_encoder_size(self._images.load(index), self._created.image_size))
        return self._keep(self._arrays, index, array)

    def input(self, index: int) -> Tensor:
        """One image preprocessed, (3, height, width) float32; safe in several threads."""
        kept = self._inputs.get(index)
        if kept is not None:
            return kept
        image = at_encoder_size(self._images.load(index), self._created.image_size)
        return self._keep(self._inputs, index, self._created.transform(image))

    def _keep(self, kept: dict[int, A], index: int, value: A) -> A:
        if self._room >= value.nbytes:
            self._room -= value.nbytes
            kept[index] = value
        return value

    def batches(
        self,
        chosen: Sequence[list[int]],
        alter: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]] | None = None,
    ) -> Generator[tuple[list[int], Tensor]]:
        """Yield batches (images, 3, height, width) float32 with their indices, the next ones being read meanwhile.

        Args:
            chosen: Indices of each batch.
            alter: What is done to each image, given its index, before it is preprocessed.
        """
        import torch
        from PIL import Image

        def one(index: int) -> Tensor:
            if alter is None:
                return self.input(index)
            return self._created.transform(Image.fromarray(alter(self.array(index), index)))

        def load(batch: list[int]) -> tuple[list[int], Tensor]:
            return batch, torch.stack([one(index) for index in batch])

        # What is there already is only put together; threads for that would take the cores from the encoder.
        ready = alter is None and all(index in self._inputs for batch in chosen for index in batch)
        yield from map(load, chosen) if ready else ahead(load, chosen)


def ahead(function: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
    """Yield the function's results in order, computed in threads while the last ones are used."""
    workers = usable_cores()
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Any]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= workers + _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
