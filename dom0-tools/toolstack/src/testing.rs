//! Fakes of the three seams: a hypervisor that keeps books, a store in a map, and a
//! machine whose backends answer as told. A counter makes any single call fail, so
//! that tests can break an operation at each of its steps.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::domctl::{
    XEN_DOMINF_dying, XEN_DOMINF_hvm_guest, XEN_DOMINF_paused, XenDomctlCreatedomain,
    XenDomctlGetdomaininfo, XenDomctlTscInfo,
};
use xen_abi::{DomId, EvtchnPort, Gfn, GrantRef, Order, VcpuId};
use xencall::{CpuMap, DomainInfo, Errno, MemoryRegion, XenVersion};
use xenstore::StoreError;
use zerocopy::FromZeros as _;

use crate::error::{Error, Result};
use crate::lock::testing::FakeLock;
use crate::{BlockDevice, Change, Host, Hypervisor, Loader, Lock, Machine, Mount, Storage, Store};

/// Lets calls through until a given one.
#[derive(Debug, Default)]
pub(crate) struct Fuse {
    left: Cell<Option<u32>>,
    pub(crate) calls: Cell<u32>,
}

impl Fuse {
    fn is_blown(&self) -> bool {
        self.calls.set(self.calls.get() + 1);
        match self.left.get() {
            Some(0) => {
                // Only once: what is undone afterwards works.
                self.left.set(None);
                true
            }
            Some(left) => {
                self.left.set(Some(left - 1));
                false
            }
            None => false,
        }
    }
}

/// A domain of the fake.
#[derive(Debug, Default)]
pub(crate) struct FakeDomain {
    pub(crate) handle: [u8; 16],
    pub(crate) frames: BTreeSet<u64>,
    pub(crate) memory: BTreeMap<u64, Vec<u8>>,
    pub(crate) shared_info: Option<u64>,
    /// Frames that are gone when they are read.
    pub(crate) ballooned: BTreeSet<u64>,
    pub(crate) params: BTreeMap<u32, u64>,
    pub(crate) ports: u32,
    pub(crate) grants: Vec<(GrantRef, Gfn)>,
    pub(crate) context: Vec<u8>,
    pub(crate) is_paused: bool,
    pub(crate) shutdown: Option<u32>,
    pub(crate) is_dying: bool,
    pub(crate) max_vcpus: u32,
    pub(crate) max_kib: u64,
}

/// The hypervisor.
#[derive(Debug, Default)]
pub(crate) struct FakeHypervisor {
    pub(crate) domains: Rc<RefCell<BTreeMap<u16, FakeDomain>>>,
    pub(crate) free: Cell<u64>,
    next: Cell<u16>,
    pub(crate) fuse: Fuse,
}

impl FakeHypervisor {
    fn on<T>(
        &self,
        d: DomId,
        work: impl FnOnce(&mut FakeDomain) -> xencall::Result<T>,
    ) -> xencall::Result<T> {
        if self.fuse.is_blown() {
            return Err(xencall::Error::new("fuse", Some(d), Errno::BUSY));
        }
        let mut domains = self.domains.borrow_mut();
        let gone = xencall::Error::new("fake", Some(d), Errno::SRCH);
        work(domains.get_mut(&d.0).ok_or(gone)?)
    }
}

