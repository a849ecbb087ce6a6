//! Who gets what is typed on the serial line.
//!
//! Three of the switch character (Ctrl-A) in a row move the input to the next reader,
//! dom0 or the hypervisor.  One or two of them, followed by something else, are
//! delivered as they were typed.

/// Who gets the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Focus {
    /// Debug keys.
    Hypervisor,
    /// The console of dom0.
    Dom0,
}

/// What a byte means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Nothing yet.
    None,
    /// The input goes elsewhere from now on.
    Switched(Focus),
    /// First `held` switch characters, then `byte`.
    Bytes {
        /// For whom.
        to: Focus,
        /// The switch character.
        switch: u8,
        /// How many of them were held back.
        held: u8,
        /// The byte.
        byte: u8,
    },
}

/// The state of the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switch {
    focus: Focus,
    code: u8,
    held: u8,
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

impl Switch {
    /// Input to the hypervisor, switched by Ctrl-A.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            focus: Focus::Hypervisor,
            code: 1,
            held: 0,
        }
    }

    /// `conswitch=`: another letter to go with Ctrl; anything but a letter turns switching off.
    pub fn set_letter(&mut self, letter: u8) {
        let letter = letter.to_ascii_lowercase();
        self.code = if letter.is_ascii_lowercase() {
            letter - b'a' + 1
        } else {
            0
        };
        self.held = 0;
    }

    /// The letter that goes with Ctrl, if switching is on.
    #[must_use]
    pub fn letter(&self) -> Option<char> {
        (self.code != 0).then(|| char::from(b'a' + self.code - 1))
    }

    /// Gives the input to somebody (to dom0, when it boots).
    pub fn set_focus(&mut self, focus: Focus) {
        self.focus = focus;
        self.held = 0;
    }

    /// Who has the input.
    #[must_use]
    pub fn focus(&self) -> Focus {
        self.focus
    }

    /// A byte was typed.
    pub fn typed(&mut self, byte: u8) -> Input {
        if self.code != 0 && byte == self.code {
            self.held += 1;
            if self.held < 3 {
                return Input::None;
            }
            self.held = 0;
            self.focus = match self.focus {
                Focus::Hypervisor => Focus::Dom0,
                Focus::Dom0 => Focus::Hypervisor,
            };
            return Input::Switched(self.focus);
        }
        Input::Bytes {
            to: self.focus,
            switch: self.code,
            held: core::mem::take(&mut self.held),
            byte,
        }
    }
}

/// Bytes that wait for dom0 to read them.
const QUEUE: usize = 512;

/// What was typed for dom0 and not read yet.
#[derive(Clone, Debug)]
pub(super) struct InputQueue {
    bytes: [u8; QUEUE],
    head: usize,
    len: usize,
}

impl InputQueue {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; QUEUE],
            head: 0,
            len: 0,
        }
    }

    /// Appends a byte; drops it when the queue is full.
    pub(super) fn push(&mut self, byte: u8) {
        if self.len < QUEUE
            && let Some(slot) = self.bytes.get_mut((self.head + self.len) % QUEUE)
        {
            *slot = byte;
            self.len += 1;
        }
    }

    /// Takes the oldest bytes; how many.
    pub(super) fn take(&mut self, to: &mut [u8]) -> usize {
        let count = self.len.min(to.len());
        let from = self.bytes.iter().cycle().skip(self.head);
        for (to, from) in to.iter_mut().zip(from).take(count) {
            *to = *from;
        }
        self.head = (self.head + count) % QUEUE;
        self.len -= count;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_row_switch() {
        let mut s = Switch::new();
        let typed = |s: &mut Switch, text: &[u8]| text.iter().fold(None, |_, b| Some(s.typed(*b)));
        assert_eq!(typed(&mut s, &[1, 1]), Some(Input::None));
        assert_eq!(typed(&mut s, &[1]), Some(Input::Switched(Focus::Dom0)));
        let bytes = |held, byte| Input::Bytes {
            to: Focus::Dom0,
            switch: 1,
            held,
            byte,
        };
        assert_eq!(typed(&mut s, b"x"), Some(bytes(0, b'x')));
        assert_eq!(typed(&mut s, &[1, 1, b'y']), Some(bytes(2, b'y')));
        assert_eq!(
            typed(&mut s, &[1, 1, 1]),
            Some(Input::Switched(Focus::Hypervisor))
        );
        s.set_letter(b'B');
        assert_eq!(s.letter(), Some('b'));
        assert_eq!(
            typed(&mut s, &[2, 2, 2]),
            Some(Input::Switched(Focus::Dom0))
        );
        s.set_letter(b'-');
        assert_eq!(s.letter(), None);
        assert!(matches!(
            typed(&mut s, &[1, 1, 0]),
            Some(Input::Bytes { held: 0, .. })
        ));
    }

    #[test]
    fn the_queue_keeps_the_order_and_drops_what_is_too_much() {
        let mut queue = InputQueue::new();
        let mut got = [0; 300];
        for round in 0..5u32 {
            for i in 0..300u32 {
                queue.push((round * 7 + i) as u8);
            }
            assert_eq!(queue.take(&mut got), 300);
            let want: Vec<u8> = (0..300u32).map(|i| (round * 7 + i) as u8).collect();
            assert_eq!(&got[..], &want[..]);
        }
        assert_eq!(queue.take(&mut got), 0);
        for i in 0..QUEUE + 9 {
            queue.push(i as u8);
        }
        let mut all = [0; QUEUE + 9];
        assert_eq!(queue.take(&mut all), QUEUE);
        assert_eq!(all[QUEUE - 1], (QUEUE - 1) as u8);
    }
}
