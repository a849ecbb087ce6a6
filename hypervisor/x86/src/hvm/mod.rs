//! Hardware virtualisation backends.

pub mod svm;
pub mod vmx;
