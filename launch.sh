#!/usr/bin/env bash
# The one entry for a person: sets up .venv when needed, then runs what was asked for.
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")"

usage() {
  cat <<'TEXT'
usage: ./launch.sh COMMAND

  setup                          make .venv and install netgpt into it
  demo [--data FILE] [KEY=VALUE] the whole pipeline, on synthetic or on released records; run again,
                                 it goes on where it stopped (runs/demo, or runs/NAME of the file)
  up [OPTIONS]                   start a Ray cluster on this machine, on --hosts FILE, or in a Slurm step
  submit -- netgpt ARGS          run a command there: ships this tree, follows the log, exits as it exits
  status [RUN]                   nodes and jobs of the cluster; with RUN, the stages of a run
  down                           end the cluster
  test [--all] [PYTEST ARGS]     all checks: format, lint, types, tests; --all: the long repetitions too
  netgpt ARGS                    any netgpt command inside .venv
TEXT
}

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "launch.sh: $*"
  exit 2
}

absolute() {
  case "$1" in
    /*) printf '%s' "$1" ;;
    *) printf '%s/%s' "$called_from" "$1" ;;
  esac
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail "found no Python 3.11 or newer; install one, or name it: PYTHON=/path/to/python ./launch.sh …"
}

setup() {
  local python stamp wanted
  python=$(find_python)
  stamp=.venv/.installed
  wanted=$(cat pyproject.toml constraints.txt | cksum)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi
  say "installing into .venv (some minutes the first time)"
  if [ ! -x .venv/bin/pip ]; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "found no venv for $python; install it (Debian, Ubuntu: apt-get install python3-venv)"
    "$python" -m venv --clear .venv
  fi
  .venv/bin/python -m pip install --quiet --upgrade pip
  # torch first: what depends on it must find it there, and not bring a build of its own
  .venv/bin/python -m pip install --quiet -c constraints.txt torch
  .venv/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
  printf '%s' "$wanted" >"$stamp"
}

demo() {
  local data=
  if [ "${1:-}" = --data ]; then
    [ -n "${2:-}" ] || fail "demo --data: found no file name, expected released records (JSON)"
    data=$(absolute "$2")
    [ -f "$data" ] || fail "demo --data: found no file $data, expected released records (JSON)"
    shift 2
  fi
  setup
  if [ -n "$data" ]; then
    exec .venv/bin/netgpt run --config sample --data "$data" --out "runs/$(basename "$data" .json)" "$@"
  fi
  [ -f runs/demo-records.json ] || .venv/bin/netgpt synth --json runs/demo-records.json --scale 0.003
  exec .venv/bin/netgpt run --config demo --data runs/demo-records.json --out runs/demo "$@"
}

checks() {
  local chosen=()
  if [ "${1:-}" = --all ]; then
    chosen=(-m "") # instead of the selection in pyproject.toml
    shift
  fi
  setup
  say "== format and lint"
  .venv/bin/ruff format --check .
  .venv/bin/ruff check .
  say "== types"
  .venv/bin/mypy
  say "== tests"
  # Files are dealt to processes, the slow ones of Ray first; one process where tests are named
  [ $# -gt 0 ] || set -- -n 2 --dist loadfile --no-loadscope-reorder --durations 25
  exec .venv/bin/python -m pytest ${chosen[@]+"${chosen[@]}"} "$@"
}

cluster() { # up, submit, status, down: the state lies in .cluster of this tree
  setup
  exec .venv/bin/netgpt cluster "$@"
}

command=${1:-}
[ $# -gt 0 ] && shift
case "$command" in
  setup) setup ;;
  up | down) cluster "$command" "$@" ;;
  submit)
    [ "${1:-}" = -- ] || [ "${1#--}" != "${1:-}" ] || set -- -- "$@"
    cluster submit --called-from "$called_from" "$@"
    ;;
  status)
    [ $# -eq 0 ] && cluster status
    setup
    program=$PWD/.venv/bin/netgpt
    cd "$called_from"
    exec "$program" status "$@"
    ;;
  demo) demo "$@" ;;
  test) checks "$@" ;;
  netgpt)
    setup
    program=$PWD/.venv/bin/netgpt
    cd "$called_from" # paths in the arguments are the caller's
    exec "$program" "$@"
    ;;
  '' | -h | --help | help) usage ;;
  *)
    usage >&2
    fail "unknown command: $command"
    ;;
esac
