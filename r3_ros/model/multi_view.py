"""Networks that relate several views of a scene in one pass: images to depth and cameras.

What :class:`~.multi_view_predictor.MultiViewPredictor` and offline mode need of such a network. A
pass has two steps: every image alone, whose result is cached, then all of them together. S is the
number of frames; H and W are the sides of their prepared images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn, Tensor

from ..core.errors import FrameError
from ..core.resize_geometry import Geometry


@dataclass(frozen=True)
class FrameFeatures:
    """S frames after the layers that see one frame alone.

    An entry of :class:`~.cache.frame_memory.FrameMemory`, which the network alone reads.

    :ivar tensors: (S, ...) each.
    :ivar descriptor: (S, C) of the appearance, of any length: similar views, similar direction.
    :ivar rows: patches in a column of the image; ``columns``: in a row.
    """

    tensors: tuple[Tensor, ...]
    descriptor: Tensor
    rows: int
    columns: int

    @property
    def frames(self) -> int:
        """S, number of frames."""
        return len(self.descriptor)

    @property
    def device(self) -> torch.device:
        return self.descriptor.device

    @property
    def nbytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.nbytes for tensor in self.parts)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return *self.tensors, self.descriptor

    @property
    def frame_dimensions(self) -> tuple[int, ...]:
        """The dimension of the frames in each part."""
        return (0,) * len(self.parts)

    def with_parts(self, parts: Sequence[Tensor]) -> FrameFeatures:
        """Return the features of other frames of this image size, in the memory of these parts."""
        *tensors, descriptor = parts
        return FrameFeatures(tuple(tensors), descriptor, self.rows, self.columns)

    def check_size(self, held: FrameFeatures) -> None:
        """Check that held frames have images of the same size.

        :raises FrameError: they have not.
        """
        if (self.rows, self.columns) != (held.rows, held.columns):
            raise FrameError(
                f'the image has {self.columns}x{self.rows} patches when resized for the network, '
                f'and held ones have {held.columns}x{held.rows}: the shape of the images and '
                'model.image_size must not change'
            )

    @staticmethod
    def join(parts: Sequence[FrameFeatures]) -> FrameFeatures:
        """Return the frames of several parts of one image size, one after another."""
        return FrameFeatures(
            tuple(torch.cat(t) for t in zip(*(part.tensors for part in parts), strict=True)),
            torch.cat([part.descriptor for part in parts]),
            parts[0].rows,
            parts[0].columns,
        )


@dataclass(frozen=True)
class Views:
    """The result of one pass over S frames, float32 on the network's device.

    All lengths are in one unit, the pass's own; so is the world of the poses.

    :ivar T_world_camera: (S, 4, 4) camera to world, optical axes; NaN where it has none.
    :ivar fov: (S, 2) field of view of the prepared image in radians, vertical then horizontal.
    :ivar depth: (S, H, W), z along the optical axis.
    :ivar confidence: (S, H, W) of the depth, >= 1.
    """

    T_world_camera: Tensor
    fov: Tensor
    depth: Tensor
    confidence: Tensor


class MultiViewNetwork(nn.Module, ABC):
    """A network that predicts depth and cameras of all frames of a pass.

    :ivar image_size: long side of an image in pixels as trained, where ``model.image_size`` is 0.
    :ivar descriptor_size: C, length of a descriptor.
    """

    image_size: int
    descriptor_size: int

    @abstractmethod
    def geometry(self, width: int, height: int, image_size: int) -> Geometry:
        """Return how images of a size are prepared, by resizing and cropping.

        :param image_size: ``model.image_size``, or :attr:`image_size`.
        :raises FrameError: too small or too elongated.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> FrameFeatures:
        """Run the layers that see one frame alone.

        :param images: (S, 3, H, W) uint8 RGB, prepared, on the network's device.
        """

    @abstractmethod
    def relate(self, features: FrameFeatures) -> Views:
        """Run the other layers on all frames together, at least one; the first is the reference.

        The result of a frame does not depend on how the frames were split over :meth:`encode`.
        """

    @abstractmethod
    def pass_bytes(self, width: int, height: int, frames: int, depth: bool = True) -> int:
        """Return an upper bound of the peak memory of a pass, without the weights.

        Linear in the number of frames, which may be 0.

        :param width: of the prepared images, in pixels; ``height`` likewise.
        :param depth: always True for these networks.
        """
