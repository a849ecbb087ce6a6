//! The console ring (`public/io/console.h`).

use crate::layout::abi_structs;

abi_structs! {
    LAYOUTS:
    /// The page that a guest and xenconsoled share; indices run freely and are masked on use.
    XenconsInterface("struct xencons_interface") {
        r#in: [u8; 1024],
        out: [u8; 2048],
        in_cons: u32,
        in_prod: u32,
        out_cons: u32,
        out_prod: u32,
    }
}
