# Tidewire. `make help` lists what is here. Nothing but Go and make is needed (and a C compiler for the race detector, which `make test`
# installs where it may); tools are built once into CACHE.

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
test: cc tools ## every test, with the race detector, the crash tests among them
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v /internal/torture)
	$(GO) test -timeout 20m -parallel 4 ./internal/torture

.PHONY: torture
torture: tools ## the long crash campaigns: an hour or so, one line of JSON for each fault
	TIDEWIRE_TORTURE=full $(GO) test -count 1 -timeout 4h -parallel 4 -v -run 'Torture|Failpoint' ./internal/torture

.PHONY: tools
tools: # strace, which makes fsync fail in the crash tests
	@deploy/dev/tools

.PHONY: cc
cc: # the race detector needs a C compiler, which a machine with nothing but Go may not have
	@command -v "$$($(GO) env CC)" >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq gcc libc6-dev; } || { \
		echo "the race detector needs a C compiler: install gcc, then make again" >&2; exit 1; }

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
