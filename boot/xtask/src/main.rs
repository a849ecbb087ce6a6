//! Entry point for build, run, test and ci.
fn main() {}
