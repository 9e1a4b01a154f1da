# Tidewire. `make help` lists what is here. Nothing but Go and make is needed; what `make test` wants beside (a C compiler for the race detector, strace, and for
# cluster mode Java, Maven and PostgreSQL) it installs where it may. Tools are built, and servers downloaded, once into CACHE.

GO      ?= go
CACHE   ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tidewire
BIN     := bin/tidewire
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(CACHE)/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/tidewire
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/tidewire

.PHONY: run
run: build ## start a hub on the quickstart config and play a day of payments at it
	$(BIN) quickstart --config deploy/quickstart/tidewire.yaml

.PHONY: run-cluster
run-cluster: build dev-up ## the same in cluster mode, on a real Kafka and PostgreSQL
	set -a; . .dev/env; $(BIN) quickstart --config deploy/quickstart/cluster.yaml

.PHONY: dev-up
dev-up: ## bring up Kafka and PostgreSQL for trying things out
	@deploy/dev/up

.PHONY: dev-down
dev-down: ## stop them; what they hold stays in .dev
	@deploy/dev/down

.PHONY: check
check: ## the everyday tests, under three minutes
	$(GO) vet ./...
	$(GO) test -short ./...

.PHONY: test
test: cc tools ## every test, with the race detector, the crash tests among them
	CGO_ENABLED=1 $(GO) test -race -timeout 30m $$($(GO) list ./... | grep -v /internal/torture)
	$(GO) test -timeout 10m -run SuiteOnApacheKafka ./pipeline/kafkalog
	TIDEWIRE_TEST_POSTGRES=oldest $(GO) test -timeout 10m ./internal/store/pgstore
	@echo "the crash tests, in three lanes: in cluster mode they are mostly waiting"
	@$(GO) test -timeout 20m -parallel 4 -skip '^TestTortureCluster' ./internal/torture & alone=$$!; \
		$(GO) test -timeout 20m -run '^TestTortureClusterMutants$$' ./internal/torture & mutants=$$!; \
		$(GO) test -timeout 20m -run '^TestTortureCluster' -skip '^TestTortureClusterMutants$$' ./internal/torture; failed=$$?; \
		wait $$alone || failed=1; wait $$mutants || failed=1; exit $$failed

.PHONY: torture
torture: tools ## the long crash campaigns: three hours or more, one line of JSON for each fault
	TIDEWIRE_TORTURE=full $(GO) test -count 1 -timeout 4h -parallel 4 -v -run 'Torture|Failpoint' ./internal/torture

.PHONY: tools
tools: # strace, and what Kafka and PostgreSQL need
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
bench: build dev-up ## the whole-hub benchmark, in both modes; prints a table and writes docs/benchmarks.md
	set -a; . .dev/env; $(BIN) bench --out docs/benchmarks.md --kafka "$$TIDEWIRE_KAFKA" --postgres "$$TIDEWIRE_POSTGRES"; \
		failed=$$?; deploy/dev/down; exit $$failed

.PHONY: generate
generate: build ## regenerate the config's JSON Schema
	$(BIN) config schema > deploy/tidewire.schema.json

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