impl Hypervisor for FakeHypervisor {
    fn create_domain(&self, config: &XenDomctlCreatedomain) -> xencall::Result<DomId> {
        if self.fuse.is_blown() {
            return Err(xencall::Error::new("fuse", None, Errno::NOMEM));
        }
        self.next.set(self.next.get() + 1);
        let d = self.next.get();
        let domain = FakeDomain {
            handle: config.handle,
            is_paused: true,
            ..FakeDomain::default()
        };
        self.domains.borrow_mut().insert(d, domain);
        Ok(DomId(d))
    }
    fn destroy_domain(&self, d: DomId) -> xencall::Result<()> {
        let frames = self.on(d, |domain| Ok(domain.frames.len()))?;
        self.free.set(self.free.get() + frames as u64);
        self.domains.borrow_mut().remove(&d.0);
        Ok(())
    }
    fn pause_domain(&self, d: DomId) -> xencall::Result<()> {
        self.on(d, |domain| {
            domain.is_paused = true;
            Ok(())
        })
    }
    fn unpause_domain(&self, d: DomId) -> xencall::Result<()> {
        self.on(d, |domain| {
            domain.is_paused = false;
            Ok(())
        })
    }
    fn domain_info(&self, d: DomId) -> xencall::Result<DomainInfo> {
        self.on(d, |domain| {
            let paused = if domain.is_paused {
                XEN_DOMINF_paused
            } else {
                0
            };
            let ended = domain.shutdown.map_or(0, |reason| 4 | (reason << 16));
            let dying = if domain.is_dying { XEN_DOMINF_dying } else { 0 };
            Ok(DomainInfo(XenDomctlGetdomaininfo {
                domain: d,
                flags: XEN_DOMINF_hvm_guest | paused | ended | dying,
                handle: domain.handle,
                tot_pages: domain.frames.len() as u64,
                shared_info_frame: domain.shared_info.unwrap_or(u64::MAX),
                max_vcpu_id: domain.max_vcpus.saturating_sub(1),
                ..XenDomctlGetdomaininfo::new_zeroed()
            }))
        })
    }
    fn domains(&self) -> xencall::Result<Vec<DomainInfo>> {
        let ids: Vec<u16> = self.domains.borrow().keys().copied().collect();
        ids.into_iter()
            .map(|d| self.domain_info(DomId(d)))
            .collect()
    }
    fn set_handle(&self, d: DomId, handle: [u8; 16]) -> xencall::Result<()> {
        self.on(d, |domain| {
            domain.handle = handle;
            Ok(())
        })
    }
    fn set_max_vcpus(&self, d: DomId, count: u32) -> xencall::Result<()> {
        self.on(d, |domain| {
            domain.max_vcpus = count;
            Ok(())
        })
    }
    fn set_max_memory(&self, d: DomId, kib: u64) -> xencall::Result<()> {
        self.on(d, |domain| {
            domain.max_kib = kib;
            Ok(())
        })
    }
    fn set_paging_mempool_size(&self, d: DomId, _: u64) -> xencall::Result<()> {
        Err(xencall::Error::new("fake", Some(d), Errno::NOSYS))
    }
    fn set_tsc_info(&self, d: DomId, _: XenDomctlTscInfo) -> xencall::Result<()> {
        self.on(d, |_| Ok(()))
    }
    fn set_memory_map(&self, d: DomId, _: &[MemoryRegion]) -> xencall::Result<()> {
        self.on(d, |_| Ok(()))
    }
    fn set_hvm_param(&self, d: DomId, index: u32, value: u64) -> xencall::Result<()> {
        self.on(d, |domain| {
            domain.params.insert(index, value);
            Ok(())
        })
    }
    fn set_hvm_context(&self, d: DomId, records: &[u8]) -> xencall::Result<()> {
        self.on(d, |domain| {
            domain.context = records.to_vec();
            Ok(())
        })
    }
    fn set_vcpu_affinity(
        &self,
        d: DomId,
        _: VcpuId,
        _: Option<&CpuMap>,
        _: Option<&CpuMap>,
    ) -> xencall::Result<()> {
        self.on(d, |_| Ok(()))
    }
    fn set_credit2(&self, d: DomId, _: u16, _: u16) -> xencall::Result<()> {
        self.on(d, |_| Ok(()))
    }
    fn alloc_unbound(&self, d: DomId, _: DomId) -> xencall::Result<EvtchnPort> {
        self.on(d, |domain| {
            domain.ports += 1;
            Ok(EvtchnPort(domain.ports))
        })
    }
    fn remote_shutdown(&self, d: DomId, reason: u32) -> xencall::Result<()> {
        self.on(d, |domain| {
            domain.shutdown = Some(reason);
            Ok(())
        })
    }
    fn vcpu_context(&self, d: DomId, vcpu: VcpuId) -> xencall::Result<Box<VcpuGuestContext>> {
        self.on(d, |_| {
            // The first one only was started.
            if vcpu.0 != 0 {
                return Err(xencall::Error::new("fake", Some(d), Errno::NODATA));
            }
            let mut context = Box::new(VcpuGuestContext::new_zeroed());
            context.user_regs.rip = 0x1234_5678;
            Ok(context)
        })
    }
    fn version(&self) -> xencall::Result<XenVersion> {
        Ok(XenVersion {
            major: 4,
            minor: 20,
            extra: ".0-fake-and-longer-than-its-field".into(),
            changeset: "c".into(),
            capabilities: "hvm-3.0-x86_64".into(),
            page_size: 4096,
            virt_start: 0xffff_8000_0000_0000,
            command_line: String::new(),
            build_id: Vec::new(),
            compile: ["rustc", "me", "here", "now"].map(str::to_owned),
        })
    }
    fn are_ram(&self, d: DomId, gfns: &[Gfn]) -> xencall::Result<Vec<bool>> {
        self.on(d, |domain| {
            let is_ram = |gfn: &Gfn| domain.frames.contains(&gfn.0);
            Ok(gfns.iter().map(is_ram).collect())
        })
    }
    fn read_pages(&self, d: DomId, gfns: &[Gfn], to: &mut [u8]) -> xencall::Result<Vec<bool>> {
        self.on(d, |domain| {
            let pages = gfns.iter().zip(to.as_chunks_mut::<4096>().0);
            let read = pages.map(|(gfn, page)| {
                let is_there = domain.frames.contains(&gfn.0) && !domain.ballooned.contains(&gfn.0);
                if is_there {
                    page.fill(0);
                }
                let (from, end) = (gfn.0 << 12, (gfn.0 + 1) << 12);
                for (gpa, bytes) in domain.memory.range(..end).filter(|_| is_there) {
                    for (at, byte) in (*gpa..)
                        .zip(bytes)
                        .filter(|(at, _)| (from..end).contains(at))
                    {
                        page[(at - from) as usize] = *byte;
                    }
                }
                is_there
            });
            Ok(read.collect())
        })
    }
    fn populate(&self, d: DomId, gfns: &[Gfn], order: Order) -> xencall::Result<usize> {
        let size = 1_u64 << order.0;
        self.on(d, |domain| {
            for (done, gfn) in gfns.iter().enumerate() {
                let Some(left) = self.free.get().checked_sub(size) else {
                    return Ok(done);
                };
                self.free.set(left);
                for frame in gfn.0..gfn.0 + size {
                    assert!(domain.frames.insert(frame), "{frame:#x} is there twice");
                }
            }
            Ok(gfns.len())
        })
    }
    fn loader(&self, d: DomId) -> xencall::Result<Box<dyn Loader + '_>> {
        self.on(d, |_| Ok(()))?;
        Ok(Box::new(FakeLoader(self, d)))
    }
    fn free_pages(&self) -> xencall::Result<u64> {
        Ok(self.free.get())
    }
    fn nodes_of_cpus(&self) -> xencall::Result<Vec<u32>> {
        Ok(vec![0, 0])
    }
}

