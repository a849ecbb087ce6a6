//! Domain table, life cycle, vCPUs.
