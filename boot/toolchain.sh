#!/usr/bin/env bash
# Find or make a Rust toolchain that can build for x86_64-unknown-none.
#
#   toolchain.sh env       print the assignments that the entry script evaluates
#   toolchain.sh check     exit 0 when the toolchain found can build and link
#
# With rustup and network, rust-toolchain.toml brings the target and nothing is
# done here.  On machines that reach only Debian's archive, the packaged
# compiler (rustc-web, cargo-web, rust-web-src) gets core, alloc and
# compiler_builtins built once from its own source package, with the vendored
# crates beside it: afterwards a plain `cargo build --target` works on stable.
set -euo pipefail

TOP=$(cd "$(dirname "$0")/.." && pwd)
TARGET=x86_64-unknown-none
HOST=x86_64-unknown-linux-gnu
# Edition 2024 and the language features used need at least this.
MINOR_MIN=95
NAME=debian
RUSTC=/usr/bin/rustc
CARGO=/usr/bin/cargo
SUDO=
[ "$(id -u)" = 0 ] || SUDO=sudo

say() { printf 'toolchain: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Does this compiler (a command) know the target's libraries?
has_target() {
    local sysroot
    sysroot=$(cd "$TOP" && "$@" --print sysroot 2>/dev/null) || return 1
    compgen -G "$sysroot/lib/rustlib/$TARGET/lib/libcore-*.rlib" >/dev/null
}

new_enough() {
    local minor
    minor=$("$1" --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
    [ -n "$minor" ] && [ "$minor" -ge "$MINOR_MIN" ]
}

need_packages() {
    new_enough "$RUSTC" && [ -x "$CARGO" ] &&
        [ -f "$("$RUSTC" --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ] && return 0
    say "installing rustc-web, cargo-web, rust-web-src, rust-web-clippy"
    $SUDO apt-get update -qq >&2
    $SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        rustc-web cargo-web rust-web-src rust-web-clippy >&2 ||
        die "no packaged compiler: install rustup (https://rustup.rs) and try again"
    new_enough "$RUSTC" || die "$("$RUSTC" --version) is older than 1.$MINOR_MIN: install rustup (https://rustup.rs)"
}

build_libraries() {
    local sysroot=$1 version=$2 work lib crate found
    lib=$sysroot/lib/rustlib/$TARGET/lib
    work=$(mktemp -d)
    mkdir -p "$work/seed/src" "$work/home"
    printf '[package]\nname = "seed"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n' >"$work/seed/Cargo.toml"
    printf '#![no_std]\n' >"$work/seed/src/lib.rs"
    say "building core, alloc and compiler_builtins for $TARGET (1-2 minutes, once)"
    # embed-bitcode: a profile with lto = true cannot link them otherwise.
    (cd "$work/seed" && env -u RUSTUP_TOOLCHAIN -u CARGO_BUILD_TARGET -u CARGO_TARGET_DIR \
        CARGO_HOME="$work/home" RUSTC="$RUSTC" RUSTC_BOOTSTRAP=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
        RUSTFLAGS='-Cforce-frame-pointers=yes -Cembed-bitcode=yes' \
        "$CARGO" build -q --release --offline --target $TARGET \
        --config 'source.crates-io.replace-with="vendored"' \
        --config "source.vendored.directory=\"$sysroot/lib/rustlib/src/rust/library/vendor\"" \
        -Zbuild-std=core,alloc,compiler_builtins -Zbuild-std-features=compiler-builtins-mem) >&2
    $SUDO rm -rf "$lib"
    $SUDO mkdir -p "$lib"
    for crate in core alloc compiler_builtins; do
        found=("$work"/seed/target/$TARGET/release/deps/lib$crate-*.rlib)
        [ ${#found[@]} = 1 ] && [ -f "${found[0]}" ] || die "expected one rlib of $crate, got: ${found[*]}"
        $SUDO install -m 644 "${found[0]}" "$lib/"
    done
    printf '%s\n' "$version" | $SUDO tee "$lib/.built-for" >/dev/null
    rm -rf "$work"
}

# The target's linker is "rust-lld", which Debian does not ship.  rustc looks
# for it in rustlib/HOST/bin; lld takes its flavour from argv[0], hence the
# wrapper around Debian's ld.lld.
install_linker() {
    local sysroot=$1 place candidate
    place=$sysroot/lib/rustlib/$HOST/bin/rust-lld
    [ -x "$place" ] && return 0
    $SUDO mkdir -p "$(dirname "$place")"
    for candidate in "${RUSTUP_HOME:-$HOME/.rustup}"/toolchains/*/lib/rustlib/$HOST/bin/rust-lld; do
        if [ -x "$candidate" ]; then
            $SUDO ln -sfn "$candidate" "$place"
            return 0
        fi
    done
    if [ ! -x /usr/bin/ld.lld ]; then
        say "installing lld"
        $SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends lld >&2
    fi
    printf '#!/bin/sh\n[ "$1" = -flavor ] && shift 2\nexec /usr/bin/ld.lld "$@"\n' | $SUDO tee "$place" >/dev/null
    $SUDO chmod 755 "$place"
}

# Sets up the packaged compiler and prints how to reach it.
use_packaged() {
    local sysroot version
    need_packages
    sysroot=$("$RUSTC" --print sysroot)
    version=$("$RUSTC" -vV | sed -n 's/^release: //p;s/^commit-hash: //p' | tr '\n' ' ')
    if ! has_target "$RUSTC" || [ "$(cat "$sysroot/lib/rustlib/$TARGET/lib/.built-for" 2>/dev/null)" != "$version" ]; then
        build_libraries "$sysroot" "$version"
    fi
    install_linker "$sysroot"
    if command -v rustup >/dev/null 2>&1; then
        rustup toolchain list 2>/dev/null | grep -q "^$NAME\b" || rustup toolchain link "$NAME" "$sysroot" >&2
        printf 'export RUSTUP_TOOLCHAIN=%s\n' "$NAME"
    else
        # A cargo elsewhere in PATH would not know the libraries just built.
        printf 'export RUSTC=%s CARGO=%s\n' "$RUSTC" "$CARGO"
    fi
}

# rustfmt is not part of the packaged compiler.
print_formatter() {
    local name
    if ! command -v rustup >/dev/null 2>&1; then
        return 0
    fi
    for name in stable $(rustup toolchain list 2>/dev/null | sed 's/ .*//' | grep -v "^$NAME$"); do
        if RUSTUP_TOOLCHAIN=$name rustfmt --version >/dev/null 2>&1; then
            printf 'export RADON_FMT_TOOLCHAIN=%s\n' "$name"
            return 0
        fi
    done
}

case ${1:-} in
env)
    if [ -n "${RUSTUP_TOOLCHAIN:-}" ] && has_target rustc; then
        : # the caller chose, and it works
    elif [ -z "${RUSTUP_TOOLCHAIN:-}" ] && command -v rustc >/dev/null && new_enough rustc && has_target rustc; then
        :
    elif command -v rustup >/dev/null 2>&1 && [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ] &&
        (cd "$TOP" && rustup target add "$TARGET") >&2; then
        :
    else
        use_packaged
    fi
    print_formatter
    ;;
check)
    eval "$("$0" env)"
    has_target "${RUSTC:-rustc}" && say "usable: $("${RUSTC:-rustc}" --version)"
    ;;
*)
    sed -n '2,12p' "$0"
    exit 2
    ;;
esac
