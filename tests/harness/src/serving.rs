//! A dom0 that serves guests, from the initramfs that has the tools in it.

/// Commands, one after the other, that make the bridge as the README's dom0 makes it, and start
/// both daemons.
pub const SET_UP: &[&str] = &[
    // Without job control, no word of the shell's own about a child stands in an answer.
    "set +m; export PATH=/bin:/usr/sbin; mkdir -p /run /var/log/xen /var/lib/xen /mnt",
    "ip link add xenbr0 type bridge && ip link set xenbr0 up && ip address add 10.0.2.15/24 dev xenbr0",
    "for c in /sys/class/net/e*; do [ -e $c ] && ip link set ${c##*/} master xenbr0 up; done; true",
    // What nobody has claimed is not for the outside: QEMU's user network answers pings to any address.
    "for c in /sys/class/net/e*; do [ -e $c ] && echo 0 >$c/brport/unicast_flood; done; true",
    "store() { setsid xenstored --init-dom0 </dev/null >>/var/log/xen/xenstored.log 2>&1 & }",
    "consoles() { setsid xenconsoled </dev/null >>/var/log/xen/xenconsoled.log 2>&1 & }",
    "store; i=0; until xl list >/dev/null 2>&1 || [ $i -gt 100 ]; do sleep 0.1; i=$((i + 1)); done",
    "consoles; xl list",
];