struct FakeLoader<'a>(&'a FakeHypervisor, DomId);

impl Loader for FakeLoader<'_> {
    fn write(&mut self, gpa: u64, data: &[u8]) -> xencall::Result<()> {
        self.0.on(self.1, |domain| {
            for frame in gpa >> 12..(gpa + data.len() as u64).div_ceil(4096) {
                assert!(domain.frames.contains(&frame), "no frame {frame:#x}");
            }
            domain.memory.insert(gpa, data.to_vec());
            Ok(())
        })
    }
    fn seed_grants(&mut self, _: DomId, entries: &[(GrantRef, Gfn)]) -> xencall::Result<()> {
        self.0.on(self.1, |domain| {
            domain.grants = entries.to_vec();
            Ok(())
        })
    }
}

/// What somebody else does meanwhile.
type Meanwhile = Box<dyn FnOnce()>;

/// The store.
#[derive(Default)]
pub(crate) struct FakeStore {
    pub(crate) nodes: BTreeMap<String, String>,
    pub(crate) introduced: BTreeSet<u16>,
    /// The hypervisor's.
    pub(crate) domains: Rc<RefCell<BTreeMap<u16, FakeDomain>>>,
    /// Happens at the next wait.
    pub(crate) on_wait: Option<Meanwhile>,
    /// Values and lists asked for, which never fail.
    pub(crate) reads: u32,
    pub(crate) fuse: Fuse,
    /// Loses the connection at any request.
    pub(crate) loss: Fuse,
    /// How often the daemon cannot be reached after that.
    pub(crate) absence: u32,
    is_lost: bool,
    /// The host's.
    lock: Rc<FakeLock>,
    /// Who had it when somebody looked here last.
    looked: Option<u32>,
}

