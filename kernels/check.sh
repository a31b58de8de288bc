#!/bin/sh
# Compiles again what changed since the main branch, for one target, and compares
# the bytes with the committed ones; if nothing changed, the smallest family.
#   KIGO_KERNELS_BASE     another commit to compare with
#   KIGO_KERNELS_TARGET   other targets than sm_90a, or all
set -eu
cd "$(dirname "$0")/.."
target=${KIGO_KERNELS_TARGET:-sm_90a}
[ "$target" != all ] || target=

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# main, or, when main is what is checked out, the commit before it.
base=${KIGO_KERNELS_BASE:-}
if [ -z "$base" ]; then
	for ref in refs/remotes/origin/main refs/heads/main; do
		if git rev-parse -q --verify "$ref^{commit}" >/dev/null; then
			base=$ref
			break
		fi
	done
fi
if [ -n "$base" ] && [ "$(git rev-parse "$base")" = "$(git rev-parse HEAD)" ]; then
	base=$(git rev-parse -q --verify "HEAD^" || true)
fi
if [ -z "$base" ] || ! git show "$base:kernels/SUMS" >"$tmp/SUMS" 2>/dev/null; then
	echo "check-kernels: no earlier machine code to compare with, so all families"
	: >"$tmp/SUMS"
fi
"${PYTHON:-python3}" .make/cuda.py --disassembler
"${GO:-go}" test ./kernels/... # those that need the compiler or the disassembler were skipped before
"${GO:-go}" run ./kernels/gen check -base "$tmp/SUMS" -target "$target"
