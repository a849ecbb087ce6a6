#!/usr/bin/env bash
# Fetch Debian's stock kernels: trixie's 6.12 and bookworm's 6.1 (the full
# flavour: the cloud flavour has no XEN_DOM0).
#
#   kernels.sh [6.12|6.1]...     both when none is named
#
# Leaves in build/cache/kernels/VERSION: vmlinuz, vmlinux (the ELF unpacked
# from it), config, release (uname -r) and lib/modules/RELEASE.
set -euo pipefail
. "$(dirname "$0")/apt-root.sh"

# bzImage to ELF: Documentation/arch/x86/boot.rst, payload_offset (0x248) is
# relative to the protected-mode code, which starts after setup_sects (0x1f1).
unpack_vmlinux() {
    local image=$1 out=$2 sects off len start magic
    u32() { od -An -tu4 -j "$1" -N 4 "$image" | tr -d ' '; }
    sects=$(od -An -tu1 -j 497 -N 1 "$image" | tr -d ' ')
    [ "$sects" != 0 ] || sects=4
    off=$(u32 584)
    len=$(u32 588)
    start=$(((sects + 1) * 512 + off))
    magic=$(od -An -tx1 -j "$start" -N 4 "$image" | tr -d ' ')
    local tool
    case $magic in
    28b52ffd) tool='zstd -dcq' ;;
    fd377a58) tool='xz -dcq' ;;
    1f8b*) tool='gzip -dcq' ;;
    *) die "$image: payload compression $magic is not known" ;;
    esac
    # The last four bytes are the unpacked size, not part of the stream.
    head -c "$((start + len - 4))" "$image" | { head -c "$start" >/dev/null; $tool; } >"$out.part"
    mv "$out.part" "$out"
}

fetch_kernel() {
    local version=$1 suite=$2 dir=$CACHE/kernels/$1
    [ -e "$dir/$MARK" ] && return 0
    apt_root "$suite"
    local name
    name=$(apt_private -s install --no-install-recommends linux-image-amd64 2>/dev/null |
        sed -n 's/^Inst \(linux-image-[0-9][^ ]*\) .*/\1/p' | head -n 1)
    [ -n "$name" ] || die "no kernel package behind linux-image-amd64 in $suite"
    say "fetching $name ($suite)"
    rm -rf "$dir"
    mkdir -p "$dir"
    (cd "$dir" && apt_private download "$name" >download.log 2>&1) ||
        { tail -n 20 "$dir/download.log" >&2; die "download of $name failed"; }
    dpkg-deb -x "$dir"/linux-image-*.deb "$dir/tree"
    rm -f "$dir"/linux-image-*.deb
    mv "$dir"/tree/boot/vmlinuz-* "$dir/vmlinuz"
    mv "$dir"/tree/boot/config-* "$dir/config"
    mkdir -p "$dir/lib"
    # A merged-/usr package keeps its modules under usr/lib.
    if [ -d "$dir/tree/usr/lib/modules" ]; then
        mv "$dir/tree/usr/lib/modules" "$dir/lib/modules"
    else
        mv "$dir/tree/lib/modules" "$dir/lib/modules"
    fi
    rm -rf "$dir/tree"
    ls "$dir/lib/modules" >"$dir/release"
    depmod -b "$dir" "$(cat "$dir/release")" || die "depmod failed (package kmod)"
    unpack_vmlinux "$dir/vmlinuz" "$dir/vmlinux"
    : >"$dir/$MARK"
    say "kernel $(cat "$dir/release") is in $dir"
}

[ $# -gt 0 ] || set -- 6.12 6.1
for v in "$@"; do
    case $v in
    6.12) fetch_kernel 6.12 trixie ;;
    6.1) fetch_kernel 6.1 bookworm ;;
    *) die "unknown kernel '$v': 6.12 or 6.1" ;;
    esac
done
