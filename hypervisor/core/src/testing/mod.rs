//! A fake machine for host tests.
