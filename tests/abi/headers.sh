#!/usr/bin/env bash
# Fetch Xen's public headers as Debian 13 ships them (libxen-dev 4.20), for the
# comparison with our own layouts.  Prints the include directory.
#
# Leaves build/cache/libxen-dev/usr/include/xen; does nothing when that is present.
set -euo pipefail
. "$(dirname "$0")/../../boot/fetch/apt-root.sh"

DIR=$CACHE/libxen-dev
# Tests run side by side, and each asks.
mkdir -p "$CACHE"
exec 9>"$DIR.lock"
flock 9
if [ ! -e "$DIR/$MARK" ]; then
    command -v dpkg-deb >/dev/null || die "no dpkg-deb"
    apt_root trixie
    rm -rf "$DIR"
    mkdir -p "$DIR"
    cd "$DIR"
    say "fetching libxen-dev"
    apt_private download libxen-dev >download.log 2>&1 || { tail -n 20 download.log >&2; die "no package libxen-dev"; }
    dpkg-deb -x libxen-dev_*.deb .
    rm -f libxen-dev_*.deb
    [ -r usr/include/xen/xen.h ] || die "the package holds no xen/xen.h"
    : >"$DIR/$MARK"
fi
printf '%s\n' "$DIR/usr/include"
