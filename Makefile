# The front door. `make help` lists what can be done.
.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash
# -buildvcs=false: the same binary from a clone, a tarball, or a checkout that belongs to another user.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
export CGO_ENABLED := 1

BIN := bin
DIST := dist
VERSION := 0.1.0
PREFIX ?= /usr/local
DESTDIR ?=
FUZZTIME ?= 5m
PROGRAMS := $(shell tools/programs)
# The architectures of the image, and its name without a tag.
ARCHES ?= amd64 arm64
IMAGE ?= ghcr.io/lifecycle-shim/lifecycle-shim
# The commit in the image's labels. A source tree without history needs it from outside, like SOURCE_DATE_EPOCH.
REVISION ?= $(shell git describe --always --abbrev=40 --dirty --exclude '*' 2>/dev/null)
# Such as -quick, -rounds 50, -rows '^paced: '.
BENCHFLAGS ?=
# The database of govulncheck: Go's, or a copy of it (file:///…).
GOVULNDB ?= https://vuln.go.dev
# The time of the files in a package and the date of the man pages are the commit's.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)
# seccomp: without it a handler cannot run in a container that has a seccomp profile.
# netgo, osusergo: no glibc name service in a static binary.
# grpcnotrace: without gRPC's traces, which no program reads, the linker drops code that is never called: a quarter of the shim.
TAGS := seccomp netgo osusergo grpcnotrace
# Parts of containerd that no test uses, and that take long to build or need more headers.
SERVER_TAGS := no_btrfs no_zfs no_devmapper no_aufs no_tracing
LDFLAGS := -s -w $(LINK) -X github.com/lifecycle-shim/lifecycle-shim/shim/version.Version=$(VERSION)
# Only the handler host has C in it: libseccomp, and therefore the C library.
STATIC := -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)'
STATIC_C := -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS) -linkmode external -extldflags "-static"'
STEP := @tools/step
TOOL := go tool -modfile=tools/go.mod
# The tests of the built product are a module: their dependencies are not the product's.
IN_INTEGRATION := -C integration
# Packages that need other servers or another machine have separate targets.
INTEGRATION = $$(go $(IN_INTEGRATION) list -tags '$(TAGS)' ./... | grep -vE '/integration/(kubernetes|debian|docker|apparmor)' | xargs)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-19s %s\n", $$1, $$2}'

.PHONY: deps
deps: ## install missing Debian packages (as root; asks nothing, starts no service)
	@.ci/deps

.PHONY: build
build: ## build the product: static binaries in bin/
	$(STEP) 'building the product (2 min the first time)' env CGO_ENABLED=0 go build $(STATIC) -o $(BIN)/ \
		$(addprefix ./cmd/,$(filter-out lifecycle-hookexec,$(PROGRAMS)))
	$(STEP) 'building the handler host' go build $(STATIC_C) -o $(BIN)/ ./cmd/lifecycle-hookexec

.PHONY: install
install: build ## install the product, with completions, man pages and examples, below DESTDIR and PREFIX (/usr/local)
	@tools/install $(BIN) '$(DESTDIR)$(PREFIX)'

.PHONY: uninstall
uninstall: ## remove what install has put there; running containers continue
	@tools/install --remove '$(DESTDIR)$(PREFIX)'

.PHONY: deps-package
deps-package: deps ## install what package and check-package need on top of deps (as root)
	@.ci/deps package

.PHONY: package
package: build ## make Debian packages and tarballs for amd64 and arm64, SBOMs and checksums, in dist/
	@tools/package '$(VERSION)' $(DIST)

.PHONY: image
image: build ## make the container image for ARCHES (amd64 arm64): an OCI archive, SBOMs and checksums, in dist/; needs no docker
	@tools/pack-image '$(VERSION)' '$(REVISION)' '$(IMAGE)' $(DIST) $(ARCHES)

# For tests: this machine's architecture, and fixed labels, because a source tree may have no history.
.PHONY: test-image
test-image: build
	@SOURCE_DATE_EPOCH=1000000000 tools/pack-image '$(VERSION)' test '$(IMAGE)' $(BIN)/image "$$(go env GOARCH)"

.PHONY: check-reproducible
check-reproducible: ## build the packages and the image of the last commit in two different places, and compare their hashes
	@tools/check-reproducible

