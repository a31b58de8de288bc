#!/bin/sh
# Builds gpu-bundle/: what a GPU host without Go, git or this repository needs to
# test Kigo there. Two files: gpu-test.sh, and everything else in bundle.tar.xz,
# because test binaries are much alike: together they take a sixth of their size.
#
# In the archive the repository's folders hold its test binaries, without symbols
# and without cgo, and the golden files; and kigo. Models are not in it.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
PYTHON=${PYTHON:-python3}
most=$((60 * 1024 * 1024))

# Those whose tests use a GPU.
packages="engine/device/cuda engine/device/cuda/driver engine/device/devices engine/model engine/verify engine/perplexity engine server server/cli"

rm -rf gpu-bundle
mkdir -p gpu-bundle
root=$(mktemp -d)
chmod 755 "$root"
trap 'rm -rf "$root"' EXIT

for p in $packages; do
	mkdir -p "$root/$p"
	CGO_ENABLED=0 $GO test -c -trimpath -ldflags '-s -w' -o "$root/$p/$(basename "$p").test" "./$p"
done
git ls-files -- ':(glob)engine/testdata/**' ':(glob)engine/quant/testdata/**' ':(glob)server/**/testdata/**' |
	grep -v '\.py$' | while read -r f; do
	mkdir -p "$root/$(dirname "$f")"
	cp "$f" "$root/$f"
done
cp kigo "$root/kigo"
git describe --tags --always --dirty >"$root/VERSION" 2>/dev/null || echo unknown >"$root/VERSION"

# One dictionary over all of it, so that what is in several is stored once.
$PYTHON - "$root" gpu-bundle/bundle.tar.xz <<'END'
import lzma, sys, tarfile
filters = [{"id": lzma.FILTER_LZMA2, "preset": 3, "dict_size": 192 << 20}]
with lzma.open(sys.argv[2], "wb", filters=filters) as out, tarfile.open(fileobj=out, mode="w") as tar:
    tar.add(sys.argv[1], arcname=".")
END
cp .make/gpu-test.sh gpu-bundle/gpu-test.sh
chmod 755 gpu-bundle/gpu-test.sh

size=$(cat gpu-bundle/* | wc -c)
echo "gpu-bundle/: $((size / 1024 / 1024)) MiB; copy it to a GPU host and run gpu-bundle/gpu-test.sh there"
if [ "$size" -gt "$most" ]; then
	echo "gpu-bundle/ is larger than $((most / 1024 / 1024)) MiB" >&2
	exit 1
fi
