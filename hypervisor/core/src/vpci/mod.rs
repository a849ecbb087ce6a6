//! Config-space traps for dom0's MSI and MSI-X.
