//! Gives the guests their linker scripts; on the host the crate is two empty programs.

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=tiny.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bin=bench-guest=-T{dir}/link.ld");
        println!("cargo:rustc-link-arg-bin=tiny-guest=-T{dir}/tiny.ld");
    }
}
