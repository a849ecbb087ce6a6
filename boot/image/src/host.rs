//! Which emulator this machine can offer.

use std::fs::OpenOptions;

/// How the hypervisor is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// QEMU with KVM on an Intel CPU with nested virtualisation.
    KvmVmx,
    /// QEMU with KVM on an AMD CPU with nested virtualisation.
    KvmSvm,
    /// QEMU without KVM, emulating an AMD CPU.
    TcgSvm,
}

impl Backend {
    /// Name of the description in `tests/machines`.
    pub fn machine(self) -> &'static str {
        match self {
            Self::KvmVmx => "kvm-vmx",
            Self::KvmSvm => "kvm-svm",
            Self::TcgSvm => "qemu-svm",
        }
    }
}

/// What was found out about the machine.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Why `/dev/kvm` cannot be used, if it cannot.
    pub kvm_error: Option<String>,
    /// The CPU has VMX.
    pub vmx: bool,
    /// The CPU has SVM.
    pub svm: bool,
    /// The KVM module allows nested guests.
    pub nested: bool,
}

impl Facts {
    /// Looks at `/dev/kvm`, `/proc/cpuinfo` and the KVM modules' parameters.
    pub fn read() -> Self {
        let kvm_error = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .err();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpuinfo
            .lines()
            .find(|l| l.starts_with("flags"))
            .unwrap_or_default();
        let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
        let nested = ["kvm_intel", "kvm_amd"].iter().any(|module| {
            let path = format!("/sys/module/{module}/parameters/nested");
            std::fs::read_to_string(path).is_ok_and(|value| matches!(value.trim(), "Y" | "1"))
        });
        Self {
            kvm_error: kvm_error.map(|e| e.to_string()),
            vmx: has("vmx"),
            svm: has("svm"),
            nested,
        }
    }
}

/// The best backend, and why it is that one.
pub fn choose(facts: &Facts) -> (Backend, String) {
    if let Some(error) = &facts.kvm_error {
        return (
            Backend::TcgSvm,
            format!("/dev/kvm cannot be used ({error}), so an AMD CPU is emulated"),
        );
    }
    if !facts.vmx && !facts.svm {
        let why = "the CPU shows neither VMX nor SVM, so an AMD CPU is emulated";
        return (Backend::TcgSvm, why.into());
    }
    if !facts.nested {
        let module = if facts.svm { "kvm_amd" } else { "kvm_intel" };
        let why = format!(
            "KVM does not allow nested guests (module parameter {module}.nested), so an AMD CPU is emulated"
        );
        return (Backend::TcgSvm, why);
    }
    let (backend, name) = if facts.vmx {
        (Backend::KvmVmx, "VMX")
    } else {
        (Backend::KvmSvm, "SVM")
    };
    (
        backend,
        format!("/dev/kvm works, nested guests are allowed, and the CPU has {name}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_taken_only_when_everything_is_there() {
        let good = Facts {
            kvm_error: None,
            vmx: true,
            svm: false,
            nested: true,
        };
        assert_eq!(choose(&good).0, Backend::KvmVmx);
        assert_eq!(
            choose(&Facts {
                vmx: false,
                svm: true,
                ..good.clone()
            })
            .0,
            Backend::KvmSvm
        );
        assert_eq!(
            choose(&Facts {
                nested: false,
                ..good.clone()
            })
            .0,
            Backend::TcgSvm
        );
        assert_eq!(
            choose(&Facts {
                vmx: false,
                ..good.clone()
            })
            .0,
            Backend::TcgSvm
        );
        let (backend, why) = choose(&Facts {
            kvm_error: Some("Permission denied".into()),
            ..good
        });
        assert_eq!(backend, Backend::TcgSvm);
        assert!(why.contains("Permission denied"));
    }
}
