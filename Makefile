# adit: everything is built with Go alone; `make help` lists what there is.
# Written for GNU make 3.81 and a POSIX shell, so that it works on macOS as it is.

GO          ?= go
VERSION     ?= $(or $(patsubst v%,%,$(shell git describe --tags --exact-match --match 'v*' 2>/dev/null)),0.1.0-dev)
SHA         ?= $(or $(shell git describe --always --abbrev=12 --dirty --exclude '*' 2>/dev/null),unknown)
FUZZTIME    ?= 10s
SOAK        ?= 30m
BENCHTIME   ?= 1s
BENCHFLAGS  ?=
TESTFLAGS   ?=
PACKAGES    ?= ./...
# Folders that are modules of their own: what their tests need must not become a dependency of the programs.
MODULES     ?= $(if $(filter ./...,$(PACKAGES)),kubernetes)

# Pinned, so that a check means the same today and next year.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

IMAGES      := server client fileserver
PLATFORMS   := linux/amd64 linux/arm64 linux/arm darwin/amd64 darwin/arm64 windows/amd64
# The platform of the local container engine: Linux, also where the engine is a virtual machine.
IMAGE_ARCH  ?= $(shell $(GO) env GOARCH)
IMAGE_TAG   ?= latest
# The platforms of the archives that images-multiarch makes, and the time in them: that of the commit.
IMAGE_PLATFORMS   ?= linux/amd64 linux/arm64 linux/arm/v7
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
DOCKER      ?= docker

MODULE      := github.com/adit-tunnel/adit
EXE         := $(shell $(GO) env GOEXE)
# One set of flags for every binary: static, no paths of this machine, no timestamps, no build id.
LDFLAGS     := -s -w -buildid= -X $(MODULE)/shared/version.Version=$(VERSION) -X $(MODULE)/shared/version.SHA=$(SHA)
BUILD       := $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
# What an outside environment could change in a release.
RELEASE_ENV := CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GOARM=7 GOFLAGS= GOEXPERIMENT=

.DEFAULT_GOAL := help
.PHONY: help demo run build test test-race chaos soak fuzz bench microbench lint vulncheck docs dist images images-multiarch clean

help: ## List the targets
	@echo 'adit $(VERSION) ($(SHA))'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

demo: build ## See it work: a web service through a tunnel on loopback; Ctrl-C stops it
	@exec bin/demo$(EXE) -bin bin -webroot compose/quickstart/webroot

run: build ## Run one binary with the variables of this shell: make run IMAGE=server TOKEN=...
	@exec bin/$(or $(IMAGE),server)$(EXE) $(ARGS)

build: ## Build the binaries for this machine into bin/
	@mkdir -p bin
	CGO_ENABLED=0 $(BUILD) -o bin/ $(addprefix ./images/,$(IMAGES)) ./demo

test: ## Run the tests; those that need a program which is absent say so and are skipped
	@status=0; for dir in . $(MODULES); do (set -x; cd $$dir && $(GO) test $(TESTFLAGS) $(PACKAGES)) || status=1; done; exit $$status

test-race: ## Run the tests with the race detector (needs a C compiler)
	$(GO) test -race $(TESTFLAGS) $(PACKAGES)

chaos: ## Run the tests under fault in their long form, as in production (Linux, best as root; 10 minutes)
	CHAOS=1 $(GO) test -run Chaos -count=1 -timeout 20m $(TESTFLAGS) ./e2e/...

soak: ## Put a tunnel under hash-checked load for SOAK (30m), and see that memory stays flat (Linux)
	SOAK=$(SOAK) $(GO) test -run TestSoak -count=1 -timeout 24h -v $(TESTFLAGS) ./e2e

fuzz: ## Fuzz every target in turn for FUZZTIME (10s)
	@mkdir -p build && $(GO) test -list '^Fuzz' $(PACKAGES) > build/fuzz.txt || { cat build/fuzz.txt; exit 1; }
	@awk '/^Fuzz/ { t[n++] = $$1 } /^ok/ { for (i = 0; i < n; i++) print $$2, t[i]; n = 0 }' build/fuzz.txt > build/targets.txt
	@test -s build/targets.txt || { echo 'no fuzz target found'; exit 1; }
	@status=0; while read -r package target; do \
	  echo "fuzz $$package $$target"; \
	  $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null || status=1; \
	done < build/targets.txt; exit $$status

