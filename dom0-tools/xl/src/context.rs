//! Connections, opened when first needed, and what commands fail with.

use std::time::Duration;

use toolstack::Machine;
use toolstack::linux::Linux;
use xen_abi::DomId;
use xencall::Xen;
use xenstore::Client;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be said.
    Message(String),
    /// To be said of options and operands that the command cannot be given, which has an exit code
    /// of its own.
    Usage(String),
    /// Has been said.
    Told,
}

/// Result of a command.
pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }
}

macro_rules! causes {
    ($($ty:ty)*) => {
        $(impl From<$ty> for Failure {
            fn from(error: $ty) -> Self {
                Self::Message(error.to_string())
            }
        })*
    };
}
causes! { toolstack::Error xencall::Error xenstore::Error std::io::Error rustix::io::Errno }

/// What commands share.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// Say more.
    pub(crate) is_verbose: bool,
    /// Only say what would be done.
    pub(crate) is_dry_run: bool,
    xen: Option<Xen>,
    store: Option<Client>,
    host: Linux,
}

impl Context {
    /// The hypervisor.
    pub(crate) fn xen(&mut self) -> Result<&Xen> {
        if self.xen.is_none() {
            self.xen = Some(Xen::open()?);
        }
        self.xen.as_ref().ok_or(Failure::Told)
    }

    /// The kernel.
    pub(crate) fn host(&mut self) -> &mut Linux {
        &mut self.host
    }

    /// Hypervisor, store and kernel.
    pub(crate) fn machine(&mut self) -> Result<Machine<'_>> {
        self.xen()?;
        if self.store.is_none() {
            let client = Client::open().map_err(|error| {
                Failure::new(format!("{error}\n  help: start the daemon: xenstored"))
            })?;
            self.store = Some(client);
        }
        match (&self.xen, &mut self.store) {
            (Some(hypervisor), Some(store)) => Ok(Machine {
                hypervisor,
                store,
                host: &mut self.host,
            }),
            _ => Err(Failure::Told),
        }
    }

    /// The same, but waits some seconds for a daemon that is being started anew.
    pub(crate) fn machine_soon(&mut self) -> Result<Machine<'_>> {
        const PATIENCE: u32 = 50;
        for _ in 0..PATIENCE {
            self.xen()?;
            if self.machine().is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.machine()
    }

    /// Lets go of a connection to the store that is lost; the next use makes a new one.
    pub(crate) fn forget_store(&mut self) {
        self.store = None;
    }

    /// The domain that the user means.
    pub(crate) fn domain(&mut self, text: &str) -> Result<DomId> {
        Ok(toolstack::records::find(&mut self.machine()?, text)?)
    }

    /// Its name; empty when it has none.
    pub(crate) fn name(&mut self, d: DomId) -> Result<String> {
        let machine = self.machine()?;
        let name = toolstack::records::name(machine.store, d)?;
        Ok(name.unwrap_or_else(|| match d {
            DomId(0) => "Domain-0".to_owned(),
            _ => "(null)".to_owned(),
        }))
    }
}
