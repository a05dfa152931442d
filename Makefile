# unibus: the two commands that matter are 'make chaos' and 'make test'. 'make help' lists the rest.

SHELL := /bin/sh
GO ?= go

# Parameters of 'make chaos' and 'make matrix'.
SCENARIO ?=
SEED ?=
SUT ?= membershipd
OUT ?= proofs
PROCS ?= 4
FULL ?=
BACKEND ?= auto
SHARD ?=
# The random nemesis (SCENARIO=nemesis) and the soak.
FOR ?=
ANY ?=
KEEP ?=
N ?= 20
FUZZTIME ?= 10s
SUTS ?= membershipd,nats-server@v2.15.2

CHAOS = bin/chaos
# What is switched on by any word but these.
on = $(filter-out 0 no false,$(1))
RUN_FLAGS = --sut $(SUT) --out $(OUT) --procs $(PROCS) --backend $(BACKEND) \
	$(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(SEED),--seed $(SEED)) $(if $(call on,$(FULL)),--full) \
	$(if $(FOR),--for $(FOR)) $(if $(call on,$(ANY)),--any) $(if $(KEEP),--keep $(KEEP)) $(if $(SHARD),--shard $(SHARD))

.PHONY: bin/chaos help chaos test matrix soak faults track-record mutants bench fuzz verify gate doctor sweep list lint fmt build clean

help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z-]+:[^#]*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make chaos SCENARIO=node-kill SEED=7      one scenario again"
	@echo "  make chaos SUT=nats-server@v2.15.2        the same faults on plain nats-server"
	@echo "  make chaos FULL=1 PROCS=1                 the whole product, timing figures comparable"
	@echo "  make chaos SCENARIO=nemesis FOR=10m       a random lawful plan of faults, by seed"
	@echo "  make soak N=100 FOR=20s                   the same on 100 clusters, one seed after the other"

bin/chaos:
	@CGO_ENABLED=0 $(GO) build -trimpath -o $@ ./cmd/chaos

chaos: bin/chaos ## run the scenarios, write proofs to OUT (default proofs/), print the table
	@$(CHAOS) run $(RUN_FLAGS)

test: ## every test, with the race detector
	$(GO) vet ./...
	$(GO) test -race -timeout 20m ./...

matrix: bin/chaos ## scenarios x systems under test (SUTS=a,b), drawn as a table
	@$(CHAOS) matrix --suts $(SUTS) --out $(OUT) --procs $(PROCS) --backend $(BACKEND) \
		$(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(SEED),--seed $(SEED)) $(if $(call on,$(FULL)),--full)

soak: bin/chaos ## N rounds of the random nemesis (or SCENARIO=), each on a new cluster: none may fail
	@$(CHAOS) soak --rounds $(N) --procs $(PROCS) --sut $(SUT) --out $(OUT) --backend $(BACKEND) $(if $(SCENARIO),--scenario $(SCENARIO)) \
		$(if $(SEED),--seed $(SEED)) $(if $(FOR),--for $(FOR)) $(if $(call on,$(ANY)),--any)

faults: bin/chaos ## every fault of the catalogue on a real cluster, with what was measured
	@$(CHAOS) faults --sut $(SUT) --out $(OUT) --procs $(PROCS) --backend $(BACKEND) $(if $(SEED),--seed $(SEED))

track-record: bin/chaos ## catch published bugs of nats-server again, rewrite the table (BUG=6888)
	@$(CHAOS) track-record --out $(OUT)/track-record $(if $(filter command,$(firstword $(origin PROCS))),--procs $(PROCS)) $(if $(BUG),--bug $(BUG)) $(if $(SEED),--seed $(SEED))

mutants: bin/chaos ## plant bugs in membershipd, one build each: the harness must find all of them (MUTANT=cas-ignored)
	@$(CHAOS) mutants --out $(OUT)/mutants $(if $(MUTANT),--mutant $(MUTANT)) $(if $(SEED),--seed $(SEED))

bench: bin/chaos ## speed, as ratios measured in one run
	@$(CHAOS) bench

fuzz: ## every fuzz target, FUZZTIME each (default 10s)
	@set -e; for file in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | sort); do \
		for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/p' $$file); do \
			echo "$$(dirname $$file) $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$(dirname $$file); \
		done; \
	done

verify: bin/chaos ## check every bundle in OUT, and every one that its index lists, again from its own evidence
	@$(CHAOS) verify $(OUT)

gate: bin/chaos ## pass or stop a deploy on the bundles in OUT
	@$(CHAOS) gate $(OUT)

doctor: bin/chaos ## what this machine can do
	@$(CHAOS) doctor

sweep: bin/chaos ## remove what dead runs left
	@$(CHAOS) sweep

list: bin/chaos ## scenarios
	@$(CHAOS) list

build: ## static binaries in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/membershipd ./cmd/chaos ./cmd/faultd

lint: ## golangci-lint
	golangci-lint run ./...

fmt: ## gofmt
	gofmt -l -w .

clean: ## binaries and proofs
	rm -rf bin proofs
