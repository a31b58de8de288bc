# Kigo. `make` lists the targets; those with ## are meant for people.
# Needs Go, gcc, make, and Python 3 with pip (for the models only).

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := $(abspath .bin)
GO ?= go
PYTHON ?= python3

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X kigo/server/cli.version=$(VERSION)
GO_FILES = $(shell find main.go engine server proto kernels -name '*.go' -o -name '*.s' -o -name '*.zst' 2>/dev/null)

GOLANGCI_LINT_VERSION := v2.15.0
GOVULNCHECK_VERSION := v1.9.0

# Packages in which goroutines meet: their tests run a second time, with -short,
# under the race detector. It makes arithmetic a hundred times slower, so the
# packages that compute are not watched while a real model runs; the device's own
# tests, on small shapes, watch them.
RACE := ./engine ./engine/load/... ./server/...
UNWATCHED := -gcflags=kigo/engine/device/cpu=-race=false -gcflags=kigo/engine/quant=-race=false
TEST_FLAGS ?= -timeout 15m
FUZZ_TIME ?= 10s

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ": .*## "} /^[a-z-]+: .*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: kigo ## Build ./kigo: one binary, no cgo

kigo: $(GO_FILES) go.mod go.sum Makefile
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ .

.PHONY: run
run: build models-demo ## Serve the demo model, show a haiku over gRPC, and keep serving
	@sh .make/demo.sh

.PHONY: test
test: models ## Everything that matters, in at most ten minutes on two cores
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./engine/device/cpu
	$(GO) test $(TEST_FLAGS) ./...
	$(GO) test $(TEST_FLAGS) -race -short $(UNWATCHED) $(RACE)
	$(GO) test $(TEST_FLAGS) -race -short ./engine/device/...

.PHONY: test-long
test-long: models ## The full sizes of the tests that `make test` samples
	KIGO_TEST_LONG=1 $(GO) test -timeout 120m ./...

# A module of its own, so that Kubernetes' packages stay out of the server's go.mod.
# Never from go's cache of results: what is tested lies outside of that module.
.PHONY: test-deploy
test-deploy: models-demo ## The container file and the manifests, with Kubernetes' own code
	cd deploy/tests && $(GO) vet ./... && $(GO) test -count 1 $(TEST_FLAGS) ./...

.PHONY: test-arm64
test-arm64: ## The assembly of arm64 under emulation (qemu-aarch64 of Debian's qemu-user)
	GOARCH=arm64 $(GO) test $(TEST_FLAGS) -exec 'qemu-aarch64 -cpu max' ./engine/device/cpu -skip 'TestConformance/(reference|scalar)'

.PHONY: cover
cover: models ## Test coverage of each package, and of all in .build/cover.html
	@mkdir -p .build
	$(GO) test $(TEST_FLAGS) -coverpkg=./engine/...,./server/... -coverprofile=.build/cover.out ./...
	@$(GO) tool cover -html=.build/cover.out -o .build/cover.html
	@$(GO) tool cover -func=.build/cover.out | tail -1

.PHONY: fuzz
fuzz: models ## Each fuzz target for FUZZ_TIME (10s)
	@$(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... | while read -r package; do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_TIME) $$package || exit 1; \
		done; \
	done

.PHONY: lint
lint: $(BIN)/golangci-lint check-generate ## Linters, import rules, the API's style and compatibility, generated code
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(BIN)/golangci-lint run
	cd deploy/tests && $(GO) mod tidy -diff && $(BIN)/golangci-lint run

.PHONY: format
format: $(BIN)/golangci-lint ## Format the Go code
	$(BIN)/golangci-lint fmt

.PHONY: generate
generate: ## Make the Go code of the API from proto/, and of the kernels' parameters from kernels/params.h
	proto/generate.sh
	$(GO) run ./kernels/gen generate

.PHONY: check-generate
check-generate: ## Check the API: style, compatibility, and that the generated code is what proto/ says
	proto/check.sh

.PHONY: kernels
kernels: ## Compile the GPU kernels that changed (FAMILY=, TARGET= for some); installs the compiler, 150 MB, once
	@$(PYTHON) .make/cuda.py
	$(GO) run ./kernels/gen build -family '$(FAMILY)' -target '$(TARGET)'

.PHONY: kernels-info
kernels-info: ## Registers, spills and memory of each kernel (FAMILY=, TARGET= for some)
	@$(GO) run ./kernels/gen info -family '$(FAMILY)' -target '$(TARGET)'

.PHONY: check-kernels
check-kernels: ## Compile again the kernels that changed since main, and compare with what is committed
	@GO='$(GO)' PYTHON='$(PYTHON)' kernels/check.sh

.PHONY: models
models: ## Fetch the models of the tests into models/ (650 MB to download, once)
	@$(PYTHON) .make/models.py

.PHONY: models-demo
models-demo: ## Fetch the demo model into models/ (93 MB to download, once)
	@$(PYTHON) .make/models.py --demo

.PHONY: gpu-bundle
gpu-bundle: build ## Tests, golden files and kigo for a GPU host without Go, into gpu-bundle/
	@GO='$(GO)' PYTHON='$(PYTHON)' sh .make/gpu-bundle.sh

.PHONY: govulncheck
govulncheck: $(BIN)/govulncheck ## Known vulnerabilities that the code can reach (asks the Go vulnerability database)
	$(BIN)/govulncheck ./...

.PHONY: clean
clean: ## Remove what was built; models and tools stay
	rm -rf kigo .build gpu-bundle

.PHONY: distclean
distclean: clean ## Remove models and tools as well
	rm -rf .bin models

# A stamp with the version in its name stands for each tool: another version
# here builds it again, and nothing else does.

$(BIN)/golangci-lint: $(BIN)/.golangci-lint-$(GOLANGCI_LINT_VERSION)
$(BIN)/.golangci-lint-$(GOLANGCI_LINT_VERSION):
	@mkdir -p $(BIN) && rm -f $(BIN)/.golangci-lint-*
	GOBIN=$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@touch $@

$(BIN)/govulncheck: $(BIN)/.govulncheck-$(GOVULNCHECK_VERSION)
$(BIN)/.govulncheck-$(GOVULNCHECK_VERSION):
	@mkdir -p $(BIN) && rm -f $(BIN)/.govulncheck-*
	GOBIN=$(BIN) $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	@touch $@
