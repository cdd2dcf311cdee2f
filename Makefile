# make demo               NGC 5921 with ptclean and with tclean, compared; a picture of the galaxy
# make demo MS=my.ms      the same for your data; options in ARGS, e.g. ARGS='--imsize 512 --nchan 64'
# make test               everything that must hold before a change goes in
# make slurm              the job scripts of examples/slurm on a SLURM of its own (Debian, as root)
# make bench              times against tclean, in turn, and docs/benchmarks.md; takes hours
# make soak               images while workers and drivers are killed at random, for an hour or so
# make docs               the documentation, in docs/_build/index.html
#
# The environment is made once, in .venv, by the newest Python that CASA has wheels for. Choose
# another with PYTHON=python3.11.

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,\
	$(shell $(p) -c 'import sys, venv, ensurepip; assert (3, 11) <= sys.version_info < (3, 14); print("$(p)")' 2>/dev/null)))
MS ?=
ARGS ?=

BIN := .venv/bin
# CASA reads its measures data from the package casadata, whatever is in the user's own set-up.
export CASASITECONFIG := $(CURDIR)/examples/casasiteconfig.py

.PHONY: demo docs test bench slurm soak lint venv clean

demo: .venv/demo-installed
	$(BIN)/python examples/demo.py $(if $(MS),--ms '$(MS)') $(ARGS)

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# SLURM itself comes from Debian; without it these tests are skipped by `make test`.
slurm: .venv/test-installed
	apt-get install --quiet --yes --no-install-recommends slurmctld slurmd slurm-client munge
	$(BIN)/python -m pytest tests/test_slurm.py $(ARGS)

bench: .venv/test-installed
	$(BIN)/python benchmarks/compare.py $(ARGS)
	$(BIN)/python benchmarks/tables.py

soak: .venv/test-installed
	$(BIN)/python -m pytest -m soak tests/soak $(ARGS)

lint: .venv/test-installed
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/docs-installed
	$(BIN)/python -m sphinx -W --keep-going --nitpicky --quiet docs docs/_build

venv: .venv/test-installed

.venv/made:
	$(if $(PYTHON),,$(error CASA needs Python 3.11, 3.12 or 3.13: give one as PYTHON=...))
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo-installed .venv/docs-installed .venv/test-installed: .venv/%-installed: .venv/made setup.py pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

# What demos made, in demo-output, stays: it may hold what took hours.
clean:
	rm -rf .venv build dist docs/_build ptclean.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
