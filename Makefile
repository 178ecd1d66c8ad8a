# peapod: `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO  ?= cargo
PREFIX ?= /usr/local
HOST   := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
OUT    := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help run stop build test check audit bench critest streams conformance conformance-spoil conformance-peer oci test-handlers test-containerd test-kubelet test-vm conformance-vm critest-vm install uninstall needs

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: needs build ## build, start the daemon if none runs, bring up the example's pod (root)
	@deploy/run-example

stop: ## end the pods and the daemon, leave nothing (root)
	@deploy/stop

needs: ## install the Debian packages that a build wants (root)
	@deploy/needs build

build: ## target/release/peapod and its static shim
	$(CARGO) build --release --locked -p peapod
	RUSTFLAGS="$${RUSTFLAGS:-} -C target-feature=+crt-static -C relocation-model=static" \
	    $(CARGO) build --profile shim --locked --target $(HOST) -p shim
	install -m 0755 $(OUT)/$(HOST)/shim/containerd-shim-peapod-v1 $(OUT)/release/containerd-shim-peapod-v1

check: ## formatting, lints, licences, documentation, walls between crates (no root)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --lib --bins --examples --no-deps --document-private-items --locked
	$(CARGO) test --locked -p tidy
	deploy/cargo-deny check licenses sources bans

audit: ## security advisories of the dependencies (needs the advisory database)
	deploy/cargo-deny check advisories

test: needs ## everything that needs root, Rust and apt only
	@deploy/needs test
	deploy/test

critest: build ## the whole of critest, and crictl, of cri-tools 1.36 (root, Go)
	tests/conformance/critest
	tests/conformance/crictl

streams: build ## exec, attach and port-forward by client-go, the daemon killed beneath them (root, Go)
	tests/streams/run

conformance: build ## our own suite over each field of the CRI (root, Go)
	tests/conformance/run

conformance-spoil: build ## the suite's own test: each answer field spoilt, and whether the case sees it (root, Go)
	tests/conformance/run -- --spoil --jobs 16

conformance-peer: ## the same suite on containerd, so that the suite itself is right (root, Go)
	tests/conformance/run --runtime containerd

oci: ## the validation programs of the OCI runtime-tools through our runtime's command line (root, Go)
	$(CARGO) build --locked --workspace --bin peapod-runner
	tests/oci/run

test-handlers: build ## RuntimeClass handlers: runc, our own OCI command line, containerd's shim, behind our shim (root, Go)
	tests/handlers/run

test-containerd: build ## a stock containerd 2.4.2 runs pods by our shim (root, Go)
	tests/containerd/run

test-kubelet: build ## a stock kubelet 1.37 with the example's pod (root, Go)
	tests/kubelet/run

test-vm: build ## the suite of real pods on cgroup v2 with systemd, in a virtual machine (root)
	tests/vm/pods

conformance-vm: build ## our suite and the systemd cgroup driver's in that machine, AppArmor on (root, Go)
	tests/vm/conformance systemd conformance

critest-vm: build ## the whole of critest, and crictl, in that machine: a long half hour (root, Go)
	tests/vm/conformance critest crictl

bench: build ## figures beside containerd and runc, as ratios (root, Go)
	tests/perf/bench

install: build ## binaries, unit file and sample configuration beneath PREFIX (root)
	deploy/install $(PREFIX)

uninstall: ## take away what install put there (root)
	deploy/install --remove $(PREFIX)
