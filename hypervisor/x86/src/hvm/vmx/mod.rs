//! Intel VMX with EPT.
