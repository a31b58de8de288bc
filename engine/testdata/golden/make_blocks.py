"""Golden blocks for engine/quant: raw blocks of every format and what gguf's numpy code makes of them.

    python make_blocks.py --out ../../quant/testdata/blocks.gguf
"""

import argparse

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, GGUFWriter, quants

# Byte offsets of the float16 scales inside a block.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}
EXTREME = np.array([0.0, -0.0, 2**-24, -(2**-24), 1023 * 2**-24, 2**-14, 65504.0, -65504.0, 1.0, -1.0], np.float16)


def blocks_of(kind, rng, rows, per_row):
    """Random bytes with sane scales; the first blocks walk through the extreme scales and plain bit patterns."""
    size, nbytes = GGML_QUANT_SIZES[kind]
    count = rows * per_row
    raw = rng.integers(0, 256, (count, nbytes), dtype=np.uint8)
    patterns = [np.full(nbytes, v, np.uint8) for v in (0x00, 0xFF, 0x0F, 0xF0, 0x55, 0xAA)]
    patterns += [np.arange(nbytes, dtype=np.uint8), np.arange(nbytes, dtype=np.uint8)[::-1] * 7 + 3]
    raw[: len(patterns)] = patterns
    for slot, at in enumerate(SCALES[kind]):
        scale = (rng.standard_normal(count) * 0.02).astype(np.float16)
        first = len(patterns)
        scale[first : first + len(EXTREME)] = np.roll(EXTREME, 3 * slot)
        raw[:, at : at + 2] = scale.view(np.uint8).reshape(count, 2)
    return raw.reshape(rows, per_row * nbytes)


def half_values(rng):
    """Every exponent, sign and a spread of mantissas; infinities, but no NaN (hardware may quiet it)."""
    bits = np.concatenate([np.arange(0, 1 << 16, 37), [0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00]])
    bits = bits.astype(np.uint16)
    bits = bits[((bits & 0x7C00) != 0x7C00) | ((bits & 0x3FF) == 0)]
    return rng.permutation(bits)[:1600].reshape(2, 800).view(np.float16)


def brain_values(rng):
    """Bit patterns of bfloat16, NaN left out as above."""
    bits = rng.integers(0, 1 << 16, 1800).astype(np.uint16)
    bits = bits[((bits & 0x7F80) != 0x7F80) | ((bits & 0x7F) == 0)]
    bits[:8] = [0, 0x8000, 1, 0x8001, 0x7F80, 0xFF80, 0x7F7F, 0x0080]
    return bits[:1600].reshape(2, 800)


def float_rows(rng):
    """16 rows of 128 floats: normal ones at many scales, ties between rounding steps, zeros, constants, single spikes."""
    rows = rng.standard_normal((16, 128)) * 10.0 ** rng.integers(-6, 4, (16, 1))
    rows[0] = 0
    rows[1] = -0.25
    rows[2] = np.arange(128) - 64
    rows[3] = (np.arange(128) - 64) / 2
    rows[4] = 1e-30 * rng.standard_normal(128)
    rows[5] = 0
    rows[5, ::32] = [1, -1, 1e-8, -1e4]
    rows[6] = np.where(np.arange(128) % 2, 3.5, -3.5)
    return rows.astype(np.float32)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--out", default="../../quant/testdata/blocks.gguf")
    out = args.parse_args().out
    rng = np.random.default_rng(20261123)
    w = GGUFWriter(out, "kigo-golden")
    w.add_tensor("F16.blocks", (f16 := half_values(rng)))
    w.add_tensor("F16.float32", quants.dequantize(f16.view(np.uint8), T.F16))
    bf16 = brain_values(rng).view(np.uint8)
    w.add_tensor("BF16.blocks", bf16, raw_dtype=T.BF16)
    w.add_tensor("BF16.float32", quants.dequantize(bf16, T.BF16))
    for kind in SCALES:
        big = GGML_QUANT_SIZES[kind][0] == 256
        raw = blocks_of(kind, rng, rows=4, per_row=8 if big else 16)
        w.add_tensor(f"{kind.name}.blocks", raw, raw_dtype=kind)
        w.add_tensor(f"{kind.name}.float32", quants.dequantize(raw, kind))
    rows = float_rows(rng)
    w.add_tensor("quantize.input", rows)
    for kind in (T.Q8_0, T.Q4_0):
        w.add_tensor(f"quantize.{kind.name}", quants.quantize(rows, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
