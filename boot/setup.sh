#!/usr/bin/env bash
# Install what building, running and testing need.  Installs nothing that is
# present; asks for sudo when not root.
set -euo pipefail
declare -A packages=(
    [qemu-system-x86_64]=qemu-system-x86 [grub-mkrescue]=grub-common [xorriso]=xorriso [mformat]=mtools
    [mmdebstrap]=mmdebstrap [mke2fs]=e2fsprogs [zstd]=zstd [xz]=xz-utils [depmod]=kmod [busybox]=busybox-static
    [dpkg-deb]=dpkg [strip]=binutils [g++]=g++ [make]=make [git]=git [cc]=gcc
)
declare -A files=(
    [/usr/share/OVMF/OVMF_CODE_4M.fd]=ovmf [/usr/lib/grub/i386-pc/multiboot2.mod]=grub-pc-bin
    [/usr/lib/grub/x86_64-efi/multiboot2.mod]=grub-efi-amd64-bin [/usr/share/bochs/BIOS-bochs-latest]=bochsbios
    [/usr/share/vgabios/vgabios.bin]=vgabios [/usr/share/keyrings/debian-archive-keyring.gpg]=debian-archive-keyring
    [/usr/include/ncurses.h]=libncurses-dev [/usr/include/xen/xen.h]=libxen-dev
)
PATH=$PATH:/usr/sbin:/sbin
missing=()
for command in "${!packages[@]}"; do
    command -v "$command" >/dev/null 2>&1 || missing+=("${packages[$command]}")
done
for file in "${!files[@]}"; do
    [ -e "$file" ] || missing+=("${files[$file]}")
done
if [ ${#missing[@]} -gt 0 ]; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    command -v apt-get >/dev/null || { echo "setup: needs Debian 12 or later (apt-get); missing: ${missing[*]}" >&2; exit 1; }
    echo "setup: installing ${missing[*]}"
    [ -z "$sudo" ] || echo "setup: asking sudo for it"
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
eval "$("$(dirname "$0")/toolchain.sh" env)"
echo "setup: ready ($(${RUSTC:-rustc} --version))"
