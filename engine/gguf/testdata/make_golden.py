"""Writes the GGUF files beside it with the format's own Python package.

    python3 -m venv .venv && .venv/bin/pip install gguf==0.19.0
    .venv/bin/python make_golden.py

The expected contents are in ../golden_test.go, which states the same values.
"""

import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType, GGUFEndian, GGUFValueType, GGUFWriter, quants

HERE = pathlib.Path(__file__).parent
SCALARS = [
    ("uint8", GGUFValueType.UINT8, 255),
    ("int8", GGUFValueType.INT8, -128),
    ("uint16", GGUFValueType.UINT16, 65535),
    ("int16", GGUFValueType.INT16, -32768),
    ("uint32", GGUFValueType.UINT32, 4294967295),
    ("int32", GGUFValueType.INT32, -2147483648),
    ("float32", GGUFValueType.FLOAT32, 0.1),
    ("bool", GGUFValueType.BOOL, True),
    ("string", GGUFValueType.STRING, "春の水\n"),
    ("uint64", GGUFValueType.UINT64, 18446744073709551615),
    ("int64", GGUFValueType.INT64, -9223372036854775808),
    ("float64", GGUFValueType.FLOAT64, 0.1),
]
ARRAYS = [
    ("uint8", GGUFValueType.UINT8, [0, 255]),
    ("int8", GGUFValueType.INT8, [-128, 127]),
    ("uint16", GGUFValueType.UINT16, [0, 65535]),
    ("int16", GGUFValueType.INT16, [-32768, 32767]),
    ("uint32", GGUFValueType.UINT32, [0, 4294967295]),
    ("int32", GGUFValueType.INT32, [-2147483648, 2147483647]),
    ("float32", GGUFValueType.FLOAT32, [0.1, -1e30]),
    ("bool", GGUFValueType.BOOL, [True, False, True]),
    ("string", GGUFValueType.STRING, ["", "a", "蛙", "\U0001f338"]),
    ("uint64", GGUFValueType.UINT64, [0, 18446744073709551615]),
    ("int64", GGUFValueType.INT64, [-9223372036854775808, 9223372036854775807]),
    ("float64", GGUFValueType.FLOAT64, [0.1, -1e300]),
]


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def values():
    w = GGUFWriter(HERE / "values.gguf", "llama")
    w.add_custom_alignment(64)
    for name, kind, value in SCALARS:
        w.add_key_value("scalar." + name, value, kind)
    for name, kind, value in ARRAYS:
        w.add_key_value("array." + name, value, GGUFValueType.ARRAY, kind)
    w.add_tensor("vector", np.array([1, -2, 0.5], dtype=np.float32))
    w.add_tensor("matrix", np.arange(6, dtype=np.float16).reshape(2, 3))
    q8 = quants.quantize(np.arange(2 * 64, dtype=np.float32).reshape(2, 64), GGMLQuantizationType.Q8_0)
    w.add_tensor("quantized", q8, raw_dtype=GGMLQuantizationType.Q8_0)
    w.add_tensor("cube", np.arange(24, dtype=np.float32).reshape(4, 3, 2))
    finish(w)


def big_endian():
    w = GGUFWriter(HERE / "big-endian.gguf", "llama", endianess=GGUFEndian.BIG)
    w.add_tensor("vector", np.array([1, -2, 0.5], dtype=np.float32))
    finish(w)


def nested():
    w = GGUFWriter(HERE / "nested.gguf", "llama")
    w.add_key_value("nested", [[1, 2], [3, 4]], GGUFValueType.ARRAY)
    finish(w)


def version2():
    """Versions 2 and 3 differ in the number only: 3 also allows big-endian."""
    data = bytearray((HERE / "values.gguf").read_bytes())
    data[4:8] = struct.pack("<I", 2)
    (HERE / "version2.gguf").write_bytes(data)


values()
version2()
big_endian()
nested()
