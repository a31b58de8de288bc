#!/bin/sh
# Checks the API: style (buf lint and format), compatibility with the main
# branch (buf breaking), and that the committed Go code is what the proto files
# generate. Needs no network once the tools' modules are there.
# KIGO_PROTO_BASE names another commit to be compatible with.
set -eu
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

./proto/generate.sh "$tmp/generated"

.bin/buf lint
.bin/buf format --diff --exit-code --path proto/kigo

# The commit to be compatible with: main, or, when main is what is checked out,
# the commit before it.
base=${KIGO_PROTO_BASE:-}
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
if [ -z "$base" ] || ! git cat-file -e "$base:buf.yaml" 2>/dev/null; then
	echo "buf breaking: no earlier API to compare with"
else
	mkdir "$tmp/base"
	git archive "$base" buf.yaml proto | tar -x -C "$tmp/base"
	.bin/buf breaking --against "$tmp/base"
fi

# Both ways: changed, missing and stale files.
status=0
(cd "$tmp/generated" && find proto -name '*.pb.go' | sort) >"$tmp/want"
find proto/kigo -name '*.pb.go' | sort >"$tmp/have"
diff -u "$tmp/have" "$tmp/want" || status=1
while read -r file; do
	diff -u "$file" "$tmp/generated/$file" || status=1
done <"$tmp/want"
if [ $status -ne 0 ]; then
	echo "the generated code differs from the proto files: run make generate" >&2
fi
exit $status
