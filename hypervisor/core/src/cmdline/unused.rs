//! Options that are understood but that nothing obeys yet: the user is told each by its name.

use super::options::{Options, RebootMethod, SchedulerKind};

impl Options<'_> {
    /// What was asked for and is not done, as complaints.
    pub fn unheeded(&self) -> impl Iterator<Item = &'static str> {
        [
            (
                self.dom0_vcpus_pin,
                "dom0_vcpus_pin: dom0's vCPUs are not pinned",
            ),
            (
                self.sched != SchedulerKind::Credit2,
                "sched: the scheduler is credit2",
            ),
            (
                !self.iommu.dom0_strict,
                "iommu: dom0's devices are confined to its memory all the same",
            ),
            (
                !matches!(self.reboot, RebootMethod::Default),
                "reboot: ACPI, keyboard controller, port 0xcf9 and triple fault are tried in turn",
            ),
            (!self.smt, "smt: all threads are used"),
            (!self.x2apic, "x2apic: it is used where the CPU has it"),
            (self.mem.is_some(), "mem: all memory is used"),
            (
                !self.cpuid.is_empty(),
                "cpuid: guests see the default features",
            ),
        ]
        .into_iter()
        .filter_map(|(is_asked, text)| is_asked.then_some(text))
    }
}

#[cfg(test)]
mod tests {
    use crate::cmdline::parse;

    #[test]
    fn what_is_not_obeyed_is_named() {
        let names = |line: &str| -> Vec<String> {
            let unheeded: Vec<_> = parse(line.as_bytes()).0.unheeded().collect();
            let name = |text: &&str| text.split(':').next().map(String::from);
            unheeded.iter().filter_map(name).collect()
        };
        assert!(names("").is_empty());
        assert!(names("com1=115200 console=com1 noreboot iommu=no maxcpus=2").is_empty());
        assert_eq!(names("smt=0 sched=null"), ["sched", "smt"]);
        assert_eq!(
            names("reboot=k mem=1G x2apic=no"),
            ["reboot", "x2apic", "mem"]
        );
        assert_eq!(names("dom0_vcpus_pin"), ["dom0_vcpus_pin"]);
        assert!(names("iommu=verbose,force,no-intremap").is_empty());
        assert_eq!(names("iommu=dom0-passthrough"), ["iommu"]);
    }
}