.PHONY: check-package
check-package: ## try what package and image have made in dist/, on a fresh Debian 12, with the README's commands
	$(STEP) 'trying the package on a fresh Debian' go $(IN_INTEGRATION) test -race -count 1 -v -timeout 30m ./debian

.PHONY: servers
servers: $(BIN)/.servers $(BIN)/.containerd-1.7 $(BIN)/criu $(BIN)/previous $(BIN)/testreader $(BIN)/.helm ## build or fetch what the tests run under: containerd 2.4 and 1.7, runc, CRIU, Helm
	@CGO_ENABLED=0 go $(IN_INTEGRATION) build -o $(abspath $(BIN))/ ./testserver ./testlogger ./testattacker
	@go build -race -tags '$(TAGS)' -o $(BIN)/race/ ./cmd/containerd-shim-lifecycle-v2

$(BIN)/testreader: integration/testreader/reader.c
	@mkdir -p $(BIN) && gcc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o $@ $<

# Stamps, as these binaries depend on the module's pins alone.
$(BIN)/.servers: integration/go.mod integration/go.sum
	$(STEP) 'building containerd 2.4 with ctr, shim and runc (5 min the first time)' \
		go $(IN_INTEGRATION) build -tags 'seccomp $(SERVER_TAGS)' -o $(abspath $(BIN))/ github.com/opencontainers/runc \
		github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
	@touch $@

$(BIN)/.containerd-1.7: integration/containerd-1.7/go.mod integration/containerd-1.7/go.sum
	$(STEP) 'building containerd 1.7 and its shim (3 min the first time)' \
		go -C integration/containerd-1.7 build -tags '$(SERVER_TAGS)' \
		-o $(abspath $(BIN))/containerd-1.7 github.com/containerd/containerd/cmd/containerd
	@go -C integration/containerd-1.7 build -tags '$(SERVER_TAGS)' \
		-o $(abspath $(BIN))/containerd-shim-runc-v2-1.7 github.com/containerd/containerd/cmd/containerd-shim-runc-v2
	@touch $@

$(BIN)/.kubernetes: tools/kubernetes integration/kubernetes/servers/go.mod integration/kubernetes/servers/go.sum
	$(STEP) 'building etcd and Kubernetes (10 min the first time)' tools/kubernetes $(BIN)/kubernetes
	@touch $@

