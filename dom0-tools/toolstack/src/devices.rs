//! Devices: attach, detach, list. Hotplug is done here, without scripts.

use std::path::Path;
use std::time::{Duration, Instant};

use xen_abi::DomId;
use xlcfg::disk::{BackendType, Disk, DiskFormat};
use xlcfg::vif::Vif;

use crate::error::{During as _, Error, Result};
use crate::layout::{self, domain_path, libxl_path};
use crate::{Change, Machine, sharing};

/// How long a backend may take to answer; emulated machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// `XenbusStateConnected`.
const CONNECTED: &str = "4";
/// `XenbusStateClosing`.
const CLOSING: &str = "5";
/// `XenbusStateClosed`.
const CLOSED: &str = "6";

/// A device of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceId {
    /// `vbd` or `vif`.
    pub kind: &'static str,
    /// Whose.
    pub d: DomId,
    /// Which.
    pub devid: u32,
}

impl DeviceId {
    /// A disk.
    #[must_use]
    pub const fn disk(d: DomId, number: u32) -> Self {
        Self {
            kind: "vbd",
            d,
            devid: number,
        }
    }

    /// A network card.
    #[must_use]
    pub const fn vif(d: DomId, devid: u32) -> Self {
        Self {
            kind: "vif",
            d,
            devid,
        }
    }

    /// The guest's nodes.
    #[must_use]
    pub fn frontend(&self) -> String {
        format!(
            "{}/device/{}/{}",
            domain_path(self.d),
            self.kind,
            self.devid
        )
    }

    /// dom0's nodes.
    #[must_use]
    pub fn backend(&self) -> String {
        format!(
            "/local/domain/0/backend/{}/{}/{}",
            self.kind, self.d.0, self.devid
        )
    }

    /// The toolstack's nodes.
    #[must_use]
    pub fn libxl(&self) -> String {
        format!("{}/device/{}/{}", libxl_path(self.d), self.kind, self.devid)
    }

    fn describe(&self) -> String {
        let what = if self.kind == "vbd" {
            "disk"
        } else {
            "network card"
        };
        format!("{what} {} of domain {}", self.devid, self.d.0)
    }
}

