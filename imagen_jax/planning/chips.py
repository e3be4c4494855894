"""The machines that a plan can be made for: what one device computes, holds and moves.

Peaks are the makers' own figures for dense bfloat16: Google Cloud's "TPU architecture" pages, one a generation, and
NVIDIA's H200 datasheet (its 1,979 TFLOP/s count sparsity twice). No program reaches them; see `plan.utilization`.
"""

import dataclasses
import math
import re

GIB = 2**30


class PlanError(ValueError):
    """A target or a setting that no plan can be made for."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator; `devices` is the number of JAX devices that it shows as, which share what it has."""

    flops: float  # bfloat16, a second
    usable: float  # GiB a device that XLA can give to a program
    hbm_bandwidth: float  # bytes a second
    link_bandwidth: float  # bytes a second that one chip can receive from the others
    devices: int = 1
    axes: int = 0  # of the torus that a slice is made of; 0: chips of one node, given by their number


# A v5e program may use 15.75 GiB and a v6e one 31.25, as XLA's own errors say; elsewhere a quarter GiB is left to it. A
# link's published rate counts both directions, and half of it is what a chip receives.
CHIPS = {
    "v4": Chip(275e12, 15.75, 1228e9, 150e9, devices=2, axes=3),  # 2,400 Gbit/s of links
    "v5e": Chip(197e12, 15.75, 819e9, 100e9, axes=2),  # 1,600 Gbit/s
    "v5p": Chip(459e12, 94.75, 2765e9, 300e9, axes=3),  # 4,800 Gbit/s
    "v6e": Chip(918e12, 31.25, 1640e9, 224e9, axes=2),  # 3,584 Gbit/s
    "h200": Chip(989e12, 138.0, 4800e9, 450e9),  # 2 GiB left to cuDNN and CUDA; NVLink 900 GB/s
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A number of chips of one kind, such as v5e:8x8."""

    name: str
    chip: Chip
    chips: int

    @property
    def devices(self) -> int:
        """What jax.devices() would count there."""
        return self.chips * self.chip.devices


def parse(name: str) -> Target:
    """'v5e:8x8' or 'h200:8' -> Target.

    Raises:
      PlanError: an unknown chip, or a shape that its slices do not have.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise PlanError(f"config.plan.target={name!r}: unknown chip; use one of {', '.join(CHIPS)}, such as v5e:8x8")
    chip = CHIPS[kind]
    wanted = r"[1-8]" if not chip.axes else "x".join([r"[1-9]\d*"] * chip.axes)
    if not re.fullmatch(wanted, shape):
        form = f"{kind}:1 to {kind}:8" if not chip.axes else f"{kind}:" + "x".join(["4"] * chip.axes)
        raise PlanError(f"config.plan.target={name!r}: give the number or the shape of the chips, {form}")
    return Target(name, chip, math.prod(int(side) for side in shape.split("x")))