impl FakeStore {
    fn answer(&mut self) -> xenstore::Result<()> {
        self.is_lost |= self.loss.is_blown();
        match self.is_lost {
            true => Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()),
            false => Ok(()),
        }
    }

    /// Names and devices are given by who has looked what is free, and still has the lock.
    fn check_lock(&self, path: &str) {
        let parts: Vec<&str> = path.split('/').collect();
        let is_taken = matches!(
            parts.as_slice(),
            ["", "local", "domain", _, "name"] | ["", "libxl", _, "device", _, _]
        );
        let holder = self.lock.holder();
        assert!(
            !is_taken || (holder.is_some() && holder == self.looked),
            "{path} is written without the lock"
        );
    }

    fn check(&self) -> xenstore::Result<()> {
        if self.fuse.is_blown() {
            return Err(xenstore::Error::Store {
                error: StoreError::ENOSPC,
                what: "fuse".into(),
            });
        }
        Ok(())
    }
}

impl Store for FakeStore {
    fn read(&mut self, path: &str) -> xenstore::Result<Option<String>> {
        self.answer()?;
        self.reads += 1;
        self.looked = self.lock.holder();
        let below = format!("{path}/");
        let mut from = self.nodes.range(below.clone()..);
        let is_folder = from.next().is_some_and(|(key, _)| key.starts_with(&below));
        let value = self.nodes.get(path).cloned();
        Ok(value.or_else(|| is_folder.then(String::new)))
    }
    fn list(&mut self, path: &str) -> xenstore::Result<Vec<String>> {
        self.answer()?;
        self.reads += 1;
        self.looked = self.lock.holder();
        let below = format!("{path}/");
        let names = self.nodes.keys().filter_map(|key| key.strip_prefix(&below));
        let names: BTreeSet<&str> = names.filter_map(|name| name.split('/').next()).collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }
    fn apply(&mut self, changes: &[Change]) -> xenstore::Result<()> {
        self.answer()?;
        self.check()?;
        for change in changes {
            match change {
                Change::Write { path, value } => {
                    self.check_lock(path);
                    self.nodes.insert(path.clone(), value.clone());
                }
                Change::Permissions { path, .. } => assert!(self.nodes.contains_key(path)),
                Change::Remove { path } => {
                    let below = format!("{path}/");
                    self.nodes
                        .retain(|key, _| key != path && !key.starts_with(&below));
                }
            }
        }
        Ok(())
    }
    fn introduce(&mut self, d: DomId, _: Gfn, _: EvtchnPort) -> xenstore::Result<()> {
        self.answer()?;
        self.check()?;
        self.introduced.insert(d.0);
        Ok(())
    }
    fn release(&mut self, d: DomId) -> xenstore::Result<()> {
        self.answer()?;
        // Who hears of it looks whether the domain lives, and keeps what it has of it then.
        assert!(!self.domains.borrow().contains_key(&d.0), "released alive");
        self.introduced.remove(&d.0);
        Ok(())
    }
    fn watch(&mut self, _: &str) -> xenstore::Result<()> {
        Ok(())
    }
    fn unwatch(&mut self, _: &str) -> xenstore::Result<()> {
        Ok(())
    }
    fn wait(&mut self, _: Duration) -> xenstore::Result<bool> {
        if let Some(meanwhile) = self.on_wait.take() {
            meanwhile();
        }
        Ok(true)
    }
    fn reconnect(&mut self) -> xenstore::Result<()> {
        if let Some(left) = self.absence.checked_sub(1) {
            self.absence = left;
            return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
        }
        self.is_lost = false;
        Ok(())
    }
}

