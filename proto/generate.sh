#!/bin/sh
# Generates the Go code of the API beside its proto files.
#   proto/generate.sh           into the working tree
#   proto/generate.sh FOLDER    into FOLDER/proto instead
# The tools are built into .bin: buf and protoc-gen-go-grpc as proto/tools/go.mod
# pins them, protoc-gen-go from the root module, so that the generator and the
# runtime that its code needs are always of one version.
set -eu
cd "$(dirname "$0")/.."
out=${1:-.}

mkdir -p .bin
go build -trimpath -o .bin/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
go build -C proto/tools -trimpath -o ../../.bin/ \
	github.com/bufbuild/buf/cmd/buf \
	google.golang.org/grpc/cmd/protoc-gen-go-grpc

.bin/buf generate -o "$out"
