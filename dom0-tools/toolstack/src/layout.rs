//! What stands in xenstore about a domain and its devices: libxl's layout, as data.

use xen_abi::{DomId, EvtchnPort};
use xenstore::{Access, Permission};
use xlcfg::Uuid;
use xlcfg::disk::Disk;
use xlcfg::vif::Vif;

use crate::Change;
use crate::builder::CONSOLE_GFN;
use crate::builder::STORE_GFN;
use crate::devices::DeviceId;

/// The domain that serves devices.
pub const DOM0: DomId = DomId(0);

/// `XenbusStateInitialising`.
const INITIALISING: &str = "1";

/// Changes under construction.
#[derive(Debug, Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn write(&mut self, path: impl Into<String>, value: impl ToString) {
        self.0.push(Change::Write {
            path: path.into(),
            value: value.to_string(),
        });
    }

    fn permissions(&mut self, path: impl Into<String>, permissions: &[Permission]) {
        self.0.push(Change::Permissions {
            path: path.into(),
            permissions: permissions.to_vec(),
        });
    }

    /// A folder with permissions that its new children inherit.
    fn folder(&mut self, path: impl Into<String>, permissions: &[Permission]) {
        let path = path.into();
        self.write(path.as_str(), "");
        self.permissions(path, permissions);
    }
}

/// dom0 owns it, `d` reads.
fn read_only(d: DomId) -> [Permission; 2] {
    [
        Permission::new(DOM0, Access::None),
        Permission::new(d, Access::Read),
    ]
}

/// `d` owns it.
fn owned(d: DomId) -> [Permission; 1] {
    [Permission::new(d, Access::None)]
}

/// The domain's directory.
#[must_use]
pub fn domain_path(d: DomId) -> String {
    format!("/local/domain/{}", d.0)
}

/// The toolstack's directory of the domain.
#[must_use]
pub fn libxl_path(d: DomId) -> String {
    format!("/libxl/{}", d.0)
}

/// All trees of a domain and its devices, but the one by UUID.
#[must_use]
pub fn roots(d: DomId) -> Vec<String> {
    let backend = |kind| format!("/local/domain/0/backend/{kind}/{}", d.0);
    vec![
        domain_path(d),
        libxl_path(d),
        backend("console"),
        backend("vbd"),
        backend("vif"),
    ]
}

/// The directory by UUID.
#[must_use]
pub fn vm_path(uuid: Uuid) -> String {
    format!("/vm/{uuid}")
}

/// What a domain's nodes say.
#[derive(Clone, Debug)]
pub struct DomainNodes<'a> {
    /// Number.
    pub d: DomId,
    /// UUID.
    pub uuid: Uuid,
    /// Name.
    pub name: &'a str,
    /// vCPUs online.
    pub vcpus: u32,
    /// vCPUs in all.
    pub max_vcpus: u32,
    /// Memory that it should have.
    pub target_kib: u64,
    /// Memory that it believes to have at its start.
    pub max_kib: u64,
    /// Port of its xenstore ring.
    pub store_port: EvtchnPort,
    /// Port of its console ring.
    pub console_port: EvtchnPort,
    /// When it was made: seconds and nanoseconds since 1970.
    pub start_time: (u64, u32),
}

