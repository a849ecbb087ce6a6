//! Page-table entry bits: host, EPT and NPT.
