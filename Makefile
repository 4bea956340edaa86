# make engines   install, export, prove, build and publish everything, then let a server prove it
# make serve     serve the repository (ARGS="--with-python" and so on are passed on)
# make bench     compare native serving with the python backend
# make test      lint, type checks and the whole test suite
# make check     lint and type checks only
# make clean     remove everything that was generated, except .venv
VENV ?= .venv
BIN := $(VENV)/bin
# extras to install beside the defaults, for example EXTRAS=gpu
EXTRAS ?=
ARGS ?=
comma := ,

.PHONY: engines serve bench test check clean
.DELETE_ON_ERROR:

engines: $(VENV)/.installed
	$(BIN)/builder build $(ARGS)

serve: $(VENV)/.installed
	@$(BIN)/builder serve $(ARGS)

bench: $(VENV)/.installed
	@$(BIN)/builder bench $(ARGS)

test: check
	$(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build exports model_repository/.staging model_repository/.locks
	rm -rf $(addprefix model_repository/,onnx tensorrt pytorch ensemble)

$(VENV)/.installed: pyproject.toml constraints.txt scripts/bootstrap.sh
	scripts/bootstrap.sh $(VENV) $(EXTRAS)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	scripts/bootstrap.sh $(VENV) dev$(if $(EXTRAS),$(comma)$(EXTRAS))
	@touch $@
