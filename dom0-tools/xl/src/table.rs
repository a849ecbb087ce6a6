//! The table of commands.

use crate::commands::{
    completion, config, console, create, debug, device, help, info, life, list, memory, name,
    sched, top, vcpu,
};
use crate::context::{Context, Result};

/// A command.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Context, &[String]) -> Result,
    /// Operands.
    pub(crate) usage: &'static str,
    /// One sentence.
    pub(crate) what: &'static str,
    /// One line each.
    pub(crate) options: &'static str,
}

/// Commands that know what `-N` means; all others refuse it, rather than act.
const DRY_RUN: &[&str] = &[
    "block-attach",
    "config-update",
    "create",
    "network-attach",
    "vcpu-pin",
];

impl Command {
    /// Can it only say what it would do?
    pub(crate) fn can_dry_run(&self) -> bool {
        DRY_RUN.contains(&self.name)
    }
}

/// Commands of Xen's xl that are not here: why, and what to do.
pub(crate) struct Refused {
    pub(crate) names: &'static [&'static str],
    pub(crate) why: &'static str,
    pub(crate) instead: &'static str,
}

/// All of them.
pub(crate) static REFUSED: &[Refused] = &[
    Refused {
        names: &[
            "save",
            "restore",
            "migrate",
            "migrate-receive",
            "suspend",
            "resume",
            "remus",
        ],
        why: "guests cannot be saved or moved yet",
        instead: "shut the guest down, and create it again",
    },
    Refused {
        names: &[
            "pci-attach",
            "pci-detach",
            "pci-list",
            "pci-assignable-add",
            "pci-assignable-remove",
            "pci-assignable-list",
            "dt-overlay",
        ],
        why: "devices of the machine cannot be given to guests yet",
        instead: "use disks and network cards of dom0",
    },
    Refused {
        names: &[
            "vncviewer",
            "qemu-monitor-command",
            "cd-insert",
            "cd-eject",
            "usbctrl-attach",
            "usbctrl-detach",
            "usbdev-attach",
            "usbdev-detach",
            "usb-list",
        ],
        why: "guests have no emulated devices",
        instead: "use 'xl console' and 'xl block-attach'",
    },
    Refused {
        names: &[
            "channel-list",
            "vtpm-attach",
            "vtpm-list",
            "vtpm-detach",
            "vkb-attach",
            "vkb-list",
            "vkb-detach",
            "vdispl-attach",
            "vdispl-list",
            "vdispl-detach",
            "vsnd-attach",
            "vsnd-list",
            "vsnd-detach",
        ],
        why: "this kind of device has no backend here",
        instead: "disks, network cards and a text console are available",
    },
    Refused {
        names: &["sched-credit", "sched-rtds"],
        why: "the scheduler is credit2",
        instead: "use 'xl sched-credit2'",
    },
    Refused {
        names: &[
            "cpupool-create",
            "cpupool-destroy",
            "cpupool-rename",
            "cpupool-cpu-add",
            "cpupool-cpu-remove",
            "cpupool-migrate",
            "cpupool-numa-split",
        ],
        why: "there is one CPU pool, with all CPUs",
        instead: "pin vCPUs: 'xl vcpu-pin'",
    },
    Refused {
        names: &["getenforce", "setenforce", "loadpolicy"],
        why: "there is no security module",
        instead: "the access rules are fixed; see docs/abi-coverage.md",
    },
    Refused {
        names: &["sharing"],
        why: "guests share no memory",
        instead: "see 'xl list' for what each has",
    },
    Refused {
        names: &[
            "psr-hwinfo",
            "psr-cmt-attach",
            "psr-cmt-detach",
            "psr-cmt-show",
            "psr-cat-set",
            "psr-cat-show",
            "psr-mba-set",
            "psr-mba-show",
        ],
        why: "caches and memory bandwidth are not divided",
        instead: "use weights and caps: 'xl sched-credit2'",
    },
    Refused {
        names: &["set-parameters"],
        why: "options of the hypervisor cannot be changed while it runs",
        instead: "change its command line in the boot loader; see docs/boot.md",
    },
    Refused {
        names: &["button-press"],
        why: "it is deprecated in Xen",
        instead: "use 'xl trigger DOMAIN power'",
    },
    Refused {
        names: &["devd"],
        why: "backends run in dom0 only, and need no daemon",
        instead: "remove it from what starts it",
    },
    Refused {
        names: &["xenstore-quota-get", "xenstore-quota-set"],
        why: "quotas are the same for all guests",
        instead: "see 'xenstore' and the options of xenstored",
    },
];