bench: build ## Compare with a direct connection and nginx (Linux; needs wrk and nginx): make bench BENCHFLAGS=-short
	@$(GO) build -o bin/ ./bench
	@exec bin/bench -bin bin $(BENCHFLAGS)

microbench: ## Run the benchmarks inside the packages
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) $(PACKAGES)

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
	  echo "not formatted; run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	@for dir in . $(MODULES); do (set -x; cd $$dir && $(GO) vet $(PACKAGES) && $(GO) run $(STATICCHECK) $(PACKAGES)) || exit 1; done

vulncheck: ## Look for known vulnerabilities in the code that is called
	@for dir in . $(MODULES); do \
	  if out=$$(cd $$dir && $(GO) run $(GOVULNCHECK) $(PACKAGES) 2>&1); then echo "$$out"; \
	  elif echo "$$out" | grep -q 'fetching vulnerabilities'; then echo "$$out"; \
	    echo 'vulncheck: the vulnerability database cannot be reached from here; nothing was checked'; \
	  else echo "$$out"; exit 1; fi; \
	done

docs: ## Write the tables of variables into the README
	$(GO) test -p 1 -count=1 -run TestREADME $(addprefix ./images/,$(IMAGES)) -update

dist: ## Build the release binaries for every platform into dist/, with SHA256SUMS
	@rm -rf dist && mkdir -p dist
	@set -e; for platform in $(PLATFORMS); do \
	  os=$${platform%/*}; arch=$${platform#*/}; ext=; if [ $$os = windows ]; then ext=.exe; fi; \
	  for image in $(IMAGES); do \
	    echo "dist/adit-$$image-$$os-$$arch$$ext"; \
	    $(RELEASE_ENV) GOOS=$$os GOARCH=$$arch $(BUILD) -o dist/adit-$$image-$$os-$$arch$$ext ./images/$$image; \
	  done; \
	done
	@cd dist && if command -v sha256sum >/dev/null; then sha256sum adit-*; else shasum -a 256 adit-*; fi > SHA256SUMS

images: ## Build the three images for the local container engine; nothing is pulled
	@set -e; for image in $(IMAGES); do \
	  context=build/images/$(IMAGE_TAG)/$$image; rm -rf $$context; mkdir -p $$context/out/state; \
	  $(RELEASE_ENV) GOOS=linux GOARCH=$(IMAGE_ARCH) $(BUILD) -o $$context/out/$$image ./images/$$image; \
	  sed -n -e 's/--from=build //' -e '/^FROM scratch/,$$p' images/$$image/Dockerfile > $$context/Dockerfile; \
	  $(DOCKER) build --tag adit-$$image:$(IMAGE_TAG) --build-arg VERSION=$(VERSION) --build-arg SHA=$(SHA) $$context; \
	done

images-multiarch: ## Write OCI archives of the images for several platforms, with SBOMs, into dist/images; no engine needed
	@rm -rf build/multiarch dist/images
	@set -e; for platform in $(IMAGE_PLATFORMS); do \
	  rest=$${platform#*/}; arch=$${rest%/*}; \
	  case $$platform in linux/arm/v*) goarm=$${platform##*/v};; *) goarm=7;; esac; \
	  for image in $(IMAGES); do \
	    $(RELEASE_ENV) GOARM=$$goarm GOOS=$${platform%%/*} GOARCH=$$arch $(BUILD) \
	      -o build/multiarch/$$(echo $$platform | tr / -)/$$image ./images/$$image; \
	  done; \
	done
	@$(GO) run ./images/oci build -version $(VERSION) -revision $(SHA) -epoch $(SOURCE_DATE_EPOCH) \
	  -platforms $$(echo $(IMAGE_PLATFORMS) | tr ' ' ,) -binaries build/multiarch -out dist/images $(IMAGES)
	@$(GO) run ./images/oci check dist/images

clean: ## Remove what was built
	rm -rf bin build dist
