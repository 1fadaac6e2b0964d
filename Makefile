# Each target is a line or two; the longer ones are scripts with a comment at their head.
export CGO_ENABLED ?= 0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.PHONY: build test lint demo bench e2e generate fuzz clean

build: ## bin/keg, with keg-node for amd64 and arm64 hosts inside
	go run ./internal/embednode cmd/keg/embedded amd64 arm64
	go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/keg ./cmd/keg

test: ## everything that CI runs: installs what it needs where it may, skips aloud what cannot run
	./internal/tools/check

lint:
	cd internal/tools && go build -o ../../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	bin/golangci-lint run ./...

generate: build ## docs/reference, from --help
	bin/keg gen-docs docs/reference

demo: build ## the main job without root and network: build, push, pull, save, load, inspect, plan
	./testdata/demo/demo

e2e: build ## a real Kubernetes on real hosts; the first run builds its programs and takes 20 minutes or more
	./testdata/e2e/run

bench: build ## keg and its peers on the same input, as ratios; writes docs/benchmarks.md
	./testdata/bench/bench

fuzz: ## every fuzz target for half a minute
	./internal/tools/fuzz 30s

clean:
	rm -rf bin cmd/keg/embedded/*.zst
