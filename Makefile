# The project's two commands, and what they are made of.
#   make demo    create the environment, install, reconstruct a chest CT into out/
#   make test    create the environment, install with the tools, run every check
#   make test-other-processor    the numerical tests as on a processor with AVX2 alone: one thread,
#                                no AVX-512, no bfloat16; what is green on one machine may fail there
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo test test-other-processor check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/medinv demo --overwrite

test: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory check

check:
	$(BIN)/ruff check .
	$(BIN)/mypy -p medinv
	$(BIN)/lint-imports
	$(BIN)/typos
	$(BIN)/python -m pytest

test-other-processor: export ATEN_CPU_CAPABILITY = avx2
test-other-processor: export ONEDNN_MAX_CPU_ISA = AVX2
test-other-processor: export OPENBLAS_CORETYPE = Haswell
test-other-processor: export OMP_NUM_THREADS = 1
test-other-processor: export MEDINV_PRECISION = float32
test-other-processor: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" tests/operators tests/priors tests/solvers tests/training

# A stamp is remade when the list of requirements changes.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.installed

# Debian and Ubuntu keep ensurepip in python3-venv; without it, pip is fetched from PyPI.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "medinv needs Python 3.11 or newer; '$(PYTHON)' is missing or older." \
	       "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); \
	  $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) .ci/bootstrap_pip.py $(BIN)/python; } || { \
	  rm -rf $(VENV); \
	  echo "No virtual environment could be made. On Debian or Ubuntu:" \
	       "sudo apt-get install python3-venv, then run make again." >&2; exit 1; }

clean:
	rm -rf $(VENV) out build ./*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
