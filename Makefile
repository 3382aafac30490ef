# Each target sets up what it needs: Python 3.11 or newer and a package index are enough.
PYTHON ?= python3
BIN := .venv/bin

# What bootstrap.py found missing on this machine and unpacked from a Debian package (libgomp.so.1), without root.
demo test engines: export LD_LIBRARY_PATH := $(CURDIR)/.venv/lib/system$(if $(LD_LIBRARY_PATH),:$(LD_LIBRARY_PATH))

# A test that hangs ends the run after twenty minutes, and where each of its threads stands is shown.
HANGING := -o faulthandler_timeout=1200 -o faulthandler_exit_on_timeout=true

.PHONY: demo test engines lint format bench catalog docs requirements core dev clean docker-base

demo: core  ## build examples/hello, serve it with bentoml, stream an answer
	@$(BIN)/python examples/demo.py

test: dev lint  ## every test this machine can run; says what it skipped and why
	@$(BIN)/python -m pytest $(HANGING)
	@$(BIN)/python .ci/engines.py test

engines: dev  ## an environment for each engine, in which `make test` runs the conformance suite too
	@$(BIN)/python .ci/engines.py make

lint: dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python docs/generate.py --check

format: dev
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

bench: dev  ## the numbers of README and docs, as ratios in one run
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/client.py
	$(BIN)/python benchmarks/loading.py
	@if [ -x .venv-vllm/bin/python ]; then .venv-vllm/bin/python benchmarks/vllm_serving.py; \
	else echo "vLLM left out: there is no .venv-vllm (make engines)"; fi
	@if [ -x .venv-vllm/bin/python ] && [ -x .venv-transformers/bin/python ]; then \
	.venv-vllm/bin/python benchmarks/walkthroughs.py; \
	else echo "walk-throughs left out: there is no .venv-vllm or no .venv-transformers (make engines)"; fi

catalog: dev  ## every example locked, packaged and imaged, with real wheels (some 16 GB): a table of digests and layers
	@$(BIN)/python .ci/catalog.py

docs: dev  ## regenerate docs/reference
	$(BIN)/python docs/generate.py --write

core dev:
	@$(PYTHON) .ci/bootstrap.py $@

requirements: dev  ## pin again what requirements/*.in ask for
	@$(BIN)/python .ci/pin.py
	@$(BIN)/python .ci/engines.py pin

clean:
	rm -rf .venv .venv-* dist build

docker-base: core  ## the base image for people who build with Docker, from the image that make demo built
	$(BIN)/python -m packager build hello --no-docker
	$(BIN)/python .ci/docker_base.py dist/hello.oci build/base
	docker build --target uv --tag packager-uv --file Dockerfile.base build/base
	docker build --target base --tag packager-base --file Dockerfile.base build/base
