# Two commands: `make demo` and `make test`. Each makes .venv if it is missing.

PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo
STUDY := runs/demo-compare
export OMP_NUM_THREADS ?= 1
# Python writes bytecode even where this is set outside: tests start hundreds of processes, and each
# would compile the package again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint types imports docs tests format benchmarks evidence fuzz clean

demo: .venv/installed
	rm -rf $(RUN) $(STUDY)
	$(BIN)/grawa train digits --strategy lgrawa --workers 4 --out $(RUN)
	$(BIN)/grawa evaluate $(RUN)
	@echo "Eight workers of different quality, in sixteen random populations: do weights by gradient"
	@echo "norms or losses on a batch that all share beat equal weights (local_sgd) in the same time?"
	$(BIN)/grawa compare glyphs --out $(STUDY) --workers 8 --sync-every 16 --steps 160 --points 5 \
		--strategies local_sgd,norms=mgrawa:score=probe-times-loss:score.from=6:pull=1,losses=inverse_loss:score=probe-loss:pull=1 \
		--faults mixed:1,mixed:2,mixed:3,mixed:4,mixed:5,mixed:6,mixed:7,mixed:8,mixed:9,mixed:10,mixed:11,mixed:12,mixed:13,mixed:14,mixed:15,mixed:16 --seeds 1 --flatness 0 \
		--tune 1 --grid 4 --tune-faults mixed:2000,mixed:2001,mixed:2002

test: .venv/installed
	$(MAKE) --jobs lint imports types docs tests

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/mypy

imports: .venv/installed
	$(BIN)/lint-imports

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

tests: .venv/installed
	$(BIN)/pytest --numprocesses=3 --dist=loadscope --no-loadscope-reorder --durations=30

fuzz: .venv/installed
	GRAWA_FUZZ=1000 $(BIN)/pytest tests/lab/cli/test_hostile.py tests/checkpoints/test_fuzz.py

benchmarks: .venv/installed
	$(BIN)/pip install -qq -c constraints.txt -e '.[lab,bench]'
	for name in sync local_step paired stragglers scale stacking theory guard outer_momentum outer_steps; do \
		$(BIN)/python benchmarks/$$name.py || exit 1; \
	done

evidence: .venv/installed runs/evidence/theory runs/evidence/wells
	$(BIN)/python benchmarks/evidence.py

runs/evidence/theory: | .venv/installed
	$(BIN)/python benchmarks/theory.py
	mkdir -p $(@D)
	touch $@

runs/evidence/wells: | .venv/installed
	$(BIN)/grawa wells --out $@
	cp $@/paths.gif docs/pictures/wells.gif

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache runs site

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	# Python compiles a file when it is first imported; tests import a fifth of the 18,000 files.
	$(BIN)/pip install -qq --no-compile -c constraints.txt -e '.[lab,dev,docs,flatness,tensorboard,elastic,accelerate,lightning,transformers]'
	# A dependency of [flatness] brings it, and doesn't use it. Built for another torch, as on CPUs,
	# it can't be imported, and then Transformers can't either.
	$(BIN)/python -c 'import torchvision' 2> /dev/null || $(BIN)/pip uninstall -qqy torchvision
	touch $@
