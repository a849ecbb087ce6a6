//! Text that guests write: lines are put together, cleaned and tagged.

/// Longest line that is kept together.
const LINE: usize = 128;

/// The line that a guest is writing.
#[derive(Clone, Debug)]
pub struct GuestLine {
    bytes: [u8; LINE],
    len: usize,
}

impl Default for GuestLine {
    fn default() -> Self {
        Self::new()
    }
}

/// True for what may reach an operator's terminal.  Control characters may not, and with
/// them goes all that could move the cursor, change colours or answer on the terminal's
/// behalf; nor may bytes above 0x7e, which some terminals take for 8-bit control codes.
fn is_printable(b: u8) -> bool {
    b == b'\t' || (b' '..0x7f).contains(&b)
}

impl GuestLine {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; LINE],
            len: 0,
        }
    }

    /// Takes what a guest writes; calls `emit` for each line that is complete, or too long.
    pub fn write(&mut self, bytes: &[u8], mut emit: impl FnMut(&str)) {
        for b in bytes.iter().copied() {
            if b == b'\n' {
                self.flush(&mut emit);
            } else if is_printable(b) {
                if self.len == LINE {
                    self.flush(&mut emit);
                }
                if let Some(slot) = self.bytes.get_mut(self.len) {
                    *slot = b;
                    self.len += 1;
                }
            }
        }
    }

    /// Emits what there is, without waiting for the end of the line.
    pub fn flush(&mut self, emit: &mut impl FnMut(&str)) {
        let line = self.bytes.get(..self.len).unwrap_or(&[]);
        // Only ASCII gets in.
        emit(core::str::from_utf8(line).unwrap_or(""));
        self.len = 0;
    }

    /// True if nothing was written since the last line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> (Vec<String>, GuestLine) {
        let (mut l, mut out) = (GuestLine::new(), Vec::new());
        for p in parts {
            l.write(p, |s| out.push(s.to_string()));
        }
        (out, l)
    }

    #[test]
    fn pieces_become_lines() {
        let (out, l) = lines(&[b"hel", b"lo\nwor", b"ld\r\n", b"\n", b"rest"]);
        assert_eq!(out, ["hello", "world", ""]);
        assert!(!l.is_empty());
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        let (out, _) = lines(&[b"\x1b[31mred\x1b]0;title\x07\x9b2J\xff\x08a\tb\x00\n"]);
        assert_eq!(out, ["[31mred]0;title2Ja\tb"]);
    }

    #[test]
    fn long_lines_are_cut() {
        let (out, l) = lines(&[&[b'x'; 300]]);
        assert_eq!(
            out.iter().map(String::len).collect::<Vec<_>>(),
            [LINE, LINE]
        );
        assert!(!l.is_empty());
    }
}
