//! CPUID and MSR policy as data: what a guest sees, computed from the host and the domain's settings.
