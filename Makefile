# Daily commands. `make` alone lists them.
#
# Everything with logic in it lives in scripts/, so that it can be read, run
# and debugged without make.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Targets build the same outputs and share two cores: never at the same time.
.NOTPARALLEL:

# Version compiled into both binaries and registered with Vault (with a v).
VERSION ?= 0.1.0
# How long each fuzz target runs.
FUZZTIME ?= 20s
# Arguments for `go test` in the unit tests, for example ARGS='-run TestX -v'.
ARGS ?=
# How long make soak goes on, and the seed that repeats an earlier run's choices.
DURATION ?= 5m
SOAK_SEED ?=
# With a number, make soak runs that many nodes as daemons in a network lab.
REMOTE ?=
# Packages of the end-to-end suite.
E2E_PACKAGES ?= ./plugin/e2e/...

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0

# No VCS stamp: `go build` fails on it when the checkout belongs to another
# user, as it does in many CI containers.
export GOFLAGS := -buildvcs=false $(GOFLAGS)
export VERSION
LDFLAGS := -X main.version=$(VERSION)

PLUGIN := bin/plugins/vault-plugin-secrets-mpc
CLI := bin/mpckms

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## check Go and gcc; install SoftHSM, OpenSSL and gcc (apt, as root)
	@scripts/setup.sh

.PHONY: build
build: ## build bin/plugins/vault-plugin-secrets-mpc and bin/mpckms
	@mkdir -p bin/plugins
	CGO_ENABLED=1 go build -trimpath -ldflags '$(LDFLAGS)' -o $(PLUGIN) ./plugin/vault-plugin-secrets-mpc
	CGO_ENABLED=1 go build -trimpath -ldflags '$(LDFLAGS)' -o $(CLI) ./plugin/mpckms
	@# A dev server with -dev-plugin-dir runs every file in its plugin folder.
	@others=$$(find bin/plugins -mindepth 1 ! -path '$(PLUGIN)'); \
	if [ -n "$$others" ]; then \
		echo "make build: only the plugin may lie in bin/plugins; remove: $$others" >&2; exit 1; \
	fi

.PHONY: vault-path
vault-path: ## print the path of a usable vault (builds one when there is none)
	@scripts/vault.sh

.PHONY: demo
demo: setup build ## show the whole thing on a dev Vault and a SoftHSM token
	@scripts/demo.sh

.PHONY: dev
dev: setup build ## leave a dev Vault with the engine running; prints how to use it
	@scripts/dev.sh start

.PHONY: dev-stop
dev-stop: ## stop the Vault that make dev started
	@scripts/dev.sh stop

.PHONY: test
test: setup build lint unit race e2e test-cluster ## everything CI runs
	@echo "make test: passed"

.PHONY: unit
unit: ## unit tests, on a real SoftHSM token
	MPC_REQUIRE_SOFTHSM=1 CGO_ENABLED=1 go test -timeout 25m $(ARGS) ./...
	@# Comparisons with other implementations, a module of its own.
	cd bench && go test $(ARGS) ./...

# mpc/cmp is left out: Paillier arithmetic under the race detector takes
# minutes and has no concurrency of its own.
.PHONY: race
race: ## unit tests under the race detector, where that is affordable
	MPC_REQUIRE_SOFTHSM=1 CGO_ENABLED=1 go test -timeout 25m -race -short $(ARGS) $$(go list ./... | grep -v '/mpc/cmp$$')

.PHONY: e2e
e2e: build ## end-to-end tests on a real Vault and SoftHSM
	@mkdir -p bin/faults
	CGO_ENABLED=1 go build -tags faults -trimpath -ldflags '$(LDFLAGS)' -o bin/faults/vault-plugin-secrets-mpc ./plugin/vault-plugin-secrets-mpc
	@vault=$$(scripts/vault.sh); set -x; \
	MPC_VAULT_BIN=$$vault MPC_PLUGIN_DIR='$(CURDIR)/bin/plugins' MPC_CLI_BIN='$(CURDIR)/$(CLI)' MPC_PLUGIN_VERSION='v$(VERSION)' MPC_FAULTS_PLUGIN_DIR='$(CURDIR)/bin/faults' \
		CGO_ENABLED=1 go test -tags e2e -count=1 -timeout 60m $(ARGS) $(E2E_PACKAGES)

.PHONY: test-cluster
test-cluster: build ## nodes on hosts of their own, 50 ms apart: loss, partitions, drains (needs root; else skipped)
	@scripts/test-cluster.sh $(ARGS)

.PHONY: bench-cluster
bench-cluster: build ## figures of remote nodes by their number, 3, 5 and 9, near and 50 ms apart
	@scripts/test-cluster.sh --bench

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, govulncheck
	@files=$$(gofmt -l .); \
	if [ -n "$$files" ]; then printf 'make lint: not gofmt-formatted:\n%s\n' "$$files" >&2; exit 1; fi
	go vet ./...
	go vet -tags e2e ./...
	go vet -tags faults ./backend ./plugin/vault-plugin-secrets-mpc
	CGO_ENABLED=0 go vet ./...
	cd bench && go vet ./...
	@scripts/staticcheck.sh $(STATICCHECK) -tags e2e ./...
	@$(MAKE) --no-print-directory vuln

.PHONY: vuln
vuln: ## known vulnerabilities, except those in scripts/vulncheck/allow.txt
	@go run ./scripts/vulncheck -allow scripts/vulncheck/allow.txt

.PHONY: proto
proto: ## regenerate mpc/nodepb from node.proto (needs protoc 3.21 or newer)
	GOBIN='$(CURDIR)/bin/tools' go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
	GOBIN='$(CURDIR)/bin/tools' go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1
	PATH='$(CURDIR)/bin/tools':$$PATH protoc --go_out=. --go_opt=module=vault-plugin-secrets-mpc \
		--go-grpc_out=. --go-grpc_opt=module=vault-plugin-secrets-mpc mpc/nodepb/node.proto

.PHONY: api
api: ## rewrite docs/openapi.json and docs/api.md from the path definitions
	go test -count=1 -run '^TestAPIDocuments$$' ./backend -update-docs

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (20s); FUZZ=regexp picks some
	@scripts/fuzz.sh '$(FUZZTIME)'

.PHONY: bench
bench: setup build ## measure engine, raw libraries and transit in one run (QUICK=1: just try)
	@scripts/bench.sh

.PHONY: soak
soak: build ## kill, seal, reload and rotate at random for DURATION (5m), then verify every account (REMOTE=3: node daemons)
	@scripts/soak.sh '$(DURATION)' '$(SOAK_SEED)' '$(REMOTE)'

.PHONY: clean
clean: ## stop a dev Vault and remove bin/ (keeps the cached vault)
	@scripts/dev.sh stop --quiet
	rm -rf bin
