# Sourced by the scripts here, which get the build folder as argument. Exit status: 0 passed, 77 skipped (the reason is
# on standard output), else failed. They leave nothing behind but the cache in build/install.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(cd "${1:-$root/build}" && pwd)
cache=$root/build/install
work=$(mktemp -d "${TMPDIR:-/tmp}/triggerflow-install-XXXXXX")
unset MAKEFLAGS MAKELEVEL MFLAGS

step() { echo "== $*"; }
skip() { echo "skipped: $*"; exit 77; }
fail() { echo "failed: $*"; exit 1; }
need() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || skip "no $program"
    done
}

# await SECONDS COMMAND...: until the command succeeds.
await() {
    local limit=$1 deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || fail "not within $limit s: $*"
        sleep 0.05
    done
}

# same WHAT EXPECTED ACTUAL
same() { [ "$2" = "$3" ] || fail "$1 is '$3', not '$2'"; }

# Installs what is built below a folder, as a package would.
install_to() { make -s -C "$root" install PREFIX=/usr DESTDIR="$1" >"$work/install.log" 2>&1 || { cat "$work/install.log"; fail "make install"; }; }

cleanup() { :; } # of the script itself
finish() {
    local status=$?
    trap '' INT TERM
    cleanup || true
    rm -rf "$work"
    exit $status
}
trap finish EXIT
trap 'exit 143' INT TERM