impl DomainNodes<'_> {
    /// The trees that hold [`DomainNodes::changes`] and the nodes of devices.
    #[must_use]
    pub fn roots(&self) -> Vec<String> {
        let mut all = roots(self.d);
        all.push(vm_path(self.uuid));
        all
    }

    /// All nodes of a domain without devices but its console.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let d = self.d;
        let mut c = Changes::default();
        let (dom, libxl) = (domain_path(d), libxl_path(d));
        c.folder(&dom, &read_only(d));
        c.folder(&libxl, &[Permission::new(DOM0, Access::None)]);
        c.write(format!("{dom}/vm"), vm_path(self.uuid));
        c.write(format!("{dom}/name"), self.name);
        c.write(format!("{dom}/domid"), d.0);
        for folder in ["cpu", "memory", "device", "control", "store"] {
            // With the permissions of the domain's.
            c.write(format!("{dom}/{folder}"), "");
        }
        // The guest may write these.
        for folder in [
            "data",
            "drivers",
            "feature",
            "attr",
            "error",
            "device/suspend",
        ] {
            c.folder(format!("{dom}/{folder}"), &owned(d));
        }
        for node in [
            "shutdown",
            "feature-poweroff",
            "feature-reboot",
            "feature-suspend",
            "feature-s3",
            "feature-s4",
            "sysrq",
        ] {
            c.folder(format!("{dom}/control/{node}"), &owned(d));
        }
        for feature in ["multiprocessor-suspend", "xs_reset_watches"] {
            c.write(format!("{dom}/control/platform-feature-{feature}"), 1);
        }
        c.write(format!("{dom}/memory/static-max"), self.max_kib);
        c.write(format!("{dom}/memory/target"), self.target_kib);
        c.write(format!("{dom}/memory/videoram"), 0);
        for vcpu in 0..self.max_vcpus {
            let path = format!("{dom}/cpu/{vcpu}/availability");
            c.write(&path, availability(vcpu < self.vcpus));
        }
        c.write(format!("{dom}/store/port"), self.store_port.0);
        c.write(format!("{dom}/store/ring-ref"), STORE_GFN.0);
        let (seconds, nanoseconds) = self.start_time;
        let start_time = format!("{seconds}.{:02}", nanoseconds / 10_000_000);
        c.0.extend(vm(d, self.uuid, self.name, &start_time));
        c.write(format!("{libxl}/type"), "pvh");
        self.console(&mut c);
        c.0
    }

    fn console(&self, c: &mut Changes) {
        let d = self.d;
        let front = format!("{}/console", domain_path(d));
        let back = format!("/local/domain/0/backend/console/{}/0", d.0);
        c.write(front.as_str(), "");
        for (key, value) in [
            ("backend", back.clone()),
            ("backend-id", "0".into()),
            ("limit", "1048576".into()),
            ("type", "xenconsoled".into()),
            ("output", "pty".into()),
            ("tty", String::new()),
            ("port", self.console_port.0.to_string()),
            ("ring-ref", CONSOLE_GFN.0.to_string()),
        ] {
            c.write(format!("{front}/{key}"), value);
        }
        c.folder(&back, &read_only(d));
        for (key, value) in [
            ("frontend", front),
            ("frontend-id", d.0.to_string()),
            ("online", "1".into()),
            ("state", INITIALISING.into()),
            ("protocol", "vt100".into()),
        ] {
            c.write(format!("{back}/{key}"), value);
        }
    }
}

/// Another name, and another directory by UUID with what the old one holds.
#[must_use]
pub fn moved_vm(
    d: DomId,
    name: &str,
    (old, new): (Uuid, Uuid),
    nodes: &[(String, String)],
) -> Vec<Change> {
    let mut c = Changes::default();
    let vm = vm_path(new);
    c.folder(&vm, &read_only(d));
    for (key, value) in nodes {
        c.write(format!("{vm}/{key}"), value);
    }
    c.write(format!("{vm}/uuid"), new);
    c.write(format!("{vm}/name"), name);
    c.write(format!("{}/name", domain_path(d)), name);
    c.write(format!("{}/vm", domain_path(d)), &vm);
    c.0.push(Change::Remove { path: vm_path(old) });
    c.0
}

/// The nodes by UUID.
fn vm(d: DomId, uuid: Uuid, name: &str, start_time: &str) -> Vec<Change> {
    let mut c = Changes::default();
    let path = vm_path(uuid);
    c.folder(&path, &read_only(d));
    c.write(format!("{path}/name"), name);
    c.write(format!("{path}/uuid"), uuid);
    c.write(format!("{path}/start_time"), start_time);
    c.0
}

/// Value of `cpu/N/availability`.
#[must_use]
pub fn availability(is_online: bool) -> &'static str {
    if is_online { "online" } else { "offline" }
}

