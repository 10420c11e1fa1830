#!/usr/bin/env bash
# Everything that CI runs: format, lints, tests, the build without the window, pages. Stops at the first fault.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/petl-target}"
step() { printf '\n== %s\n' "$*"; }

step "format";              cargo fmt --check
step "tests";               cargo test --release              # the README's command
step "lints";               cargo clippy --release --all-targets -- -D warnings
step "without the window";  cargo check --release --no-default-features
step "pages";               RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps
step "all is well"
