#!/usr/bin/env bash
# Build Bochs 3.0 from Debian trixie's source package: the emulator that gives
# us Intel VMX with EPT where there is no KVM.  Debian 12's own package (2.7)
# is about three times slower and has to be driven through its debugger.
#
# Leaves build/cache/bochs/bin/bochs; does nothing when that is present.
set -euo pipefail
. "$(dirname "$0")/apt-root.sh"

DIR=$CACHE/bochs
# Counts up when the build changes, so that an older one in the cache is replaced.
BUILD=2
[ "$(cat "$DIR/$MARK" 2>/dev/null)" = $BUILD ] && exit 0
for tool in g++ make xz; do
    command -v "$tool" >/dev/null || die "no $tool: run the setup command first"
done

APT_SOURCES=yes
apt_root trixie
work=$CACHE/bochs-build
rm -rf "$work" "$DIR"
mkdir -p "$work"
cd "$work"
say "fetching the source package"
# Only the upstream archive is used; Debian's packaging of it does not matter
# here, and a mirror that lacks a part of it must not stop us.
apt_private source --download-only bochs >download.log 2>&1 || true
tarball=$(ls bochs_*.orig.tar.* 2>/dev/null | head -n 1)
[ -n "$tarball" ] || { tail -n 20 download.log >&2; die "no source package of bochs in trixie"; }
# (--print-uris leaves out what lies in the current directory)
want=$(cd / && apt_private source --print-uris bochs 2>/dev/null | grep -F " $tarball " | grep -o 'SHA256:[0-9a-f]*' | cut -d: -f2) || true
[ "$(sha256sum <"$tarball" | cut -d' ' -f1)" = "$want" ] || die "$tarball does not have the checksum of the package lists"
mkdir src
tar -C src --strip-components=1 -xf "$tarball"
cd src
[ -x configure ] || chmod +x configure
# With several CPUs, Bochs 3.0 goes on after an exception without taking the handler's address as
# the RIP to go back to. An external interrupt that makes a guest exit right there then leaves the
# address of the faulting instruction in the VMCS, with the handler's CS, SS and RSP, and the guest
# goes on there in ring 0. (With one CPU the main loop takes it.)
sed -i '/^void BX_CPU_C::cpu_run_trace(void)$/{n;s/^{$/{\n  BX_CPU_THIS_PTR prev_rip = RIP;/}' cpu/cpu.cc
grep -A2 '^void BX_CPU_C::cpu_run_trace(void)$' cpu/cpu.cc | grep -qF 'prev_rip = RIP;' || die "cpu_run_trace has changed: see what its correction here says"
flags=-O3
grep -qw avx2 /proc/cpuinfo && grep -qw bmi2 /proc/cpuinfo && grep -qw movbe /proc/cpuinfo && flags='-O3 -march=x86-64-v3'
jobs=${RADON_JOBS:-$(nproc)}
say "configuring"
./configure --prefix="$DIR" --enable-x86-64 --enable-smp --enable-cpu-level=6 --enable-vmx=2 --enable-svm \
    --enable-avx --enable-evex --enable-all-optimizations --enable-pci --enable-e1000 --enable-ne2000 \
    --enable-a20-pin --enable-memtype --enable-long-phy-address --enable-protection-keys --enable-cet \
    --with-nogui --with-term --disable-docbook --disable-debugger --disable-debugger-gui \
    CXXFLAGS="$flags" >../configure.log 2>&1 || { tail -n 20 ../configure.log >&2; die "configure failed"; }
say "compiling (a few minutes on $jobs cores)"
nice -n 10 make -j"$jobs" >../make.log 2>&1 &
pid=$!
while kill -0 "$pid" 2>/dev/null; do
    sleep 15
    kill -0 "$pid" 2>/dev/null && say "  $(find . -name '*.o' | wc -l) objects"
done
wait "$pid" || { tail -n 30 ../make.log >&2; die "make failed; log in $work/make.log"; }
mkdir -p "$DIR/bin"
install -m 755 bochs "$DIR/bin/bochs"
cd "$CACHE"
rm -rf "$work/src" "$work"/*.tar.* "$work"/*.dsc
printf '%s\n' $BUILD >"$DIR/$MARK"
say "done: $("$DIR/bin/bochs" --help 2>&1 | grep -m1 -o 'Bochs x86 Emulator [0-9.]*' || echo bochs)"