/// Why a command of Xen's is not here.
pub(crate) fn refused(name: &str) -> Option<&'static Refused> {
    REFUSED.iter().find(|refused| refused.names.contains(&name))
}

/// Looks a command up.
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    // xl takes any unambiguous beginning.
    if let Some(exact) = COMMANDS.iter().find(|command| command.name == name) {
        return Some(exact);
    }
    let mut all = COMMANDS
        .iter()
        .filter(|command| command.name.starts_with(name));
    match (all.next(), all.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

macro_rules! commands {
    ($($name:literal, $run:path, $usage:literal, $what:literal, $options:literal;)*) => {
        /// All of them.
        pub(crate) static COMMANDS: &[Command] = &[$(Command {
            name: $name, run: $run, usage: $usage, what: $what, options: $options,
        },)*];
    };
}

commands! {
    "create", create::create, "<ConfigFile> [options] [name=value ...]",
        "Create a domain from config file <filename>",
        "-c                      Connect to the console after the domain is created.\n\
         -d                      Print the resulting configuration to stderr, and go on.\n\
         -e                      Do not wait in the background for the death of the domain.\n\
         -F                      Run in foreground until death of the domain.\n\
         -f FILE, --defconfig=FILE\n                        Use the given configuration file.\n\
         -n, --dryrun            Print the resulting configuration only.\n\
         -p                      Leave the domain paused after it is created.\n\
         -q, --quiet             Quiet.\n\
         -i, --ignore-global-affinity-masks\n                        Accepted: there are none.";
    "config-update", config::update, "<Domain> <ConfigFile> [options] [name=value ...]",
        "Update a running domain's saved configuration, used when it reboots",
        "-f FILE, --defconfig=FILE\n                        Use the given configuration file.\n\
         -d                      Print the resulting configuration.\n\
         -q                      Accepted: nothing else is printed.";
    "list", list::list, "[options] [Domain]",
        "List information about all/some domains",
        "-l, --long              Output all VM details as JSON\n\
         -v, --verbose           Prints out UUIDs and security context\n\
         -Z, --context           Prints out security context\n\
         -c, --cpupool           Prints the cpupool the domain is in\n\
         -n, --numa              Prints out NUMA node affinity\n\
         --json                  The list as JSON";
    "destroy", life::destroy, "[options] <Domain>",
        "Terminate a domain immediately", "-f                      Accepted for compatibility";
    "shutdown", life::shutdown, "[options] <-a|Domain>",
        "Issue a shutdown signal to a domain",
        "-a, --all               Shutdown all guest domains.\n\
         -F                      Accepted for compatibility: all guests have PV drivers.\n\
         -w, --wait              Wait for guest(s) to shutdown; twice: until they are gone.";
    "reboot", life::reboot, "[options] <-a|Domain>",
        "Issue a reboot signal to a domain",
        "-a, --all               Reboot all guest domains.\n\
         -F                      Accepted for compatibility: all guests have PV drivers.\n\
         -w, --wait              Wait for guest(s) to reboot; twice: until they are gone.";
    "pause", life::pause, "<Domain>", "Pause execution of a domain", "";
    "unpause", life::unpause, "<Domain>", "Unpause a paused domain", "";
    "console", console::console, "[options] <Domain>", "Attach to domain's console",
        "-t <type>       console type, pv\n\
         -n <number>     console number, 0\n\
         -e <escape>     escape character, ^] unless given";
    "mem-max", memory::max, "<Domain> <MemMB['b'|'k'|'m'|'g'|'t']>",
        "Set the maximum amount reservation for a domain", "";
    "mem-set", memory::set, "<Domain> <MemMB['b'|'k'|'m'|'g'|'t']>",
        "Set the current memory usage for a domain", "";
    "vcpu-list", vcpu::list, "[Domain, ...]", "List the VCPUs for all/some domains", "";
    "vcpu-pin", vcpu::pin, "[option] <Domain> <VCPU|all> <Hard affinity|-|all> <Soft affinity|-|all>",
        "Set which CPUs a VCPU can use",
        "-f, --force        undo an override pinning done by the kernel\n\
         -i, --ignore-global-affinity-masks\n                   Accepted: there are none";
    "vcpu-set", vcpu::set, "[option] <Domain> <vCPUs>",
        "Set the number of active VCPUs allowed for the domain",
        "-i, --ignore-host  Don't limit the vCPU based on the host CPU count";
    "vm-list", list::vm_list, "", "List guest domains, excluding dom0, stubdoms, etc.", "";
    "info", info::info, "[options] [field]", "Get information about Xen host",
        "-n, --numa         List host NUMA topology information";
    "claims", list::claims, "", "List outstanding claim information about all domains", "";
    "sched-credit2", sched::credit2, "[-d <Domain> [-w[=WEIGHT]|-c[=CAP]]] [-s [-r RLIMIT]] [-p CPUPOOL]",
        "Get/set credit2 scheduler parameters",
        "-d DOMAIN, --domain=DOMAIN     Domain to modify\n\
         -w WEIGHT, --weight=WEIGHT     Weight (int)\n\
         -c CAP,    --cap=CAP           Cap (int)\n\
         -s         --schedparam        Query / modify scheduler parameters\n\
         -r RLIMIT, --ratelimit_us=RLIMIT Set the scheduling rate limit, in microseconds\n\
         -p CPUPOOL, --cpupool=CPUPOOL  Restrict output to CPUPOOL";
    "cpupool-list", sched::cpupool_list, "[-c|--cpus] [<CPU Pool>]", "List CPU pools on host",
        "-c, --cpus                     Output list of CPUs used by a pool";
    "domid", name::domid, "<DomainName>", "Convert a domain name to domain id", "";
    "domname", name::domname, "<DomainId>", "Convert a domain id to domain name", "";
    "rename", name::rename, "<Domain> <NewDomainName>", "Rename a domain", "";
    "uptime", name::uptime, "[-s] [Domain]", "Print uptime for all/some domains",
        "-s                 Short form";
    "trigger", debug::trigger, "<Domain> <nmi|reset|init|power|sleep> [<VCPU>]",
        "Send a trigger to a domain", "";
    "sysrq", debug::sysrq, "<Domain> <letter>", "Send a sysrq to a domain", "";
    "dump-core", debug::dump_core, "<Domain> <filename>", "Core dump a domain", "";
    "debug-keys", debug::debug_keys, "<Keys>", "Send debug keys to Xen", "";
    "dmesg", debug::dmesg, "[-c]", "Read and/or clear dmesg buffer",
        "-c                 Clear dmesg buffer as well as printing it";
    "top", top::top, "[options]", "Monitor a host and the domains in real time",
        "-d, --delay=SECONDS  Seconds between updates (default 3)\n\
         -n, --networks       Show each network card, too\n\
         -x, --vbds           Show each disk, too\n\
         -v, --vcpus          Show each vCPU, too\n\
         -r, --repeat-header  Repeat the header before each domain\n\
         -f, --full-name      Show whole names\n\
         -z, --dom0-first     Show dom0 first, as it is anyway\n\
         -b, --batch          Print one table after the other, read no keys\n\
         -i, --iterations=N   End after N tables\n\
         -V, --version        Print the version";
    "network-attach", device::network_attach,
        "<Domain> [mac=<mac>] [bridge=<bridge>] [vifname=<name>] [rate=<rate>] [mtu=<mtu>]",
        "Create a new virtual network device", "";
    "network-list", device::network_list, "<Domain(s)>",
        "List virtual network interfaces for a domain", "";
    "network-detach", device::network_detach, "<Domain> <DevId|mac>",
        "Destroy a domain's virtual network device",
        "-f, --force        do not wait for the domain to release the device";
    "block-attach", device::block_attach, "<Domain> <disk-spec-component(s)>...",
        "Create a new virtual block device", "";
    "block-list", device::block_list, "<Domain(s)>", "List virtual block devices for a domain", "";
    "block-detach", device::block_detach, "[option] <Domain> <DevId>",
        "Destroy a domain's virtual block device",
        "-f, --force        do not wait for the domain to release the device";
    "completion", completion::completion, "[bash|zsh|fish]",
        "Print a script that makes the shell complete commands and domains", "";
    "help", help::help, "[--long] [command]", "Print help", "";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_enough_when_they_are_clear() {
        assert_eq!(find("cre").map(|c| c.name), Some("create"));
        assert_eq!(find("vcpu-").map(|c| c.name), None);
        assert_eq!(find("list").map(|c| c.name), Some("list"));
    }

    #[test]
    fn every_command_is_there_once_and_says_what_it_does() {
        for (at, command) in COMMANDS.iter().enumerate() {
            assert!(!command.what.is_empty(), "{}", command.name);
            assert!(
                COMMANDS[at + 1..]
                    .iter()
                    .all(|other| other.name != command.name)
            );
        }
    }

    #[test]
    fn refused_commands_are_not_there_and_say_why() {
        for refused in REFUSED {
            assert!(!refused.why.is_empty() && !refused.instead.is_empty());
            for name in refused.names {
                assert!(
                    COMMANDS.iter().all(|command| command.name != *name),
                    "{name}"
                );
            }
        }
        for name in DRY_RUN {
            assert!(
                COMMANDS.iter().any(|command| command.name == *name),
                "{name}"
            );
        }
    }
}
