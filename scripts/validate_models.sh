#!/usr/bin/env bash
# Check the repository without building: what is out of date, what the linter finds.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/builder status
exec .venv/bin/builder lint "$@"
