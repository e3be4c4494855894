"""Writes small ONNX networks byte by byte, so that tests need neither the onnx package nor a file from elsewhere.

The fields are those of onnx.proto (ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, ValueInfoProto).
"""

import numpy as np

Node = tuple[str, list[str], list[str], dict[str, int | list[int]]]  # operator, inputs, outputs, attributes
FLOAT, INT, INTS = 1, 2, 7  # of TensorProto, and of AttributeProto


def model(
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    nodes: list[Node],
    constants: dict[str, np.ndarray] | None = None,
) -> bytes:
    """A float32 network; a size given as a word is a dynamic one."""
    graph = b"".join(_message(1, _node(*node)) for node in nodes) + _text(2, "test")
    graph += b"".join(_message(5, _tensor(name, array)) for name, array in (constants or {}).items())
    graph += b"".join(_message(11, _value(name, shape)) for name, shape in inputs.items())
    graph += b"".join(_message(12, _value(name, shape)) for name, shape in outputs.items())
    return _number(1, 8) + _message(7, graph) + _message(8, _text(1, "") + _number(2, 13))


def _node(operator: str, inputs: list[str], outputs: list[str], attributes: dict[str, int | list[int]]) -> bytes:
    fields = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, name) for name in outputs)
    return fields + _text(4, operator) + b"".join(_message(5, _attribute(*item)) for item in attributes.items())


def _attribute(name: str, value: int | list[int]) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, INT)
    return _text(1, name) + b"".join(_number(8, item) for item in value) + _number(20, INTS)


def _tensor(name: str, array: np.ndarray) -> bytes:
    sizes = b"".join(_number(1, size) for size in array.shape)
    return sizes + _number(2, FLOAT) + _text(8, name) + _message(9, array.astype("<f4").tobytes())


def _value(name: str, shape: list[int | str]) -> bytes:
    sizes = [_text(2, size) if isinstance(size, str) else _number(1, size) for size in shape]
    tensor = _number(1, FLOAT) + _message(2, b"".join(_message(1, size) for size in sizes))
    return _text(1, name) + _message(2, _message(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value % 2**64)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes((*digits, value))
