# Tidewire. `make help` lists what is here. Nothing but Go and make is needed; tools are built once into CACHE.

GO      ?= go
CACHE   ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tidewire
BIN     := bin/tidewire
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(CACHE)/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/tidewire
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/tidewire

.PHONY: run
run: build ## start a hub on the quickstart config and play a day of payments at it
	$(BIN) quickstart --config deploy/quickstart/tidewire.yaml

.PHONY: check
check: ## the everyday tests, under three minutes
	$(GO) vet ./...
	$(GO) test -short ./...

.PHONY: test
test: ## every test, with the race detector, and the crash tests
	$(GO) test -race -timeout 20m ./...
	$(GO) test -tags failpoints -timeout 10m -run 'Failpoint|Torture' ./internal/torture/...

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint with .golangci.yml
	$(GOLANGCI) run ./...

$(GOLANGCI):
	GOBIN=$(dir $@) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

.PHONY: bench
bench: build ## the whole-hub benchmark; prints a table and writes docs/benchmarks.md
	$(BIN) bench --out docs/benchmarks.md

.PHONY: generate
generate: build ## regenerate the config's JSON Schema
	$(BIN) config schema > deploy/tidewire.schema.json

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
