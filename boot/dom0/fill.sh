#!/bin/sh
# Run by mmdebstrap when the packages are in place: fill.sh ROOT MODULES INIT IMAGE SIZE LABEL
# Adds the kernel's modules and our init, and writes the file system image while
# the owners are right (mmdebstrap may have mapped them into a user namespace).
set -e
PATH=$PATH:/usr/sbin:/sbin
root=$1 modules=$2 init=$3 image=$4 size=$5 label=$6
mkdir -p "$root/usr/lib/modules"
cp -a "$modules" "$root/usr/lib/modules/"
install -m 755 "$init" "$root/usr/sbin/radon-init"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* \
    "$root"/usr/share/locale/* "$root"/usr/share/man/*
echo dom0 >"$root/etc/hostname"
# /proc, /sys and /dev are mounted in the root now: copy without them, by links.
copy=$root.image
cp -axl "$root" "$copy"
truncate -s "$size" "$image"
mke2fs -q -t ext4 -L "$label" -O ^has_journal -E root_owner=0:0 -d "$copy" -F "$image"
rm -rf "$copy"
