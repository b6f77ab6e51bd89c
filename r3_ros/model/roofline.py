"""The most frames per second that devices could process, from counts and published figures.

Operations and bytes of a step are counted on networks without numbers; nothing is run. A device
takes at least the operations over its peak rate, and at least the bytes over its bandwidth (a
roofline). Real programs stay below both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from ..core.config import ModelConfig, PUBLISHED_IMAGE, StreamConfig
from .building import made_up_network
from .compute_floor import ComputeFloor, counted_flops
from .loading import DTYPES
from .multi_view import FrameFeatures, MultiViewNetwork
from .network import FrameCache, PairNetwork
from .r3_predictor import geometry_rule
from .variants import CameraOutput, VARIANTS

#: Of the camera, in pixels.
_SOURCE_SIZE = 640, 480
_TINY_SIZE = 112


@dataclass(frozen=True)
class Device:
    """A device with its published peak rates.

    :ivar precision: of the products, for which the rate is.
    :ivar flops_per_s: dense, with sums in float32.
    :ivar source: where the rates are from.
    """

    name: str
    precision: str
    flops_per_s: float
    bytes_per_s: float
    source: str


def _cpu(name: str, cores: int, ghz: float, flops_per_cycle: int, gb_per_s: float) -> Device:
    source = f'{cores} cores x {ghz:g} GHz x {flops_per_cycle} FLOP per cycle'
    return Device(name, 'fp32', 1e9 * cores * ghz * flops_per_cycle, 1e9 * gb_per_s, source)


#: A core with two units of FMA computes 16 (NEON, 128 bits), 32 (AVX2) or 64 (AVX-512) FLOP per
#: cycle in float32. GPUs: the makers' data sheets; with sparsity counted out, and of INT8 rates
#: without a rate of float16 the half.
DEVICES = (
    _cpu('Raspberry Pi 5', 4, 2.4, 16, 17.1),
    _cpu('laptop, 4 cores, AVX2', 4, 3.0, 32, 51.2),
    _cpu('desktop, 8 cores, AVX2', 8, 4.5, 32, 89.6),
    _cpu('server, 32 cores, AVX-512', 32, 2.5, 64, 307.2),
    Device('Jetson Orin Nano Super 8 GB', 'bf16', 16.8e12, 102e9, '67 TOPS sparse INT8 / 4'),
    Device('Jetson Orin NX 16 GB', 'bf16', 15e12, 102.4e9, '60 TOPS sparse INT8 (GPU) / 4'),
    Device('Jetson AGX Orin 64 GB', 'bf16', 42.5e12, 204.8e9, '170 TOPS sparse INT8 (GPU) / 4'),
    Device('RTX 4060', 'bf16', 30.2e12, 272e9, '242 TOPS sparse INT8 / 8'),
    Device('RTX 4090', 'bf16', 165.2e12, 1008e9, '165.2 TFLOPS FP16 with FP32 sums'),
    Device('H200', 'bf16', 989e12, 4800e9, '1,979 TFLOPS sparse BF16 / 2'),
)


@dataclass(frozen=True)
class StepCounts:
    """What one step of a network takes.

    :ivar width: of the network's input, in pixels; ``height`` likewise.
    :ivar context: frames that the new one is related to.
    :ivar flops: floating point operations.
    :ivar weight_bytes: size of the weights; ``entry_bytes``: of what is cached of one frame.
    """

    network: str
    width: int
    height: int
    context: int
    flops: int
    weight_bytes: int
    entry_bytes: int

    def floor(self, device: Device) -> ComputeFloor:
        """Return the least time on a device."""
        return ComputeFloor(
            self.flops,
            self.weight_bytes,
            self.context * self.entry_bytes,
            device.flops_per_s,
            device.bytes_per_s,
        )

    @cached_property
    def image_bytes(self) -> int:
        """Size of the image from which an entry is computed again."""
        return 3 * self.width * self.height


@torch.inference_mode()
def count_step(variant: str, precision: str, context: int, image_size: int) -> StepCounts:
    """Count one step of a network that relates a frame of a 640x480 camera to context frames.

    :param variant: of a network of R3's kind or of several views, a key of ``VARIANTS``.
    :param image_size: as ``model.image_size``.
    """
    with torch.device('meta') as device:
        network = made_up_network(VARIANTS[variant], DTYPES[precision], device)
    assert isinstance(network, PairNetwork | MultiViewNetwork)
    geometry = geometry_rule(network, image_size)(*_SOURCE_SIZE)
    image = torch.empty(1, 3, geometry.height, geometry.width, dtype=torch.uint8, device=device)
    entry: FrameCache | FrameFeatures
    if isinstance(network, PairNetwork):
        entry = network.predict(network.describe(image[None])).cache
        cached = FrameCache.join([entry] * context)
        with counted_flops() as counter:
            network.predict(network.describe(image[None]), cached)
    else:
        entry = network.encode(image)
        with counted_flops() as counter:
            network.relate(FrameFeatures.join([entry] * context + [network.encode(image)]))
    return StepCounts(
        variant,
        geometry.width,
        geometry.height,
        context,
        counter.get_total_flops(),
        sum(parameter.nbytes for parameter in network.parameters()),
        entry.nbytes,
    )


def usual_steps(precision: str) -> Iterator[StepCounts]:
    """Yield the counts of common networks as the default configuration runs them."""
    stream = StreamConfig()
    related = stream.recent_frames + stream.recent_keyframes + stream.retrieved_keyframes
    for variant in ('r3-tiny', 'da3-small', 'r3-small', 'r3-base', 'r3-large'):
        camera = VARIANTS[variant].camera
        views = camera is CameraOutput.ABSOLUTE
        size = _TINY_SIZE if camera is CameraOutput.MATCHES else PUBLISHED_IMAGE
        context = ModelConfig().context_frames if views else related
        yield count_step(variant, precision, context, size)


def roofline_lines() -> Iterator[str]:
    """Yield tables in Markdown: most frames per second by device, and what is counted."""
    steps = {precision: list(usual_steps(precision)) for precision in ('fp32', 'bf16')}
    names = [step.network for step in steps['bf16']]
    yield 'At most so many frames/s, by counts and published peak rates; nothing was measured.'
    yield '(b): limited by bandwidth, otherwise by operations.'
    yield ''
    yield from _row('device', 'precision', 'TFLOP/s', 'GB/s', *names, 'peak rate from')
    yield from _row(*['---'] * (5 + len(names)))
    for device in DEVICES:
        floors = [step.floor(device) for step in steps[device.precision]]
        yield from _row(
            device.name,
            device.precision,
            f'{device.flops_per_s / 1e12:.3g}',
            f'{device.bytes_per_s / 1e9:.4g}',
            *(
                f'{_rounded(1e3 / f.floor_ms)}{" (b)" if f.memory_ms > f.compute_ms else ""}'
                for f in floors
            ),
            device.source,
        )
    yield ''
    yield 'One step, for a camera of 640x480; bytes in bf16:'
    yield ''
    yield from _row(
        *('network', 'input', 'context frames', 'GFLOP', 'weights (MB)'),
        *('cached per frame (MiB)', 'image per frame (MiB)'),
    )
    yield from _row(*['---'] * 7)
    for step in steps['bf16']:
        yield from _row(
            step.network,
            f'{step.width}x{step.height}',
            str(step.context),
            _rounded(step.flops / 1e9),
            f'{step.weight_bytes / 1e6:.0f}',
            f'{step.entry_bytes / 2**20:.2f}',
            f'{step.image_bytes / 2**20:.2f}',
        )


def _row(*cells: str) -> Iterator[str]:
    yield f'| {" | ".join(cells)} |'


def _rounded(number: float) -> str:
    return f'{number:,.0f}' if number >= 20 else f'{number:.2g}'
