//! Guest-physical to machine translation in EPT and NPT formats.

/// How a nested page-table format encodes an entry. Pure bits.
pub trait EntryFormat: Send + Sync + 'static {}
