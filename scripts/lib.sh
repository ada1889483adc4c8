# What the scripts share. Source it: it goes to the top of the checkout and finds Rust.
# shellcheck shell=bash
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
# Administrators' programs are not on every user's path.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
MIN_RUST=95 # 1.95, as rust-version in Cargo.toml

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
[[ -t 2 ]] || say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }
is_root() { ((EUID == 0)); }
has() { command -v "$1" >/dev/null; }

# Under sudo, cargo runs as the owner of the checkout, so that target/ and ~/.cargo stay his.
owner=$(stat -c %U "$root")
is_root && [[ $owner != root && $owner != UNKNOWN ]] || owner=
as_owner() {
    if [[ $owner ]]; then
        runuser -u "$owner" -- env HOME="$(getent passwd "$owner" | cut -d: -f6)" "$@"
    else
        "$@"
    fi
}

# Puts a Rust that is new enough first on the path: of the owner, on the path, of this user, of Debian.
find_rust() {
    local home folder
    for owner in ${owner:+"$owner"} ''; do
        home=$(getent passwd "${owner:-$(id -un)}" | cut -d: -f6)
        for folder in "$home/.cargo/bin" "${HOME:-$home}/.cargo/bin" "$(dirname "$(command -v cargo || true)")" /usr/bin; do
            if is_new_rust "$folder"; then
                PATH=$folder:$PATH
                return
            fi
        done
    done
    return 1
}
is_new_rust() {
    local version
    [[ -x $1/cargo && -x $1/rustc ]] || return 1
    version=$(as_owner env PATH="$1:$PATH" "$1/rustc" --version 2>/dev/null) || return 1
    [[ $version =~ ^rustc\ 1\.([0-9]+)\. ]] && ((BASH_REMATCH[1] >= MIN_RUST))
}
need_rust() { find_rust || die "needs Rust 1.$MIN_RUST or newer: sudo scripts/setup"; }

# The toolchain that builds BPF objects; prints what is missing.
LLVM=/usr/lib/llvm-22
bpf_missing() {
    [[ -x /usr/bin/rustc ]] && is_new_rust /usr/bin || echo rustc-web cargo-web
    [[ -d /usr/lib/rustlib/src/rust/library ]] || echo rust-web-src
    [[ -x $LLVM/bin/llvm-objcopy ]] || echo llvm-22-dev
    as_owner env PATH="$PATH" bash -c 'command -v bpf-linker' >/dev/null || echo bpf-linker
}

# What the BPF objects are made of; a test checks the digests that scripts/build notes of them.
bpf_sources() {
    find lb-ebpf/Cargo.toml lb-ebpf/Cargo.lock lb-ebpf/.cargo lb-ebpf/src lb-ebpf/common/Cargo.toml lb-ebpf/common/src \
        -type f \( -name '*.rs' -o -name '*.toml' -o -name Cargo.lock \) | LC_ALL=C sort
}
