#!/usr/bin/env bash
# Make .venv and install the pinned dependencies into it. Called by the Makefile.
# Usage: scripts/bootstrap.sh VENV [EXTRAS]     e.g. scripts/bootstrap.sh .venv dev,gpu
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
extras=${2:-}

fail() {
  printf 'error: %s\n  -> %s\n' "$1" "$2" >&2
  exit 1
}

# A version manager may put shims on PATH that do not run: ask each candidate for its version.
suitable() {
  "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null
}

if [ ! -x "$venv/bin/python" ] || ! suitable "$venv/bin/python"; then
  python=
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3 python; do
    if [ -n "$candidate" ] && suitable "$candidate"; then
      python=$candidate
      break
    fi
  done
  [ -n "$python" ] || fail "Python 3.11 or 3.12 was not found" \
    "install it (Debian: apt install python3.11 python3.11-venv), or set PYTHON=/path/to/python"
  "$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv module" \
    "install it (Debian: apt install $("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')-venv)"
  echo "creating $venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
fi

command -v "${CXX:-g++}" >/dev/null || fail "a C++ compiler was not found" \
  "install it (Debian: apt install g++), or set CXX"

echo "installing${extras:+ with extras $extras}: about 2 GB, a few minutes the first time"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable ".${extras:+[$extras]}"

# onnxruntime and onnxruntime-gpu install the same files: the one that comes last counts.
case ",$extras," in
  *,gpu,*)
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --constraint constraints.txt --force-reinstall --no-deps onnxruntime-gpu
    ;;
esac