$(BIN)/.helm: tools/helm $(wildcard integration/chart/servers/*/go.*)
	$(STEP) 'building Helm 3 and 4, and kustomize (5 min the first time)' tools/helm $(BIN)
	@touch $@

# The language version is for docker's client, which is not a Go module.
$(BIN)/.docker: integration/docker/servers/go.mod integration/docker/servers/go.sum
	$(STEP) 'building dockerd and docker (4 min the first time)' \
		go -C integration/docker/servers build -tags 'seccomp $(SERVER_TAGS)' -gcflags 'github.com/docker/cli/...=-lang=go1.26' \
		-o $(abspath $(BIN))/ github.com/moby/moby/v2/cmd/dockerd github.com/docker/cli/cmd/docker
	$(STEP) 'building docker compose (1 min the first time)' \
		go -C integration/docker/servers build -gcflags 'github.com/docker/cli/...=-lang=go1.26' \
		-o $(abspath $(BIN))/docker-compose github.com/docker/compose/v5/cmd
	@touch $@

$(BIN)/nerdctl: tools/nerdctl
	$(STEP) 'building nerdctl (2 min the first time)' tools/nerdctl $(BIN)

$(BIN)/criu: tools/criu
	$(STEP) 'fetching CRIU, 8 MB' tools/criu $(BIN)

$(BIN)/previous: integration/previous tools/previous
	$(STEP) 'building the previous build, for the tests of upgrades' tools/previous $(BIN)/previous

.PHONY: test
test: deps build unit servers integration ## everything that must pass: unit and integration tests, with -race

.PHONY: unit
unit: ## unit tests only: no root, no containers
	$(STEP) 'unit tests' go test -race -tags '$(TAGS)' ./...

# Two packages at a time: most tests wait. Each has its own containerd, and looks for leaks in its own cgroups, sockets and mounts.
.PHONY: integration
integration: build servers test-image ## integration tests only: root, containers under a private containerd
	$(STEP) 'integration tests' go $(IN_INTEGRATION) test -race -tags '$(TAGS)' -p 2 -timeout 30m $(INTEGRATION)

# Of the fleet, e2e runs what FLEET_SHORT names.
FLEET_SHORT := ^TestHelmInstall$$

.PHONY: e2e
e2e: deps build $(BIN)/.servers $(BIN)/.kubernetes $(BIN)/.helm testnode test-image ## the handlers on a real Kubernetes: etcd, API server and kubelet; the chart on three nodes (root; 20 min more the first time)
	$(STEP) 'tests on Kubernetes' go $(IN_INTEGRATION) test -race -count=1 -tags '$(TAGS)' -p 1 -timeout 30m \
		$$(go $(IN_INTEGRATION) list -tags '$(TAGS)' ./kubernetes/... | grep -v '/fleet$$')
	$(STEP) 'the chart on three nodes' go $(IN_INTEGRATION) test -race -count=1 -tags '$(TAGS)' -timeout 10m -run '$(FLEET_SHORT)' ./kubernetes/fleet

.PHONY: cluster
cluster: deps build $(BIN)/.servers $(BIN)/.kubernetes $(BIN)/.helm testnode test-image next ## a Kubernetes of three nodes, one of them with systemd, and all tests on it (root; 15 min)
	$(STEP) 'all tests on three nodes' go $(IN_INTEGRATION) test -race -count=1 -tags '$(TAGS)' -v -timeout 40m ./kubernetes/fleet

# The same programs with another version, which an upgrade installs.
.PHONY: next
next:
	@$(MAKE) --no-print-directory build BIN=$(BIN)/next VERSION=$(VERSION)-next

.PHONY: testnode
testnode:
	@CGO_ENABLED=0 go $(IN_INTEGRATION) build -o $(abspath $(BIN))/ ./kubernetes/fleet/testnode

.PHONY: docker
docker: build $(BIN)/.servers $(BIN)/.docker $(BIN)/nerdctl ## the same under a private dockerd, and nerdctl; runs every command of their page
	$(STEP) 'tests under docker and nerdctl' go $(IN_INTEGRATION) test -race -tags '$(TAGS)' -timeout 15m ./docker

# How much `make soak` does.
SOAK_CONTAINERS ?= 2000
SOAK_PARALLEL ?= 100
SOAK_POD ?= 30
SOAK_HANDLERS ?= 5000

.PHONY: soak
soak: deps build $(BIN)/.servers ## 2,000 containers, 100 at a time, and a shim that runs 5,000 handlers; fails if anything grows or is left (root; 6 min)
	@mkdir -p $(DIST)
	$(STEP) 'endurance' go run $(IN_INTEGRATION) -tags '$(TAGS)' ./lab/soak -bin $(abspath $(BIN)) -containers $(SOAK_CONTAINERS) -parallel $(SOAK_PARALLEL) \
		-pod $(SOAK_POD) -handlers $(SOAK_HANDLERS) -tables $(abspath $(DIST))/endurance.md

.PHONY: growth
growth: deps build $(BIN)/.servers ## what 200 containers cost, one by one, in one pod and in 200, and how long they take to stop at once (root; 4 min)
	@mkdir -p $(DIST)
	$(STEP) 'growth' go run $(IN_INTEGRATION) -tags '$(TAGS)' ./lab/growth -bin $(abspath $(BIN)) -tables $(abspath $(DIST))/growth.md

.PHONY: faults
faults: build servers ## every fault in every phase, and every pair of requests at once (root); test runs an eighth
	$(STEP) 'every fault in every phase (10 min)' go $(IN_INTEGRATION) test -race -count=1 -tags '$(TAGS)' -timeout 40m ./faults -whole

# How often `make repeat` runs everything, and how many of them beside each other.
TIMES ?= 20
AT_ONCE ?= 4

.PHONY: deps-repeat
deps-repeat: deps ## install what repeat needs on top of deps (as root)
	@.ci/deps repeat

.PHONY: repeat
repeat: build servers test-image ## all tests TIMES times (20), AT_ONCE (4) beside each other, nothing cached, all processors busy besides; says which failed (root; hours)
	$(STEP) 'the suite under load, $(TIMES) times' tools/repeat $(TIMES) $(AT_ONCE) \
		sh -c "go test -race -count=1 -tags '$(TAGS)' -p 1 -timeout 60m ./... && \
			go $(IN_INTEGRATION) test -race -count=1 -tags '$(TAGS)' -p 1 -timeout 60m $(INTEGRATION)"

.PHONY: deps-cgroup2
deps-cgroup2: deps ## install what cgroup2 needs on top of deps (as root)
	@.ci/deps cgroup2

# A built program, and not `go run`: it ends in order if make is interrupted.
.PHONY: cgroup2
cgroup2: build servers ## the integration tests on cgroup v2, in an emulated Debian with systemd (root; an hour; RUN=regexp: those that match)
	@go $(IN_INTEGRATION) build -o $(abspath $(BIN))/ ./cgroup2
	@mkdir -p $(DIST)
	$(STEP) 'integration tests on cgroup v2' $(BIN)/cgroup2 -tags '$(TAGS)' -run '$(RUN)' -out $(DIST)/cgroup2.json

.PHONY: lint
lint: ## golangci-lint, gofumpt and deadcode, pinned in tools/go.mod
	$(STEP) 'lint (3 min the first time)' $(TOOL) golangci-lint run ./...
	@go -C integration tool -modfile=../tools/go.mod golangci-lint run ./...
	@go -C tools tool golangci-lint run ./...
	$(STEP) 'functions that nothing calls' tools/deadcode '$(TAGS)'

.PHONY: format
format: ## rewrite the Go files the way lint wants them
	$(TOOL) gofumpt -w $$(git ls-files -co --exclude-standard '*.go' | grep -v '\.pb\.go$$')

.PHONY: generate
generate: ## generate the Go code of proto/
	$(STEP) 'generating code' tools/generate

.PHONY: manifests
manifests: $(BIN)/.helm ## render the chart into the plain manifests of deploy/kubernetes, and its tests' golden files
	$(STEP) 'rendering the chart' tools/manifests $(BIN)/helm3 deploy/kubernetes
	@go $(IN_INTEGRATION) test -count=1 ./chart -run TestGolden -update

.PHONY: check-generated
check-generated: ## fail if the generated code is not what proto/ gives
	$(STEP) 'comparing generated code' tools/check-generated

.PHONY: foreign
foreign: ## convert 10,000 documents of other YAML emitters (PyYAML, Ruby, js-yaml, Go), each in several styles
	@FOREIGN_DOCUMENTS=1600 go test -tags '$(TAGS)' -count 1 -timeout 30m -run TestForeign ./cmd/internal/convert

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (5m)
	@tools/fuzz '$(FUZZTIME)' '$(TAGS)'

# Packages or files whose mutants are made, such as `shim/create.go oci`; empty: all.
ONLY ?=

.PHONY: mutants
mutants: ## change decisions one at a time, and fail if no unit test notices one that tools/mutants/survivors.txt does not explain
	@go run -C tools ./mutants -root .. $(ONLY)

.PHONY: vulnerabilities
vulnerabilities: ## known vulnerabilities in what is linked, from the database GOVULNDB (https://vuln.go.dev)
	$(STEP) 'looking for known vulnerabilities' $(TOOL) govulncheck -db '$(GOVULNDB)' -tags '$(TAGS)' ./cmd/...

.PHONY: demo
demo: deps build $(BIN)/.servers ## watch the Kubernetes example happen, without Kubernetes
	@go run $(IN_INTEGRATION) -tags '$(TAGS)' ./demo -bin $(abspath $(BIN)) -cache $(abspath .cache)

.PHONY: bench
bench: deps build $(BIN)/.servers ## measure what handlers cost beside the other ways (root; 10 min on an idle machine); dist/bench.txt, for benchstat
	@mkdir -p $(DIST)
	@go run $(IN_INTEGRATION) -tags '$(TAGS)' ./lab/bench -bin $(abspath $(BIN)) -out $(abspath $(DIST))/bench.txt $(BENCHFLAGS)
	@$(TOOL) benchstat -row /what -col /scene $(DIST)/bench.txt >$(DIST)/benchstat.txt

.PHONY: ci
ci: ## what CI runs
	@.ci/run

.PHONY: clean
clean: ## remove bin/ and dist/
	rm -rf $(BIN) $(DIST)