/// Polls until `is_done` or the patience is over; says which.
fn wait_until(
    machine: &mut Machine<'_>,
    patience: Duration,
    mut is_done: impl FnMut(&mut Machine<'_>) -> bool,
) -> bool {
    let end = Instant::now() + patience;
    loop {
        if is_done(machine) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        machine.host.pause(INTERVAL);
    }
}

fn require_backend(machine: &mut Machine<'_>, kind: &str) -> Result<()> {
    if machine.host.load_backend(kind) {
        return Ok(());
    }
    let module = if kind == "vbd" {
        "xen-blkback"
    } else {
        "xen-netback"
    };
    Err(Error::new(
        format!("attaching a {kind}"),
        format!("dom0's kernel has no driver {module}"),
        format!("load it: modprobe {module}"),
    ))
}

/// What the backend driver said when it failed.
fn backend_error(machine: &mut Machine<'_>, id: &DeviceId) -> Option<String> {
    let path = format!(
        "/local/domain/0/error/backend/{}/{}/{}/error",
        id.kind, id.d.0, id.devid
    );
    machine.store.read(&path).ok().flatten()
}

fn wait_for_backend(machine: &mut Machine<'_>, id: &DeviceId) -> Result<()> {
    let mut failure = None;
    let patience = machine.host.patience();
    let is_ready = wait_until(machine, patience, |machine| {
        failure = backend_error(machine, id);
        failure.is_some() || machine.host.is_backend_ready(id.kind, id.d, id.devid)
    });
    let doing = format!("attaching {}", id.describe());
    match failure {
        Some(failure) => Err(Error::new(
            doing,
            format!("the backend says: {failure}"),
            "look into dom0's kernel log: dmesg | tail",
        )),
        None if is_ready => Ok(()),
        None => Err(Error::new(
            doing,
            format!(
                "dom0's backend driver did not answer within {} s",
                patience.as_secs()
            ),
            "look into dom0's kernel log ('dmesg | tail') and at the store: is xenstored running?",
        )),
    }
}

/// Is there something at a device's place?
fn require_free(machine: &mut Machine<'_>, id: &DeviceId, name: &str) -> Result<()> {
    if machine.store.read(&id.libxl())?.is_some() {
        return Err(Error::new(
            format!("attaching {name} to domain {}", id.d.0),
            "the guest has this device already",
            "choose another name, or detach the device first",
        ));
    }
    Ok(())
}

/// Gives a guest a disk.
///
/// # Errors
/// A target that cannot be used, or that others use already; a backend that does not answer.
pub fn attach_disk(machine: &mut Machine<'_>, d: DomId, disk: &Disk) -> Result<DeviceId> {
    let id = DeviceId::disk(d, disk.vdev.number);
    check_disk(disk)?;
    require_backend(machine, id.kind)?;
    let lock = machine.host.lock()?;
    require_free(machine, &id, &disk.vdev.name)?;
    let device = match &disk.target {
        Some(target) => Some(
            machine
                .host
                .block_device(Path::new(target), disk.is_writable)?,
        ),
        None => None,
    };
    if let Some(device) = &device {
        sharing::check(machine, &id, disk, device)?;
    }
    let numbers = device.as_ref().map(|device| (device.major, device.minor));
    let written = machine.store.apply(&layout::disk(&id, disk, numbers));
    drop(lock);
    let outcome = written.map_err(Error::from).and_then(|()| match &device {
        Some(_) => wait_for_backend(machine, &id),
        None => Ok(()),
    });
    if let Err(error) = outcome {
        machine.patiently(|machine| remove(machine, &id));
        return Err(error);
    }
    // The backend has its own hold on a loop device now.
    drop(device);
    Ok(id)
}

/// Refuses what has no backend here.
///
/// # Errors
/// What cannot be had, and what to do instead.
pub fn check_disk(disk: &Disk) -> Result<()> {
    let refuse = |cause: String, help: &str| {
        Err(Error::new(format!("disk {}", disk.vdev.name), cause, help))
    };
    if disk.is_virtio {
        return refuse(
            "virtio disks have no backend here".into(),
            "remove specification=virtio",
        );
    }
    if !matches!(disk.format, DiskFormat::Raw | DiskFormat::Empty) {
        let format = disk.format.name();
        return refuse(
            format!("images of format {format} have no backend here"),
            "convert it: qemu-img convert -O raw IMAGE IMAGE.raw",
        );
    }
    if !matches!(disk.backend_type, None | Some(BackendType::Phy)) {
        return refuse(
            "only the kernel's backend is available".into(),
            "remove backendtype=",
        );
    }
    if disk
        .backend
        .as_deref()
        .is_some_and(|name| !matches!(name, "0" | "Domain-0"))
    {
        return refuse("backends run in dom0 only".into(), "remove backend=");
    }
    if let Some(script) = &disk.script {
        return refuse(
            format!("the hotplug script {script} is not run"),
            "set the device up beforehand and name its node in /dev as target",
        );
    }
    Ok(())
}

/// Refuses what has no backend here.
///
/// # Errors
/// What cannot be had, and what to do instead.
pub fn check_vif(vif: &Vif) -> Result<()> {
    let refuse = |cause: String, help: &str| Err(Error::new("network card", cause, help));
    if vif
        .backend
        .as_deref()
        .is_some_and(|name| !matches!(name, "0" | "Domain-0"))
    {
        return refuse("backends run in dom0 only".into(), "remove backend=");
    }
    if let Some(script) = &vif.script
        && Path::new(script).file_name() != Some("vif-bridge".as_ref())
    {
        return refuse(
            format!("the hotplug script {script} is not run"),
            "remove script=; the card is put into the bridge directly",
        );
    }
    if vif.gateway_device.is_some() {
        return refuse(
            "routed cards are not set up".into(),
            "remove gatewaydev=, use bridge=",
        );
    }
    if vif.vlan.is_some() {
        return refuse(
            "VLANs of bridge ports are not set up".into(),
            "use a bridge per VLAN",
        );
    }
    Ok(())
}

/// The bridge that a card goes to.
fn choose_bridge(machine: &mut Machine<'_>, vif: &Vif) -> Result<String> {
    let bridges = machine.host.bridges();
    let known = if bridges.is_empty() {
        "dom0 has no bridge: make one with 'ip link add xenbr0 type bridge; ip link set xenbr0 up'"
            .to_owned()
    } else {
        format!("dom0 has {}", bridges.join(", "))
    };
    match &vif.bridge {
        Some(name) if machine.host.is_bridge(name) => Ok(name.clone()),
        Some(name) if machine.host.has_interface(name) => Err(Error::new(
            "network card",
            format!("{name} is no bridge"),
            known,
        )),
        Some(name) => Err(Error::new(
            "network card",
            format!("there is no bridge {name}"),
            known,
        )),
        // xl's default is xenbr0; a single bridge of another name is as clear.
        None => match bridges.as_slice() {
            _ if bridges.iter().any(|bridge| bridge == "xenbr0") => Ok("xenbr0".to_owned()),
            [only] => Ok(only.clone()),
            _ => Err(Error::new(
                "network card",
                "it is not clear which bridge it belongs to",
                format!("say bridge=NAME; {known}"),
            )),
        },
    }
}

/// Gives a guest a network card.
///
/// # Errors
/// A missing bridge; a backend that does not answer.
pub fn attach_vif(machine: &mut Machine<'_>, d: DomId, vif: &Vif) -> Result<DeviceId> {
    check_vif(vif)?;
    let bridge = choose_bridge(machine, vif)?;
    require_backend(machine, "vif")?;
    let mac = match vif.mac {
        Some(mac) => mac,
        None => random_mac(machine)?,
    };
    let lock = machine.host.lock()?;
    let devid = match vif.devid {
        Some(devid) => devid,
        None => next_devid(machine, d)?,
    };
    let id = DeviceId::vif(d, devid);
    require_free(machine, &id, &format!("network card {devid}"))?;
    let nodes = layout::vif(&id, vif, mac, Some(&bridge));
    let written = machine.store.apply(&nodes);
    drop(lock);
    let outcome = written
        .map_err(Error::from)
        .and_then(|()| wait_for_backend(machine, &id))
        .and_then(|()| connect_vif(machine, &id, vif, &bridge));
    if let Err(error) = outcome {
        machine.patiently(|machine| remove(machine, &id));
        return Err(error);
    }
    Ok(id)
}

fn connect_vif(machine: &mut Machine<'_>, id: &DeviceId, vif: &Vif, bridge: &str) -> Result<()> {
    let mut name = format!("vif{}.{}", id.d.0, id.devid);
    if let Some(wanted) = &vif.name {
        machine
            .host
            .rename_interface(&name, wanted)
            .during(|| format!("renaming {name} to {wanted}"))?;
        name.clone_from(wanted);
    }
    machine
        .host
        .connect_interface(&name, Some(bridge), vif.mtu)
        .during(|| format!("putting {name} into the bridge {bridge}"))?;
    let connected = Change::Write {
        path: format!("{}/hotplug-status", id.backend()),
        value: "connected".to_owned(),
    };
    Ok(machine.store.apply(&[connected])?)
}

fn next_devid(machine: &mut Machine<'_>, d: DomId) -> Result<u32> {
    let used = machine
        .store
        .list(&format!("{}/device/vif", libxl_path(d)))?;
    let used: Vec<u32> = used.iter().filter_map(|name| name.parse().ok()).collect();
    Ok((0..).find(|devid| !used.contains(devid)).unwrap_or(0))
}

/// An address of Xen's range.
fn random_mac(machine: &mut Machine<'_>) -> Result<[u8; 6]> {
    let mut tail = [0; 3];
    machine.host.random(&mut tail)?;
    let [a, b, c] = tail;
    Ok([0x00, 0x16, 0x3e, a & 0x7f, b, c])
}

/// Takes a device away from a running guest; waits for its driver to let go unless
/// `is_forced`.
///
/// # Errors
/// No such device; a guest that does not let go.
pub fn detach(machine: &mut Machine<'_>, id: &DeviceId, is_forced: bool) -> Result<()> {
    let mut lock = machine.host.lock()?;
    if machine.store.read(&id.libxl())?.is_none() {
        return Err(Error::new(
            format!("detaching {}", id.describe()),
            "there is no such device",
            "see 'xl block-list' and 'xl network-list'",
        ));
    }
    let back = id.backend();
    let state_path = format!("{back}/state");
    let state = machine.store.read(&state_path)?;
    if state.as_deref() == Some(CONNECTED) && !is_forced {
        let write = |key: &str, value: &str| Change::Write {
            path: format!("{back}/{key}"),
            value: value.to_owned(),
        };
        machine
            .store
            .apply(&[write("online", "0"), write("state", CLOSING)])?;
        // A guest takes its time, and others need not wait for it.
        drop(lock);
        let patience = machine.host.patience();
        let is_closed = wait_until(machine, patience, |machine| {
            match machine.store.read(&state_path) {
                Ok(state) => state.is_none_or(|state| state == CLOSED),
                Err(_) => true,
            }
        });
        lock = machine.host.lock()?;
        if !is_closed {
            // As it was before.
            let undo = [write("online", "1")];
            drop(machine.store.apply(&undo));
            return Err(Error::new(
                format!("detaching {}", id.describe()),
                "the guest did not let go of it",
                "unmount it in the guest, or add --force",
            ));
        }
        // Another has detached it too, and there is a new one at its place.
        if machine
            .store
            .read(&state_path)?
            .is_some_and(|state| state != CLOSED)
        {
            return Ok(());
        }
    }
    machine.patiently(|machine| {
        remove_nodes(machine, id);
        drop(lock);
        wait_for_removal(machine, id);
    });
    Ok(())
}

/// Removes all nodes of a device. The backend driver lets go when they vanish.
pub(crate) fn remove(machine: &mut Machine<'_>, id: &DeviceId) {
    remove_nodes(machine, id);
    wait_for_removal(machine, id);
}

fn remove_nodes(machine: &mut Machine<'_>, id: &DeviceId) {
    let offline = Change::Write {
        path: format!("{}/online", id.backend()),
        value: "0".to_owned(),
    };
    // What fails here fails because it is gone already.
    if matches!(machine.store.read(&id.backend()), Ok(Some(_))) {
        drop(machine.store.apply(&[offline]));
    }
    let paths = [
        id.frontend(),
        id.backend(),
        id.libxl(),
        format!(
            "/local/domain/0/error/backend/{}/{}/{}",
            id.kind, id.d.0, id.devid
        ),
    ];
    let changes: Vec<Change> = paths
        .into_iter()
        .map(|path| Change::Remove { path })
        .collect();
    drop(machine.store.apply(&changes));
}

fn wait_for_removal(machine: &mut Machine<'_>, id: &DeviceId) {
    let patience = machine.host.patience().min(Duration::from_secs(10));
    wait_until(machine, patience, |machine| {
        !machine.host.has_backend(id.kind, id.d, id.devid)
    });
}

/// All devices of a domain, from the toolstack's nodes.
///
/// # Errors
/// Those of the store.
pub fn list(machine: &mut Machine<'_>, d: DomId) -> Result<Vec<DeviceId>> {
    let mut all = Vec::new();
    for kind in ["vbd", "vif"] {
        let path = format!("{}/device/{kind}", libxl_path(d));
        let mut ids: Vec<u32> = machine
            .store
            .list(&path)?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        ids.sort_unstable();
        all.extend(ids.into_iter().map(|devid| DeviceId { kind, d, devid }));
    }
    Ok(all)
}
