# Every target makes what it needs, from nothing: `make bench` on a fresh clone is enough.
# GNU make 3.81 (macOS) or later and a POSIX shell; no sudo is ever called.
#
#   PYTHON=…   the interpreter to build .venv with (3.11 or later)
#   ARGS=…     passed on: make bench ARGS="run --profile full", make test ARGS="-k names -x"

.DEFAULT_GOAL := help
.PHONY: help setup bench test test-all lab check clean lock reference rabbitmq chromium FORCE

ARGS    ?=
PYTHON  ?=
PYTHONS := $(or $(PYTHON),python3.13 python3.14 python3.12 python3.11 python3)
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
PIP     := $(BIN)/python -m pip --disable-pip-version-check --quiet
CURRENT := greet/brokers/rabbitmq-current.sh
UV_LOCK := --universal --generate-hashes --no-emit-index-url --python-version 3.11
# All that a deployed producer or consumer needs; the rest starts brokers, measures, or draws.
APP     := aio-pika aiokafka confluent-kafka cramjam google-crc32c numpy

help:
	@echo "make bench   measure the three designs on real brokers       (ARGS=... is passed on)"
	@echo "make test    the tests and the notebooks, but what is long   (ARGS=... is passed on)"
	@echo "make test-all  also the long kills, clusters, peers and the browser"
	@echo "make lab     the notebooks, in JupyterLab"
	@echo "make check   ruff, mypy --strict, the import rules and the words of the texts"
	@echo "make reference  all that is published, measured and drawn again: over three hours"
	@echo "make lock    write the locks anew from pyproject.toml        (needs uv)"
	@echo "make clean   remove .venv and the caches; results/ stays"

# All that the others would install, for who wants it beforehand: the parts side by side, with --jobs.
setup: $(STAMP) rabbitmq chromium

bench: $(STAMP) rabbitmq
	@$(BIN)/python -m bench $(ARGS)

# Four at a time, as most tests wait for a broker. They share one of each, and some start more: 4 GB in all.
SHORT := -m "not long" -n 4 --dist loadfile

test: $(STAMP) rabbitmq
	@$(BIN)/python -m pytest $(SHORT) $(ARGS)

# Then the long ones, each alone: they stop brokers and fill machines. ARGS may choose tests of one kind: 5 says none.
# 1 says that some failed; all else, as Ctrl-C, ends it.
test-all: $(STAMP) rabbitmq chromium
	@none=$(if $(ARGS),5,0); $(BIN)/python -m pytest $(ARGS) $(SHORT); short=$$?; \
	case $$short in 0 | 1 | $$none) ;; *) exit $$short ;; esac; \
	$(BIN)/python -m pytest $(ARGS) -m long; long=$$?; \
	case "$$short $$long" in "0 0" | "0 $$none" | "$$none 0") ;; *) exit 1 ;; esac

lab: $(STAMP) rabbitmq
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@echo '{"@jupyterlab/apputils-extension:notification":{"fetchNews":"false","checkForUpdates":false}}' \
	  > $(VENV)/share/jupyter/lab/settings/overrides.json
	@root=; [ "$$(id -u)" != 0 ] || root=--allow-root; \
	$(BIN)/python -m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" $$root \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict greet bench tests
	@$(BIN)/python -m pytest -q tests/kit/test_house.py

clean:
	@rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
	@find . -name .git -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
	@[ ! -d results ] || echo "results/ holds your own runs and was kept; remove it by hand"

# Each part, a question of the full profile or a workload, is kept in results/reference, and what is there is not
# measured again: who stops it goes on with the same command. To begin anew, remove that folder. A repetition that fails
# does not stop it: RESULTS.md tells of it.
MADE  := results/reference
FULL  := throughput latency fan_out work_sharing work takeover payload connections scaling durability backlog growth \
         wake_up tweaking ladder start_up