/// dom0's kernel.
#[derive(Debug)]
pub(crate) struct FakeHost {
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
    pub(crate) folders: BTreeSet<PathBuf>,
    /// Files of core dumps, which cannot be written when it is full.
    pub(crate) dumps: BTreeMap<PathBuf, File>,
    pub(crate) is_full: bool,
    pub(crate) bridges: Vec<String>,
    /// What interfaces are in which bridge.
    pub(crate) ports: BTreeMap<String, String>,
    /// Nodes of block devices.
    pub(crate) devices: BTreeMap<PathBuf, (u32, u32)>,
    /// What loop devices are made over: 7:1 is the first.
    pub(crate) loops: Vec<Storage>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) has_drivers: bool,
    pub(crate) answers: bool,
    /// Random values drawn.
    pub(crate) draws: u8,
    lock: Rc<FakeLock>,
    pub(crate) fuse: Fuse,
}

impl FakeHost {
    fn check_unlocked(&self) {
        assert!(self.lock.holder().is_none(), "others wait for the lock");
    }

    /// Where a file is: names that differ in digits only are links to the same one.
    pub(crate) fn storage(path: &Path) -> Storage {
        let name = path.to_string_lossy();
        let letters = name.bytes().filter(|byte| !byte.is_ascii_digit());
        Storage::File {
            device: 1,
            inode: letters.fold(0, |inode, byte| inode * 31 + u64::from(byte)),
        }
    }

    /// Makes a loop device over a file: its minor number.
    pub(crate) fn make_loop(&mut self, path: &Path) -> u32 {
        self.loops.push(Self::storage(path));
        u32::try_from(self.loops.len()).unwrap()
    }
}

impl Host for FakeHost {
    fn read_file(&mut self, path: &Path) -> Result<Vec<u8>> {
        let file = self.files.get(path).cloned();
        file.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound).into())
    }
    fn write_file(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        if self.fuse.is_blown() {
            return Err(Error::new("fuse", "blown", ""));
        }
        self.files.insert(path.to_owned(), content.to_vec());
        Ok(())
    }
    fn make_private_folder(&mut self, path: &Path) -> Result<()> {
        self.folders.insert(path.to_owned());
        Ok(())
    }
    fn create_private_file(&mut self, path: &Path) -> Result<File> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("dump", flags)?);
        self.dumps.insert(path.to_owned(), file.try_clone()?);
        // For reading only: whatever is written fails.
        match self.is_full {
            true => Ok(File::open("/dev/null")?),
            false => Ok(file),
        }
    }
    fn remove_file(&mut self, path: &Path) {
        self.dumps.remove(path);
        self.files.remove(path);
    }
    fn block_device(&mut self, path: &Path, _: bool) -> Result<BlockDevice> {
        if self.fuse.is_blown() {
            return Err(Error::new("fuse", "blown", ""));
        }
        let (major, minor) = match self.devices.get(path) {
            Some(&numbers) => numbers,
            None => {
                self.read_file(path)?;
                (7, self.make_loop(path))
            }
        };
        Ok(BlockDevice {
            major,
            minor,
            node: path.to_owned(),
            hold: None,
        })
    }
    fn behind(&mut self, major: u32, minor: u32) -> Option<Storage> {
        let at = usize::try_from(minor).ok()?.checked_sub(1)?;
        self.loops.get(at).filter(|_| major == 7).copied()
    }
    fn mounts(&mut self) -> Result<Vec<Mount>> {
        Ok(self.mounts.clone())
    }
    fn is_backend_ready(&mut self, _: &str, _: DomId, _: u32) -> bool {
        self.check_unlocked();
        self.answers
    }
    fn has_backend(&mut self, _: &str, _: DomId, _: u32) -> bool {
        self.check_unlocked();
        false
    }
    fn load_backend(&mut self, _: &str) -> bool {
        self.has_drivers
    }
    fn has_interface(&mut self, name: &str) -> bool {
        self.is_bridge(name) || name == "eth0"
    }
    fn is_bridge(&mut self, name: &str) -> bool {
        self.bridges.iter().any(|bridge| bridge == name)
    }
    fn bridges(&mut self) -> Vec<String> {
        self.bridges.clone()
    }
    fn rename_interface(&mut self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }
    fn connect_interface(
        &mut self,
        name: &str,
        bridge: Option<&str>,
        _: Option<u16>,
    ) -> Result<()> {
        if self.fuse.is_blown() {
            return Err(Error::new("fuse", "blown", ""));
        }
        let bridge = bridge.unwrap_or_default().to_owned();
        self.ports.insert(name.to_owned(), bridge);
        Ok(())
    }
    fn patience(&self) -> Duration {
        Duration::ZERO
    }
    fn lock(&mut self) -> Result<Lock> {
        Ok(FakeLock::take(&self.lock))
    }
    fn pause(&mut self, _: Duration) {
        self.check_unlocked();
    }
    fn random(&mut self, bytes: &mut [u8]) -> Result<()> {
        // Two draws differ, as real ones do.
        bytes.fill(0x55_u8.wrapping_add(self.draws));
        self.draws = self.draws.wrapping_add(1);
        Ok(())
    }
    fn now(&mut self) -> (u64, u32) {
        (1_000_000, 120_000_000)
    }
}

