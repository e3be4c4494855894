"""Where every array lives: the device mesh, and one table from parameter paths to shardings.

The paper trains a 2.76B model on 64 TPU v4 (section 4); it leaves the layout open. Here it is a table of (path regex,
spec), read top-down, the first match wins. The same table serves parameters, EMA, optimizer state and T5, since the
path of an optimizer moment contains the path of its parameter. A laptop is a mesh of one device.
"""

import functools
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# A spec is a tuple, aligned to the LAST axes of the array (a convolution kernel is [3, 3, in, out]), or one mesh axis,
# which goes to the largest axis of the array that it divides. () replicates.
Entry = str | Sequence[str] | None
Spec = str | Sequence[Entry]
Table = Sequence[tuple[str, Spec]]

DEFAULT_TABLE: Table = (
    (r"/(query|key|value|wi_\d)/kernel$", ("fsdp", "tensor")),
    (r"/(out|wo)/kernel$", ("tensor", "fsdp")),
    (r"(kernel|embedding)$", "fsdp"),
    (r".*", ()),  # norms, biases and counters are small
)

_log = logging.getLogger(__name__)


class PartitionError(ValueError):
    """The devices, the mesh, the table or the batch size do not fit together."""


def make_mesh(mesh_config: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes `data` (replicas), `fsdp` (batch and weights) and `tensor` (weights).

    Args:
      mesh_config: axis name -> size; a missing axis is 1, one axis may be -1: all remaining devices.
      devices: all of `jax.devices()` by default.

    Raises:
      PartitionError: an unknown axis, or sizes that do not use the devices exactly.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(mesh_config, len(devices))
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def axis_sizes(config: Mapping[str, int], devices: int) -> tuple[int, ...]:
    """The size of each of AXES for that many devices; see `make_mesh`."""
    shown = "mesh " + " ".join(f"{axis}={size}" for axis, size in config.items())
    if unknown := set(config) - set(AXES):
        raise PartitionError(f"{shown}: unknown axis {sorted(unknown)[0]!r}; the axes are {', '.join(AXES)}")
    sizes = [config.get(axis, 1) for axis in AXES]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise PartitionError(f"{shown}: every size must be positive, and at most one may be -1 (all remaining devices)")
    fixed = math.prod(size for size in sizes if size != -1)
    if devices % fixed or (-1 not in sizes and fixed != devices):
        raise PartitionError(f"{shown}: the sizes must multiply to the {devices} devices; set one to -1")
    return tuple(devices // fixed if size == -1 else size for size in sizes)


def shardings(tree: Any, mesh: Mesh, table: Table = DEFAULT_TABLE) -> Any:
    """The NamedSharding of every leaf of `tree` (arrays or ShapeDtypeStructs), by the first matching row of `table`.

    A mesh axis that does not divide its array axis is dropped, and one log line says how many leaves this concerns.

    Raises:
      PartitionError: a leaf that no row matches, or a spec naming an axis that the mesh lacks.
    """
    dropped = []

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        wanted = _lookup(name, table)
        spec = _fit(wanted, leaf.shape, mesh, name)
        if leaf.size > 1 and len(_named(spec)) < min(len(_named(wanted)), leaf.ndim):
            dropped.append(f"{name} {list(leaf.shape)}")
        return NamedSharding(mesh, PartitionSpec(*spec))

    placed = jax.tree_util.tree_map_with_path(place, tree)
    if dropped:
        _log_once(f"partition: {len(dropped)} leaves have no axis to divide as the table says, e.g. {dropped[0]}")
    return placed


def _lookup(path: str, table: Table) -> Spec:
    for pattern, spec in table:
        if re.search(pattern, path):
            return spec
    raise PartitionError(f"sharding table: no row matches {path}; end the table with ('.*', ())")


def _fit(spec: Spec, shape: tuple[int, ...], mesh: Mesh, path: str) -> tuple:
    """`spec` aligned to `shape`, without the entries that do not divide."""
    if unknown := _named(spec) - set(mesh.axis_names):
        raise PartitionError(f"sharding table: {path}: unknown axis {min(unknown)!r}; the axes are {', '.join(AXES)}")
    if isinstance(spec, str):
        return _largest_axis(spec, shape, mesh)
    aligned = (None,) * (len(shape) - len(spec)) + tuple(spec)[max(0, len(spec) - len(shape)) :]
    return tuple(_names(e) if _divides(e, size, mesh) else None for e, size in zip(aligned, shape, strict=True))


def _largest_axis(name: str, shape: tuple[int, ...], mesh: Mesh) -> tuple:
    divisible = [(size, axis) for axis, size in enumerate(shape) if _divides(name, size, mesh)]
    _, chosen = max(divisible, default=(0, None))
    return tuple(name if axis == chosen else None for axis in range(len(shape)))


def _divides(entry: Entry, size: int, mesh: Mesh) -> bool:
    return size % math.prod(mesh.shape[name] for name in _names(entry)) == 0


def _names(entry: Entry) -> tuple[str, ...]:
    """The mesh axes that split one array axis."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _named(spec: Spec) -> set[str]:
    """The mesh axes that a whole spec uses."""
    return {name for entry in ((spec,) if isinstance(spec, str) else spec) for name in _names(entry)}


@functools.cache
def _log_once(message: str) -> None:
    _log.warning(message)


def make_array(shape: Sequence[int], sharding: jax.sharding.Sharding, read: Callable) -> jax.Array:
    """An array that is read from somewhere: `read(index)` gives the part at a tuple of slices.

    One part after the other, so that the host holds one at a time beside what the devices have.
    """
    parts = [
        jax.block_until_ready(jax.device_put(read(index), device))
        for device, index in sharding.addressable_devices_indices_map(tuple(shape)).items()
    ]
    return jax.make_array_from_single_device_arrays(tuple(shape), sharding, parts)


def constrain(tree: Any, mesh: Mesh, table: Table = DEFAULT_TABLE) -> Any:
    """`tree`, inside a jitted function, held to its `shardings`: where it is needed whole, this is what is sent."""
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings(tree, mesh, table))


def on(mesh: Mesh | AbstractMesh):
    """A context to trace a program in: `split_batch` then holds its activations to this mesh."""
    return jax.sharding.use_abstract_mesh(mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh)


def split_batch(x: jax.Array) -> jax.Array:
    """x [B, ...], an activation, held to its batch axis; outside of `on`, or where B does not divide, as it is.

    The compiler is free to split activations as the weights are, and in loops it does: every layer then exchanges
    pictures, which are many times larger than the weights that it should gather.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % batch_ways(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that the arrays of `tree` live on; None where they were not placed on one."""
    return getattr(jax.tree.leaves(tree)[0].sharding, "mesh", None)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """[B, ...] split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_ways(mesh: Mesh) -> int:
    """The number of parts that `batch_sharding` splits a batch into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


@functools.cache
def batch_part(mesh: Mesh) -> tuple[int, int]:
    """(index, count): of how many equal parts of a batch this process's devices hold which one, so which it reads.

    Processes that hold the same examples, as on a tensor axis that spans several, read the same part. On a torus the
    devices of a host need not follow each other in the mesh: then the parts are the same examples in another order.

    Raises:
      PartitionError: the processes hold parts that differ in size, or overlap.
    """
    ways = batch_ways(mesh)
    held: dict[int, set[int]] = {}
    for device, (rows,) in batch_sharding(mesh).devices_indices_map((ways,)).items():
        held.setdefault(device.process_index, set()).add(rows.indices(ways)[0])
    parts = sorted({tuple(sorted(rows)) for rows in held.values()})
    if len(set(map(len, parts))) > 1 or sum(map(len, parts)) > ways:
        raise PartitionError("mesh: its processes hold uneven parts of a batch; choose axes that divide their devices")
    return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's part of a batch (numpy leaves [B, ...]) -> global device arrays, split by `batch_sharding`.

    Raises:
      PartitionError: the global batch does not divide over the data and fsdp axes.
    """
    ways = batch_ways(mesh)
    sharding = batch_sharding(mesh)
    _, parts = batch_part(mesh)

    def place(leaf: np.ndarray) -> jax.Array:
        total = len(leaf) * parts
        if total % ways:
            raise PartitionError(
                f"a batch of {total} does not divide over data*fsdp = {ways} devices; choose a multiple of {ways}"
            )
        return jax.make_array_from_process_local_data(sharding, leaf, (total, *leaf.shape[1:]))

    return jax.tree.map(place, batch)
