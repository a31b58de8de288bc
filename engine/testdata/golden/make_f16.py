"""A GGUF file with every quantized matrix dequantized to F16 by the gguf package, and the sums of its tensors.

    python make_f16.py --models ../../../models --f16 qwen-f16.gguf --out .
"""

import argparse
import hashlib
import json
import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T, GGUFReader, GGUFValueType, GGUFWriter, quants

FILE = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"


def convert(source, target):
    """Copies all metadata but general.file_type (1: mostly F16) and all tensors in order; F32 ones stay as they are."""
    reader = GGUFReader(source)
    w = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = 1 if key == "general.file_type" else field.contents()
        kind, sub = field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        w.add_key_value(key, value, kind, sub)
    sums = []
    for t in reader.tensors:
        data = np.asarray(t.data)
        if t.tensor_type != T.F32:
            data = quants.dequantize(data, t.tensor_type).astype(np.float16)
        w.add_tensor(t.name, data)
        sums.append({"name": t.name, "dims": [int(d) for d in t.shape], "type": {2: "F16", 4: "F32"}[data.itemsize],
                     "sha256": hashlib.sha256(data.tobytes()).hexdigest()})
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return sums


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--models", default="../../../models")
    args.add_argument("--f16", default="qwen-f16.gguf", help="the converted file (1.3 GB)")
    args.add_argument("--out", default=".")
    args = args.parse_args()
    sums = convert(os.path.join(args.models, FILE), args.f16)
    with open(os.path.join(args.out, "f16-qwen2.json"), "w") as f:
        json.dump({"file": FILE, "engine": "gguf 0.19.0, numpy " + np.__version__, "tensors": sums}, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
