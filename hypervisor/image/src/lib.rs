//! Multiboot information, ELF and its notes, bzImage and its payloads, PVH start info: parse and build.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
