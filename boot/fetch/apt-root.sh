# shellcheck shell=bash
# A private apt root: fetches packages of another Debian suite without touching
# the machine's own apt configuration, lists or dpkg database.  Sourced by the
# fetch scripts.
#
#   apt_root SUITE...      make the root current for these suites
#                          (with APT_SOURCES=yes for source packages too)
#   apt_private ARGS...    apt-get with that root
#   debian_mirror          print the archive that the machine itself uses
#
# The archive's address comes from the machine's own apt configuration at run
# time, or from RADON_MIRROR; packages are checked against Debian's keyring.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(cd "$here/../.." && pwd)
CACHE=${RADON_CACHE:-$TOP/build/cache}
KEYRING=${RADON_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
MARK=.radon-complete

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() { say "$*"; exit 1; }

debian_mirror() {
    if [ -n "${RADON_MIRROR:-}" ]; then
        printf '%s\n' "${RADON_MIRROR%/}"
        return
    fi
    local uri
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed 's,/*$,,' | grep -E '/debian$' | grep -vE 'security|debug' | awk '!seen[$0]++' | head -n 1) || true
    [ -n "$uri" ] || die "no Debian archive in this machine's apt sources; name one: RADON_MIRROR=http://HOST/debian"
    printf '%s\n' "$uri"
}

apt_private() {
    apt-get -q -o Dir::State="$APT/state" -o Dir::State::status="$APT/status" \
        -o Dir::Cache="$APT/cache" -o Dir::Etc::sourcelist="$APT/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::main=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::Etc::preferences=/dev/null \
        -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User= \
        -o APT::Update::Post-Invoke::= -o Acquire::Languages=none \
        -o Acquire::Retries=3 -o Debug::NoLocking=1 "$@"
}

apt_root() {
    local mirror suite wanted
    mirror=$(debian_mirror)
    [ -r "$KEYRING" ] || die "no $KEYRING: install debian-archive-keyring"
    APT=$CACHE/apt/$(IFS=-; printf '%s' "$*")
    [ "${APT_SOURCES:-no}" = no ] || APT=$APT-src
    mkdir -p "$APT/state/lists/partial" "$APT/cache/archives/partial"
    : >>"$APT/status"
    wanted=$(for suite in "$@"; do
        printf 'deb [signed-by=%s] %s %s main\n' "$KEYRING" "$mirror" "$suite"
        [ "${APT_SOURCES:-no}" = no ] ||
            printf 'deb-src [signed-by=%s] %s %s main\n' "$KEYRING" "$mirror" "$suite"
    done)
    if [ "$(cat "$APT/sources.list" 2>/dev/null)" != "$wanted" ] ||
        [ -z "$(find "$APT/$MARK" -mmin -1440 2>/dev/null)" ]; then
        printf '%s\n' "$wanted" >"$APT/sources.list"
        say "reading the package lists of $*"
        apt_private update >"$APT/update.log" 2>&1 || { tail -n 20 "$APT/update.log" >&2; die "apt-get update failed"; }
        : >"$APT/$MARK"
    fi
}