/// Frontend, backend and toolstack's copy.
fn device(id: &DeviceId, front: &[(&str, String)], back: &[(&str, String)]) -> Vec<Change> {
    let mut c = Changes::default();
    let (front_path, back_path, libxl) = (id.frontend(), id.backend(), id.libxl());
    c.folder(
        &front_path,
        &[
            Permission::new(id.d, Access::None),
            Permission::new(DOM0, Access::Read),
        ],
    );
    c.folder(&back_path, &read_only(id.d));
    c.folder(&libxl, &[Permission::new(DOM0, Access::None)]);
    let d = id.d.0.to_string();
    let frontend = [
        ("backend", back_path.clone()),
        ("backend-id", "0".to_owned()),
    ];
    let backend = [
        ("frontend", front_path.clone()),
        ("frontend-id", d),
        ("online", "1".to_owned()),
    ];
    for (key, value) in frontend.iter().chain(front) {
        c.write(format!("{front_path}/{key}"), value);
    }
    for (key, value) in backend.iter().chain(back) {
        c.write(format!("{back_path}/{key}"), value);
        c.write(format!("{libxl}/{key}"), value);
    }
    c.write(format!("{libxl}/backend"), &back_path);
    // The drivers begin when they see the state, so it comes last.
    c.write(format!("{front_path}/state"), INITIALISING);
    c.write(format!("{back_path}/state"), INITIALISING);
    c.0
}

fn flag(is: bool) -> String {
    if is { "1" } else { "0" }.to_owned()
}

/// A disk on the kernel's block backend; `numbers` is its block device.
#[must_use]
pub fn disk(id: &DeviceId, disk: &Disk, numbers: Option<(u32, u32)>) -> Vec<Change> {
    let kind = if disk.is_cdrom { "cdrom" } else { "disk" };
    let front = [
        ("virtual-device", disk.vdev.number.to_string()),
        ("device-type", kind.to_owned()),
        ("trusted", flag(disk.is_trusted)),
    ];
    let target = disk.target.clone().unwrap_or_default();
    let mut back = vec![
        ("params", target),
        ("script", "/etc/xen/scripts/block".to_owned()),
        ("removable", flag(disk.is_cdrom)),
        ("bootable", "1".to_owned()),
        ("dev", disk.vdev.name.clone()),
        ("type", "phy".to_owned()),
        ("mode", if disk.is_writable { "w" } else { "r" }.to_owned()),
        ("device-type", kind.to_owned()),
        ("discard-enable", flag(disk.has_discard)),
    ];
    if let Some((major, minor)) = numbers {
        back.push(("physical-device", format!("{major:x}:{minor:x}")));
        back.push(("hotplug-status", "connected".to_owned()));
    }
    device(id, &front, &back)
}

/// An address as text.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    let parts: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

/// The address that [`mac_text`] wrote.
#[must_use]
pub fn mac_bytes(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// A network card.
#[must_use]
pub fn vif(id: &DeviceId, vif: &Vif, mac: [u8; 6], bridge: Option<&str>) -> Vec<Change> {
    let mut front = vec![
        ("handle", id.devid.to_string()),
        ("mac", mac_text(mac)),
        ("trusted", flag(!vif.is_untrusted)),
    ];
    let mut back = vec![
        // netback wants the node; the toolstack does the script's work.
        ("script", "/etc/xen/scripts/vif-bridge".to_owned()),
        ("mac", mac_text(mac)),
        ("handle", id.devid.to_string()),
        ("type", "vif".to_owned()),
    ];
    if let Some(mtu) = vif.mtu {
        front.push(("mtu", mtu.to_string()));
        back.push(("mtu", mtu.to_string()));
    }
    if let Some(rate) = vif.rate {
        let text = format!("{},{}", rate.bytes_per_interval, rate.interval_us);
        back.push(("rate", text));
    }
    let named = [
        ("bridge", bridge),
        ("ip", vif.ip.as_deref()),
        ("vifname", vif.name.as_deref()),
    ];
    for (key, value) in named {
        if let Some(value) = value {
            back.push((key, value.to_owned()));
        }
    }
    device(id, &front, &back)
}
