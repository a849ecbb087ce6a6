//! Pages with the rings that every guest shares with daemons in dom0: xenstore and console.

use std::sync::atomic::AtomicU32;

use xen_abi::{DomId, Gfn, GrantRef};

use crate::error::{Errno, Error, Result};
use crate::grant::{Gntdev, GrantedPages};
use crate::pages::SharedPages;
use crate::xen::Xen;

/// A page that a guest writes too, or a stand-in for it in tests. Offsets are constants of the
/// program, within the page.
pub trait Page {
    /// The word at `offset`, a multiple of four.
    fn word(&self, offset: usize) -> &AtomicU32;
    /// Copies out.
    fn read(&self, offset: usize, to: &mut [u8]);
    /// Copies in.
    fn write(&self, offset: usize, from: &[u8]);
}

static NOWHERE: AtomicU32 = AtomicU32::new(0);

impl Page for SharedPages {
    fn word(&self, offset: usize) -> &AtomicU32 {
        Self::word(self, offset).unwrap_or(&NOWHERE)
    }
    fn read(&self, offset: usize, to: &mut [u8]) {
        if Self::read(self, offset, to).is_err() {
            to.fill(0);
        }
    }
    fn write(&self, offset: usize, from: &[u8]) {
        // Offsets are within the page.
        let _ = Self::write(self, offset, from);
    }
}

/// A mapped ring page.
#[derive(Debug)]
pub enum RingPage {
    /// By grant.
    Granted(GrantedPages),
    /// By frame number, or dom0's own.
    Mapped(SharedPages),
}

impl RingPage {
    /// Maps a ring by the grant that the toolstack has made for it, or else by its frame.
    ///
    /// # Errors
    /// When neither is there.
    pub fn map(
        xen: Option<&Xen>,
        gntdev: Option<&Gntdev>,
        domain: DomId,
        gref: GrantRef,
        gfn: Gfn,
    ) -> Result<Self> {
        if let Some(Ok(pages)) = gntdev.map(|device| device.map(domain, &[gref])) {
            return Ok(Self::Granted(pages));
        }
        let missing = Error::new("/dev/xen/privcmd: open", Some(domain), Errno::NODEV);
        let pages = xen.ok_or(missing)?.map_foreign(domain, &[gfn])?;
        Ok(Self::Mapped(pages))
    }

    fn pages(&self) -> &SharedPages {
        match self {
            Self::Granted(pages) => pages,
            Self::Mapped(pages) => pages,
        }
    }
}

impl Page for RingPage {
    fn word(&self, offset: usize) -> &AtomicU32 {
        Page::word(self.pages(), offset)
    }
    fn read(&self, offset: usize, to: &mut [u8]) {
        Page::read(self.pages(), offset, to);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        Page::write(self.pages(), offset, from);
    }
}