READY := $(patsubst workloads/%.toml,workload-%,$(wildcard workloads/*.toml))
PARTS := $(FULL) faults faults-streams $(READY)

reference: $(STAMP) rabbitmq
	@echo "reference: $(words $(FULL)) questions (about 3 hours), faults (26 and 30 minutes), $(words $(READY)) workloads (10 minutes), notebooks (8 minutes)"
	@echo "reference: let the machine do nothing else meanwhile"
	@$(MAKE) --no-print-directory $(PARTS:%=$(MADE)/%)
	@rm -rf bench/reference
	@for part in $(PARTS); do \
	  mkdir -p bench/reference/$$part && cp $(MADE)/$$part/*.json* bench/reference/$$part/ || exit 1; \
	done
	@$(BIN)/python -m bench report --markdown --into RESULTS.md bench/reference/*
	@$(BIN)/python -m bench report --pictures pictures bench/reference/*
	@BENCH_RESULTS=/dev/null $(BIN)/python -m jupyter nbconvert --log-level WARN --to notebook --inplace --execute \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False notebooks/*.ipynb
	@echo "reference: made; tests/bench/test_reference.py says which figures of README.md are older"

$(MADE)/%: HOW = run --profile full --contenders all --questions $(notdir $@) $(ROUNDS)
# Slow messages (p99) differ most from round to round.
$(MADE)/latency $(MADE)/connections: ROUNDS = --rounds 10
$(MADE)/faults-streams: HOW = run --profile full --questions faults --designs rabbitmq-stream,kafka-share
$(MADE)/workload-%: HOW = workload $(patsubst workload-%,workloads/%.toml,$(notdir $@)) $(ASKED)
$(MADE)/workload-history: ASKED = --designs asyncio,rabbitmq,kafka,rabbitmq-stream,kafka-share
$(PARTS:%=$(MADE)/%):
	@echo "reference: $(notdir $@)"
	@rm -rf $@.part && mkdir -p $@.part
	@$(BIN)/python -m bench $(HOW) --out $@.part || { \
	  grep -q '"complete": true' $@.part/*/run.json && echo "reference: $(notdir $@) is complete, with what went wrong in it"; }
	@mv $@.part/* $@ && rmdir $@.part

lock:
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	@uv pip compile --quiet pyproject.toml --all-extras $(UV_LOCK) $(ARGS) -o requirements.lock
	@printf '%s\n' $(APP) | uv pip compile --quiet - -c requirements.lock $(UV_LOCK) \
	  --custom-compile-command "make lock" -o requirements-app.lock

# --- the virtual environment -------------------------------------------------------------------

# A copied or moved tree must not go on using the old one's kit: the stamp holds where it was made.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif

$(STAMP): requirements.lock pyproject.toml
	@$(call find_python); \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null || [ "$$(cat $(STAMP) 2>/dev/null)" != "$(CURDIR)" ]; then \
	  echo "setup: .venv with $$("$$python" --version)"; \
	  "$$python" -m venv --clear $(VENV); \
	fi
	@echo "setup: the locked dependencies (about a minute, the first time)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@echo "$(CURDIR)" > $@

# Sets $$python to the first that really runs, can make a virtual environment, and is 3.11 or later.
# The shims of pyenv exist for versions that are not there, and Debian keeps ensurepip in a package.
define find_python
python=; bare=; \
for p in $(PYTHONS); do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
  if "$$p" -c 'import ensurepip, venv' 2>/dev/null; then python=$$p; break; fi; \
  bare=$${bare:-$$p}; \
done; \
if [ -z "$$python" ] && [ -n "$$bare" ]; then \
  package="$$("$$bare" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; \
  if $(is_root_on_debian); then \
    echo "setup: $$package"; $(call apt_install,$$package) || exit 1; python=$$bare; \
  else \
    echo "$$bare cannot make virtual environments: sudo apt-get install $$package" >&2; exit 1; \
  fi; \
fi; \
if [ -z "$$python" ]; then \
  echo "No Python 3.11 or later among: $(PYTHONS). Name one: make PYTHON=/path/to/python3" >&2; exit 1; \
fi
endef

# --- what is not Python ------------------------------------------------------------------------

# Never fails: where no broker can be had, the kit itself names it, and the rest goes on. Where Debian's RabbitMQ has no
# support any more, or is not installed, a current one is prepared in the cache folder; else it is Debian's own. One that
# runs already, as from `docker compose`, is used.
rabbitmq:
	@if [ -n "$$GREET_RABBITMQ_URL" ] || $(CURRENT) found; then :; \
	elif $(BIN)/python -c 'import socket; socket.create_connection(("127.0.0.1", 5672), 1)' 2>/dev/null; then :; \
	elif $(is_root_on_debian) && { command -v mmdebstrap >/dev/null || $(call apt_install,mmdebstrap); } \
	  && $(CURRENT) prepare; then :; \
	elif command -v rabbitmq-server >/dev/null || [ -e /usr/lib/rabbitmq/bin/rabbitmq-server ]; then :; \
	elif $(is_root_on_debian); then \
	  echo "setup: rabbitmq-server from the system's packages (its service is left off)"; \
	  units="rabbitmq-server"; command -v epmd >/dev/null || units="$$units epmd.socket epmd.service"; \
	  epmds="$$($(list_epmd))"; \
	  $(call apt_install,rabbitmq-server) \
	    || echo "RabbitMQ could not be installed; with Docker instead: docker compose up -d --wait" >&2; \
	  ! command -v systemctl >/dev/null || systemctl disable --quiet $$units 2>/dev/null || :; \
	  [ -n "$$epmds" ] || [ -z "$$($(list_epmd))" ] || epmd -kill >/dev/null 2>&1 || :; \
	elif command -v brew >/dev/null; then echo "RabbitMQ is not installed: brew install rabbitmq" >&2; \
	elif command -v apt-get >/dev/null; then echo "RabbitMQ is not installed: sudo apt-get install rabbitmq-server" >&2; \
	  echo "Then stop its service, which listens on all interfaces: sudo systemctl disable --now rabbitmq-server" >&2; \
	else echo "RabbitMQ is not installed; with Docker: docker compose up -d --wait" >&2; fi

# For the test that opens the notebooks in a browser. It is installed only where no test may be skipped.
chromium:
	@if command -v chromium >/dev/null || [ "$$GREET_REQUIRE" != all ]; then :; \
	elif $(is_root_on_debian); then \
	  echo "setup: chromium from the system's packages"; \
	  $(call apt_install,chromium) || echo "Chromium could not be installed" >&2; \
	else echo "Chromium is not installed: sudo apt-get install chromium" >&2; fi

is_root_on_debian = { [ "$$(id -u)" = 0 ] && [ -f /etc/debian_version ] && command -v apt-get >/dev/null; }
list_epmd = grep -lx epmd /proc/[0-9]*/comm 2>/dev/null

# apt, without questions, and without starting any service: policy-rc.d is how Debian is told so.
# The lists are fetched only when they are missing or too old for the package. One at a time, as apt wants it.
define apt_install
( exec 9>/run/greet-apt.lock; flock 9; policy=/usr/sbin/policy-rc.d; log="$$(mktemp)"; trap 'rm -f "$$log"' EXIT; \
  export DEBIAN_FRONTEND=noninteractive; \
  if [ ! -e $$policy ] || grep -q '^# of greet' $$policy; then \
    trap 'rm -f "$$log" /usr/sbin/policy-rc.d' EXIT; trap 'exit 130' HUP INT TERM; \
    printf '#!/bin/sh\n# of greet\nexit 101\n' > $$policy; chmod 755 $$policy; \
  fi; \
  apt="apt-get -y --no-install-recommends -o DPkg::Lock::Timeout=120"; \
  { $$apt install $(1) || { $$apt update && $$apt install $(1); }; } 9>&- </dev/null >"$$log" 2>&1 \
    || { tail -n 5 "$$log" >&2; exit 1; } )
endef

FORCE:
