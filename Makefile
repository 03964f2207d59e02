# `make` or `make help` lists the targets.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

version := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
golangci := go tool -modfile=tools/go.mod golangci-lint

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/skein
	@go build -trimpath -ldflags '-X main.version=$(version)' -o bin/skein ./cmd/skein

.PHONY: kms
kms: ## Build bin/skein-kms, skein with key management services, and test it
	@cd cmd/skein-kms && go vet . && go test . && \
		go build -trimpath -ldflags '-X main.version=$(version)' -o ../../bin/skein-kms .

.PHONY: demo
demo: build ## See Skein at work on databases of its own
	@scripts/demo

.PHONY: test
test: ## Run all tests, on private PostgreSQL and MariaDB servers
	@scripts/install-test-deps
	@scripts/servers run go test -race -p 4 -timeout 30m ./...

.PHONY: lint
lint: ## Check the code with golangci-lint (the first run builds it)
	@$(golangci) run

.PHONY: format
format: ## Format the code as lint wants it
	@$(golangci) fmt

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZTIME, 10s by default
	@scripts/fuzz

.PHONY: fault
fault: ## Break things while Skein is at work: SEED=1 N=1000
	@scripts/install-test-deps
	@go test -v -run '^TestSeeded$$' -timeout 0 ./internal/faulttest -fault.seed $(or $(SEED),1) -fault.n $(or $(N),1000) -fault.verbose

.PHONY: bench
bench: build ## Measure Skein beside other tools, on N=200 tenants in ROUNDS=3
	@scripts/install-test-deps
	@cd bench && go run . -tenants $(or $(N),200) -rounds $(or $(ROUNDS),3) $(if $(ATLAS),-atlas $(abspath $(ATLAS)))

.PHONY: clean
clean: ## Remove what the other targets built
	@rm -rf bin bench/.tools
