# adit: everything is built with Go alone; `make help` lists what there is.
# Written for GNU make 3.81 and a POSIX shell, so that it works on macOS as it is.

GO          ?= go
VERSION     ?= $(or $(patsubst v%,%,$(shell git describe --tags --exact-match --match 'v*' 2>/dev/null)),0.1.0-dev)
SHA         ?= $(or $(shell git describe --always --abbrev=12 --dirty --exclude '*' 2>/dev/null),unknown)
FUZZTIME    ?= 10s
FUZZJOBS    ?= 1
SOAK        ?= 30m
BENCHTIME   ?= 1s
BENCHFLAGS  ?=
# A folder of other tunnels' programs to measure, too: bin/bench -h says how they are called.
PEERS       ?=
TESTFLAGS   ?=
PACKAGES    ?= ./...
# Folders that are modules of their own: what their tests need must not become a dependency of the programs.
MODULES     ?= $(if $(filter ./...,$(PACKAGES)),kubernetes e2e/grpc)

# Pinned, so that a check means the same today and next year.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

GOSEC       := github.com/securego/gosec/v2/cmd/gosec@v2.30.0

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
.PHONY: help demo run build test test-race chaos soak fuzz bench microbench lint vulncheck gosec docs dist images images-multiarch clean

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

# Package e2e measures time: nothing else is tested beside it. In compose nothing of ours runs but in containers, where
# the race detector sees nothing, and a third of the time would be its.
E2E         := $(if $(filter ./...,$(PACKAGES)),./e2e)
OTHERS       = $(if $(E2E),$$($(GO) list $(PACKAGES) | grep -v -e '/e2e$$' $1),$(PACKAGES))

test: ## Run the tests; those that need a program which is absent say so and are skipped
	@status=0; for packages in "$(call OTHERS)" $(E2E); do $(GO) test -timeout 20m $(TESTFLAGS) $$packages || status=1; done; \
	for dir in $(MODULES); do (set -x; cd $$dir && $(GO) test -timeout 20m $(TESTFLAGS) $(PACKAGES)) || status=1; done; exit $$status

test-race: ## Run the tests with the race detector (needs a C compiler)
	@status=0; for packages in "$(call OTHERS,-e '/compose$$')" $(E2E); do $(GO) test -race -timeout 20m $(TESTFLAGS) $$packages || status=1; done; exit $$status

chaos: ## Run the tests under fault in their long form, as in production (Linux, best as root; 10 minutes)
	CHAOS=1 $(GO) test -run Chaos -count=1 -timeout 20m $(TESTFLAGS) ./e2e/...

soak: ## Put a tunnel under hash-checked load for SOAK (30m), and see that memory stays flat (Linux)
	SOAK=$(SOAK) $(GO) test -run TestSoak -count=1 -timeout 24h -v $(TESTFLAGS) ./e2e

fuzz: ## Fuzz every target for FUZZTIME (10s), FUZZJOBS (1) of them at a time
	@mkdir -p build && $(GO) test -list '^Fuzz' $(PACKAGES) > build/fuzz.txt || { cat build/fuzz.txt; exit 1; }
	@awk '/^Fuzz/ { t[n++] = $$1 } /^ok/ { for (i = 0; i < n; i++) print $$2, t[i]; n = 0 }' build/fuzz.txt > build/targets.txt
	@test -s build/targets.txt || { echo 'no fuzz target found'; exit 1; }
	@xargs -P $(FUZZJOBS) -n 2 sh -c 'out=$$($(GO) test -run "^$$" -fuzz "^$$2$$" -fuzztime $(FUZZTIME) \
	  $(if $(filter-out 1,$(FUZZJOBS)),-parallel 1) "$$1" </dev/null 2>&1); status=$$?; \
	  printf "fuzz %s %s\n%s\n" "$$1" "$$2" "$$out"; \
	  if [ $$status != 0 ] && printf "%s\n" "$$out" | grep -q "^    context deadline exceeded$$" \
	    && ! printf "%s\n" "$$out" | grep -q "Failing input written"; then \
	    echo "ok  	$$1	$$2: nothing found; Go took the end of its time for a failure, https://go.dev/issue/75804"; status=0; fi; \
	  exit $$status' fuzz < build/targets.txt

bench: build ## Compare with a direct connection and nginx (Linux; needs wrk, curl and nginx): make bench BENCHFLAGS=-short PEERS=folder
	@$(GO) build -o bin/ ./bench
	@exec bin/bench -bin bin $(if $(PEERS),-others $(PEERS)) $(BENCHFLAGS)

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

# Of what runs in an image. Everywhere else the code says why a finding is none; these rules are left out because nearly
# all that they find is what the program is for, or cannot be:
#   G104        errors that are dropped: of Close, and of the last words to a peer that may have left
#   G115        conversions of integers: lengths, windows and indices of the wire format, which are bounded where they are
#               made, and cut into bytes on purpose; the fuzz targets carry them back and forth
#   G304, G703  files whose names are not constant: those that the operator names. What visitors name is opened below an
#               os.Root by package files
gosec: ## Look for what attackers like, in the code of the images
	@$(GO) run $(GOSEC) -quiet -exclude=G104,G115,G304,G703 -exclude-dir=configtest \
	  $(addprefix ./images/,$(addsuffix /...,$(IMAGES))) ./shared/... && echo 'gosec: nothing found'

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
