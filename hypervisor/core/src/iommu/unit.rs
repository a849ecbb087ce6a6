//! A unit of either kind.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xen_abi::Maddr;

use super::description::Description;
use super::fault::Fault;
use super::table::{DmaTable, Shape};
use super::trouble::Trouble;
use super::{Hardware, Registers, amd, vtd};
use crate::machine::FrameSource;
use crate::vpci::PciConfig;

/// A unit. What it does is said at each kind's.
#[derive(Debug)]
pub enum Unit<R> {
    /// Of VT-d.
    Vtd(vtd::Unit<R>),
    /// Of AMD-Vi.
    AmdVi(amd::Unit<R>),
}

/// The same of either kind.
macro_rules! either {
    ($unit:expr, $u:ident => $do:expr) => {
        match $unit {
            Unit::Vtd($u) => $do,
            Unit::AmdVi($u) => $do,
        }
    };
}

impl<R: Registers> Unit<R> {
    /// Looks at all units.
    ///
    /// # Errors
    /// Which of them cannot be driven, and why.
    pub(super) fn find_all(
        description: &Description,
        registers: Vec<R>,
        pci: &dyn PciConfig,
        src: &(impl FrameSource + ?Sized),
    ) -> Result<Vec<Self>, String> {
        let kind = description.kind();
        let said = |base, e| trouble(kind, base, e);
        let registers = registers.into_iter();
        match description {
            Description::Vtd(t) => {
                let units = t.units.iter().zip(registers).map(|(at, regs)| {
                    let unit = vtd::Unit::find(at.base, regs, src).map(Self::Vtd);
                    unit.map_err(|e| said(at.base, e))
                });
                units.collect()
            }
            Description::AmdVi(t) => {
                let units = t.units.iter().zip(registers).map(|(at, regs)| {
                    let unit = amd::Unit::find(at, regs, pci, src).map(Self::AmdVi);
                    unit.map_err(|e| said(at.base, e))
                });
                units.collect()
            }
        }
    }

    /// Where its registers are.
    pub const fn base(&self) -> Maddr {
        either!(self, u => u.base())
    }

    /// What it can do, in its own words.
    pub fn capabilities(&self) -> String {
        either!(self, u => format!("{}", u.caps()))
    }

    /// What tables can be so that this unit can walk them, of those that others can walk.
    pub(super) fn shape(&self, others: Option<Shape>) -> Result<Shape, String> {
        match self {
            Self::Vtd(u) => u.shape(others).map_err(|e| self.said(e)),
            Self::AmdVi(u) => Ok(u.shape(others)),
        }
    }

    /// Makes it translate through `tables`. On an error it is off.
    pub(super) fn start(
        &self,
        hw: &impl Hardware,
        src: &(impl FrameSource + ?Sized),
        tables: &DmaTable,
    ) -> Result<(), String> {
        let done = either!(self, u => u.bring_up(hw, src, tables));
        if done.is_err() {
            self.stop(hw);
        }
        done.map_err(|e| self.said(e))
    }

    /// Lets devices through again, untranslated.
    pub(super) fn stop(&self, hw: &impl Hardware) {
        either!(self, u => u.stop(hw));
    }

    /// Forgets translations.
    #[inline]
    pub(super) fn flush(&self, hw: &impl Hardware) -> Result<(), Trouble> {
        either!(self, u => u.flush(hw))
    }

    /// Has faults announced by this message. False when it cannot announce them.
    pub(super) fn report_faults(&self, pci: &dyn PciConfig, message: (u64, u32)) -> bool {
        match self {
            Self::Vtd(u) => {
                u.report_faults(message);
                true
            }
            Self::AmdVi(u) => u.report_faults(pci, message),
        }
    }

    /// Takes the faults that are recorded. True when some were lost.
    pub(super) fn faults(&self, hw: &impl Hardware, each: &mut impl FnMut(Fault)) -> bool {
        match self {
            Self::Vtd(u) => u.faults(each),
            Self::AmdVi(u) => u.faults(hw, each),
        }
    }

    /// Whether faults are recorded.
    pub(super) fn has_faults(&self) -> bool {
        either!(self, u => u.has_faults())
    }

    /// What is wrong with it, in one sentence.
    pub(super) fn said(&self, e: Trouble) -> String {
        let kind = match self {
            Self::Vtd(_) => "VT-d",
            Self::AmdVi(_) => "AMD-Vi",
        };
        trouble(kind, self.base(), e)
    }
}

fn trouble(kind: &str, base: Maddr, e: Trouble) -> String {
    format!("{kind} at {:#x}: {e}", base.0)
}