/// All of it.
pub(crate) struct World {
    pub(crate) hypervisor: FakeHypervisor,
    pub(crate) store: FakeStore,
    pub(crate) host: FakeHost,
}

impl World {
    /// A machine with a kernel, a disk image, a bridge and 1 GiB of free memory.
    pub(crate) fn new() -> Self {
        let kernel = guest_image::testing::build_kernel();
        let files = [
            ("/k", kernel),
            ("/r", vec![1; 5000]),
            ("/a.img", vec![0; 4096]),
        ];
        let hypervisor = FakeHypervisor::default();
        hypervisor.free.set(1 << 18);
        let lock = Rc::<FakeLock>::default();
        let store = FakeStore {
            lock: Rc::clone(&lock),
            domains: Rc::clone(&hypervisor.domains),
            ..FakeStore::default()
        };
        Self {
            hypervisor,
            store,
            host: FakeHost {
                files: files.map(|(path, file)| (path.into(), file)).into(),
                folders: BTreeSet::new(),
                dumps: BTreeMap::new(),
                is_full: false,
                bridges: vec!["xenbr0".into()],
                ports: BTreeMap::new(),
                devices: BTreeMap::new(),
                loops: Vec::new(),
                mounts: Vec::new(),
                has_drivers: true,
                answers: true,
                draws: 0,
                lock,
                fuse: Fuse::default(),
            },
        }
    }

    pub(crate) fn machine(&mut self) -> Machine<'_> {
        Machine {
            hypervisor: &self.hypervisor,
            store: &mut self.store,
            host: &mut self.host,
        }
    }

    fn fuse(&self, seam: usize) -> &Fuse {
        let Self {
            hypervisor,
            store,
            host,
        } = self;
        [&hypervisor.fuse, &store.fuse, &host.fuse, &store.loss][seam]
    }

    /// Makes call number `at` of a seam fail: 0 hypervisor, 1 store, 2 host, 3 the connection to
    /// the store.
    pub(crate) fn blow(&self, seam: usize, at: u32) {
        self.fuse(seam).left.set(Some(at));
    }

    /// Was the fuse reached?
    pub(crate) fn has_blown(&self, seam: usize) -> bool {
        self.fuse(seam).left.get().is_none()
    }

    /// Nothing of any guest is left.
    pub(crate) fn assert_clean(&self, what: &str) {
        assert!(
            self.hypervisor.domains.borrow().is_empty(),
            "{what}: a domain"
        );
        assert_eq!(self.hypervisor.free.get(), 1 << 18, "{what}: frames");
        assert!(
            self.store.nodes.is_empty(),
            "{what}: {:?}",
            self.store.nodes
        );
        assert!(self.store.introduced.is_empty(), "{what}: introduced");
        assert_eq!(
            self.host.files.len(),
            3,
            "{what}: {:?}",
            self.host.files.keys()
        );
    }
}
