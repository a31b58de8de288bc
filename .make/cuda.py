#!/usr/bin/env python3
"""Install the compiler of kernels/ into .build/cuda, the disassembler into .build/nvdisasm.

The compiler is NVRTC: a library that turns CUDA C++ into machine code, with no
host compiler and no CUDA toolkit. It travels in NVIDIA's Python packages; pip
downloads those that kernels/compiler.txt pins and compares their SHA-256.
Nothing of a package is installed, imported or run here: its libraries and headers
are copied out of the archive, and the folder is moved into place in one step.
What is there already, from the same pins, is left alone. With --disassembler
the same is done for nvdisasm, which kernels/disassembler.txt pins and a test runs.

Needs Python 3.8 and pip, on Linux on x86-64.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, ".build")

# Paths in the archives, and where they go below .build/cuda or .build/nvdisasm.
WANTED = [
    (re.compile(r"nvidia/cuda_nvrtc/(lib/libnvrtc(-builtins)?\.so\.[0-9.]+)"), "{}"),
    (re.compile(r"nvidia/cuda_(?:runtime|cccl|nvcc)/(include/.+)"), "{}"),
    (re.compile(r"nvidia/cu13/(bin/nvdisasm)"), "{}"),
    (re.compile(r"([^/]+\.dist-info/(?:licenses/)?[Ll]icense[^/]*)"), "licenses/{}"),
]


def destination(member):
    for pattern, place in WANTED:
        match = pattern.fullmatch(member)
        if match and ".." not in member:
            return place.format(match.group(1))
    return None


def install(name, folder, size):
    pins, target = os.path.join(ROOT, "kernels", name + ".txt"), os.path.join(BUILD, folder)
    with open(pins, "rb") as f:
        stamp = hashlib.sha256(f.read()).hexdigest() + "\n"
    stamp_file = os.path.join(target, "stamp")
    if os.path.isfile(stamp_file) and open(stamp_file).read() == stamp:
        return
    os.makedirs(BUILD, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="." + folder + "-", dir=BUILD) as scratch:
        print("cuda: fetching the %s (%s)" % (name, size), flush=True)
        archives = os.path.join(scratch, "archives")
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            + ["--require-hashes", "--requirement", pins, "--dest", archives],
            check=True,
            env=dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1"),
        )
        tree = os.path.join(scratch, "tree")
        for archive_name in sorted(os.listdir(archives)):
            with zipfile.ZipFile(os.path.join(archives, archive_name)) as archive:
                for member in archive.namelist():
                    place = destination(member)
                    if place is None or member.endswith("/"):
                        continue
                    path = os.path.join(tree, place)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with archive.open(member) as source, open(path, "wb") as out:
                        shutil.copyfileobj(source, out, 1 << 20)
                    if place.startswith("bin/"):
                        os.chmod(path, 0o755)
        with open(os.path.join(tree, "stamp"), "w") as f:
            f.write(stamp)
        if os.path.exists(target):
            os.rename(target, os.path.join(scratch, "old"))
        os.rename(tree, target)


def main():
    install("compiler", "cuda", "150 MB")
    if "--disassembler" in sys.argv[1:]:
        install("disassembler", "nvdisasm", "5 MB")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        raise SystemExit("cuda: pip ended with exit code %d; its own message is above" % e.returncode)
