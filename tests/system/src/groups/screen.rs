//! What stands on the screen: VGA text, and pixels where the loader set a graphics mode.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use boot_image::grub;
use font8x8::legacy::BASIC_LEGACY;
use harness::{Boot, Firmware, Report, Session, Start};

use crate::env::Env;

/// Words of the refusal, the last line that the hypervisor prints.
const REFUSAL: &str = "Radon cannot start: ";
/// A cell of the pixel screen.
const CELL: (usize, usize) = (8, 16);

pub(crate) fn screen(env: &Env, report: &mut Report) -> Result<()> {
    report.check("screen/text", || {
        // Without a loader that sets a mode, it is the BIOS' text screen.
        let start = env.direct("console=com1,vga noreboot", Vec::new());
        let session = refused(env, "text", start)?;
        let file = dump(env, &session, "text", "pmemsave 0xb8000 4000")?;
        let cells = std::fs::read(&file)?;
        let rows: Vec<String> = cells
            .chunks(160)
            .map(|row| row.iter().step_by(2).map(|&c| char::from(c)).collect())
            .collect();
        shows_refusal(&rows)
    });
    for (name, firmware) in [("bios", Firmware::Bios), ("uefi", Firmware::Uefi)] {
        report.check(&format!("screen/{name}-framebuffer"), || {
            let iso = env.layout.build().join(format!("test-screen-{name}.iso"));
            let entry = grub::Entry {
                loads: grub::Loads::Radon,
                title: name.to_owned(),
                options: "console=com1,vga noreboot".to_owned(),
                modules: Vec::new(),
                commands: Vec::new(),
            };
            grub::make_iso(&env.layout, &iso, &[entry])?;
            let session = refused(env, name, Start::Iso { iso, firmware })?;
            let file = dump(env, &session, name, "screendump")?;
            shows_refusal(&Picture::read(&file)?.text())
        });
    }
    Ok(())
}

/// A boot without a dom0, to the end of its refusal on the serial line.
fn refused(env: &Env, name: &str, start: Start) -> Result<Session> {
    let machine = env.machine("qemu-svm")?.memory(1024).cpus(1);
    let mut boot = Boot::new(&format!("screen-{name}"), machine, start);
    boot.repeat = "./radon test screen".to_owned();
    let mut session = env.start(boot)?;
    let timeout = session.machine().seconds(60);
    if let Err(error) = session
        .console
        .expect(&[REFUSAL], timeout)
        .and_then(|_| session.console.expect(&["\n"], timeout))
    {
        bail!("{error:#}\n{}", session.evidence());
    }
    Ok(session)
}

/// Lets the monitor write what `command` takes.
fn dump(env: &Env, session: &Session, name: &str, command: &str) -> Result<std::path::PathBuf> {
    // The line goes to the serial port first.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let file = env.layout.build().join(format!("test-screen-{name}.dump"));
    let answer = session.monitor(&format!("{command} \"{}\"", file.display()))?;
    ensure!(file.exists(), "QEMU writes no {}: {answer}", file.display());
    Ok(file)
}

fn shows_refusal(rows: &[String]) -> Result<String> {
    let line = rows
        .iter()
        .find_map(|row| row.find(REFUSAL).map(|at| &row[at..]));
    let Some(line) = line else {
        bail!("no refusal on the screen:\n{}", rows.join("\n"));
    };
    Ok(line.trim().to_owned())
}

/// A binary PPM.
struct Picture {
    width: usize,
    rgb: Vec<u8>,
}

impl Picture {
    fn read(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file)?;
        // "P6", width, height, 255, each followed by white space; then the pixels.
        let mut words = Vec::new();
        let mut at = 0;
        while words.len() < 4 {
            let rest = &bytes[at..];
            let end = rest
                .iter()
                .position(u8::is_ascii_whitespace)
                .context("a PPM's header")?;
            words.push(String::from_utf8_lossy(&rest[..end]).into_owned());
            at += end + 1;
        }
        ensure!(words[0] == "P6" && words[3] == "255", "a PPM of {words:?}");
        let (width, height): (usize, usize) = (words[1].parse()?, words[2].parse()?);
        let rgb = bytes[at..].to_vec();
        ensure!(
            width > 0 && rgb.len() == width * height * 3,
            "a PPM of {width} by {height} with {} bytes",
            rgb.len()
        );
        Ok(Self { width, rgb })
    }

    fn lit(&self, x: usize, y: usize) -> bool {
        self.rgb[(y * self.width + x) * 3..][..3]
            .iter()
            .any(|&c| c > 0x40)
    }

    /// Its cells as text; what is no glyph of ours becomes `?`.
    fn text(&self) -> Vec<String> {
        let height = self.rgb.len() / self.width / 3;
        (0..height / CELL.1)
            .map(|row| {
                (0..self.width / CELL.0)
                    .map(|column| self.glyph(column * CELL.0, row * CELL.1))
                    .collect()
            })
            .collect()
    }

    fn glyph(&self, x: usize, y: usize) -> char {
        // Every line of a glyph is drawn twice; the left pixel is its lowest bit.
        let mut lines = [0u8; 8];
        for (i, line) in lines.iter_mut().enumerate() {
            for bit in 0..8 {
                *line |= u8::from(self.lit(x + bit, y + 2 * i)) << bit;
            }
        }
        (b' '..=b'~')
            .find(|&c| BASIC_LEGACY[usize::from(c)] == lines)
            .map_or('?', char::from)
    }
}
