# The verbs people need. Each does its own set-up from the lock file, with nothing but Python and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.locked

.PHONY: demo test lint bench proto proto-check lock clean
.DEFAULT_GOAL := demo

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

demo: $(STAMP) ## watch pods get their slices, without hardware
	@$(BIN)/deviceplugin demo

test: $(STAMP) ## all tests
	$(BIN)/pytest -n 2 --dist loadfile -q $(ARGS)

lint: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## figures beside their targets
	$(BIN)/python benchmarks/agent.py
	$(BIN)/python benchmarks/scheduled.py
	$(BIN)/python benchmarks/monitor.py
	$(BIN)/python -m benchmarks.scheduler --size 100x1000 --size 1000x10000

PROTO_BIN := .venv-proto/bin
proto: ## generate the gRPC stubs anew, with the oldest protoc that we support
	$(PYTHON) -m venv .venv-proto
	$(PROTO_BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/proto.txt
	PATH="$(CURDIR)/$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python -m grpc_tools.protoc -I. --python_out=. \
	  --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. deviceplugin/api/kubelet/*/*.proto

proto-check: proto ## regenerating changes nothing
	git diff --exit-code -- api/kubelet

lock: ## resolve requirements/*.in anew (needs uv)
	for f in runtime dev proto; do uv pip compile --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-header --upgrade -o requirements/$$f.txt requirements/$$f.in; done

clean:
	rm -rf $(VENV) .venv-proto .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
