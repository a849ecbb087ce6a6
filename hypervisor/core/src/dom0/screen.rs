//! The screen that dom0 takes over, as `XENPF_get_dom0_console` tells it (`public/xen.h`).

use guest_image::multiboot::{Framebuffer, PixelFormat};
use xen_abi::layout::Union;
use xen_abi::xen::{
    Dom0VgaConsoleInfo, Dom0VgaConsoleInfoTextMode3, Dom0VgaConsoleInfoVesaLfb,
    XEN_VGATYPE_TEXT_MODE_3, XEN_VGATYPE_VESA_LFB,
};

/// Firmware's text screen: characters, and lines of one.
const TEXT: (u16, u16, u16) = (80, 25, 16);
/// A frame buffer's size is counted in these.
const SIZE_UNIT: u64 = 64 << 10;

/// What dom0 is told of the screen that the boot loader left. `None` where there is none that its
/// drivers could use. A BIOS machine whose loader says nothing shows VGA text, if anything; Linux
/// looks whether the text memory is there.
#[must_use]
pub fn describe(framebuffer: Option<&Framebuffer>, is_efi: bool) -> Option<Dom0VgaConsoleInfo> {
    let Some(f) = framebuffer else {
        return (!is_efi).then(|| text(TEXT.0, TEXT.1));
    };
    match f.format {
        PixelFormat::Text => Some(text(f.width.try_into().ok()?, f.height.try_into().ok()?)),
        PixelFormat::Rgb { red, green, blue } => {
            let size = u64::from(f.pitch) * u64::from(f.height);
            let used = red.size.checked_add(green.size)?.checked_add(blue.size)?;
            let rsvd_size = f.bits_per_pixel.checked_sub(used)?;
            let mut info = info(XEN_VGATYPE_VESA_LFB);
            info.u.set(&Dom0VgaConsoleInfoVesaLfb {
                width: f.width.try_into().ok()?,
                height: f.height.try_into().ok()?,
                bytes_per_line: f.pitch.try_into().ok()?,
                bits_per_pixel: f.bits_per_pixel.into(),
                lfb_base: f.address as u32,
                lfb_size: size.div_ceil(SIZE_UNIT).try_into().ok()?,
                red_pos: red.position,
                red_size: red.size,
                green_pos: green.position,
                green_size: green.size,
                blue_pos: blue.position,
                blue_size: blue.size,
                // What no colour takes lies above them.
                rsvd_pos: if rsvd_size == 0 { 0 } else { used },
                rsvd_size,
                gbl_caps: 0,
                mode_attrs: 0,
                pad: 0,
                ext_lfb_base: (f.address >> 32) as u32,
            });
            Some(info)
        }
        PixelFormat::Indexed | PixelFormat::Other(_) => None,
    }
}

fn text(columns: u16, rows: u16) -> Dom0VgaConsoleInfo {
    let mut info = info(XEN_VGATYPE_TEXT_MODE_3);
    info.u.set(&Dom0VgaConsoleInfoTextMode3 {
        font_height: TEXT.2,
        cursor_x: 0,
        // Below what stands there: dom0's first line scrolls the screen.
        cursor_y: rows.saturating_sub(1),
        rows,
        columns,
    });
    info
}

fn info(video_type: u32) -> Dom0VgaConsoleInfo {
    Dom0VgaConsoleInfo {
        video_type: video_type as u8,
        _fill0: [0; 3],
        u: Union([0; 9]),
    }
}

#[cfg(test)]
mod tests {
    use guest_image::multiboot::ColorField;

    use super::*;

    fn rgb(address: u64) -> Framebuffer {
        let color = |position| ColorField { position, size: 8 };
        Framebuffer {
            address,
            pitch: 5120,
            width: 1280,
            height: 800,
            bits_per_pixel: 32,
            format: PixelFormat::Rgb {
                red: color(16),
                green: color(8),
                blue: color(0),
            },
        }
    }

    #[test]
    fn pixels_above_4_gib_keep_their_address() {
        let info = describe(Some(&rgb(0x38_c000_0000)), true).unwrap();
        assert_eq!(u32::from(info.video_type), XEN_VGATYPE_VESA_LFB);
        let lfb: Dom0VgaConsoleInfoVesaLfb = info.u.get();
        assert_eq!((lfb.lfb_base, lfb.ext_lfb_base), (0xc000_0000, 0x38));
        assert_eq!(
            (lfb.width, lfb.height, lfb.bytes_per_line),
            (1280, 800, 5120)
        );
        // 4,096,000 bytes are 62.5 units.
        assert_eq!(lfb.lfb_size, 63);
        assert_eq!((lfb.red_pos, lfb.rsvd_pos, lfb.rsvd_size), (16, 24, 8));
    }

    #[test]
    fn text_is_what_a_bios_leaves_and_nothing_is_what_efi_leaves() {
        let info = describe(None, false).unwrap();
        assert_eq!(u32::from(info.video_type), XEN_VGATYPE_TEXT_MODE_3);
        let text: Dom0VgaConsoleInfoTextMode3 = info.u.get();
        assert_eq!((text.columns, text.rows, text.cursor_y), (80, 25, 24));
        assert!(describe(None, true).is_none());
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        let wide = Framebuffer {
            pitch: 1 << 16,
            ..rgb(0)
        };
        assert!(describe(Some(&wide), true).is_none());
        let palette = Framebuffer {
            format: PixelFormat::Indexed,
            ..rgb(0)
        };
        assert!(describe(Some(&palette), true).is_none());
        let too_few = Framebuffer {
            bits_per_pixel: 16,
            ..rgb(0)
        };
        assert!(describe(Some(&too_few), true).is_none());
    }
}
