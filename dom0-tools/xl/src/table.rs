//! The table of commands.

use crate::commands::{
    completion, config, console, create, debug, device, help, info, life, list, memory, monitor,
    name, sched, top, vcpu,
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

/// Looks a command up.
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    // Left behind by `create`, not for users.
    if name == monitor::COMMAND {
        return Some(&MONITOR);
    }
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

static MONITOR: Command = Command {
    name: monitor::COMMAND,
    run: monitor::run,
    usage: "<DomainId>",
    what: "Wait for a domain's end and do what its configuration says",
    options: "",
};

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
         -d                      Enable debug messages.\n\
         -e                      Do not wait in the background for the death of the domain.\n\
         -F                      Run in foreground until death of the domain.\n\
         -f FILE, --defconfig=FILE\n                        Use the given configuration file.\n\
         -n, --dryrun            Print the resulting configuration only.\n\
         -p                      Leave the domain paused after it is created.\n\
         -q, --quiet             Quiet.";
    "config-update", config::update, "<Domain> <ConfigFile> [options] [name=value ...]",
        "Update a running domain's saved configuration, used when it reboots",
        "-f FILE, --defconfig=FILE\n                        Use the given configuration file.";
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
         -w, --wait              Wait for guest(s) to shutdown.";
    "reboot", life::reboot, "[options] <-a|Domain>",
        "Issue a reboot signal to a domain",
        "-a, --all               Reboot all guest domains.\n\
         -F                      Accepted for compatibility: all guests have PV drivers.\n\
         -w, --wait              Wait for guest(s) to reboot.";
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
        "-f, --force        undo an override pinning done by the kernel";
    "vcpu-set", vcpu::set, "[option] <Domain> <vCPUs>",
        "Set the number of active VCPUs allowed for the domain",
        "-i, --ignore-host  Don't limit the vCPU based on the host CPU count";
    "info", info::info, "[options] [field]", "Get information about Xen host",
        "-n, --numa         List host NUMA topology information";
    "vm-list", list::vm_list, "", "List guest domains, excluding dom0, stubdoms, etc.", "";
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
    "debug-keys", debug::debug_keys, "<Keys>", "Send debug keys to Xen", "";
    "dmesg", debug::dmesg, "[-c]", "Read and/or clear dmesg buffer",
        "-c                 Clear dmesg buffer as well as printing it";
    "top", top::top, "[-bf] [-i N] [-d SECONDS]", "Monitor a host and the domains in real time",
        "-b, --batch        Print one list after the other\n\
         -f, --full-name    Do not cut names off\n\
         -i, --iterations N End after N lists\n\
         -d, --delay N      Seconds between them, 3 unless given";
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
}
