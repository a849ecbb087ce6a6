//! Bytes that begin on a page, as copies to whole pages of a guest like them.

use std::io::Read;

/// Bytes, of which the first is at the start of a page. That is for speed only: nothing depends
/// on it, and bytes that came from a vector may lie elsewhere.
#[derive(Clone, Debug, Default)]
pub struct PageBytes {
    bytes: Vec<u8>,
    /// Where they begin.
    start: usize,
}

const PAGE: usize = xen_abi::PAGE_SIZE as usize;

impl PageBytes {
    /// So many zeros. (New memory is zero; nothing is touched.)
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut bytes = vec![0; len.saturating_add(PAGE)];
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        bytes.truncate(start + len);
        Self { bytes, start }
    }

    /// All that `source` has, which should be `len` bytes.
    ///
    /// # Errors
    /// Those of the source; when there is no memory.
    pub fn read(source: &mut impl Read, len: usize) -> std::io::Result<Self> {
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(len.saturating_add(PAGE))?;
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        bytes.resize(start, 0);
        source.read_to_end(&mut bytes)?;
        Ok(Self { bytes, start })
    }
}

impl std::ops::Deref for PageBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

impl std::ops::DerefMut for PageBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).unwrap_or_default()
    }
}

impl From<Vec<u8>> for PageBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_begin_on_a_page() {
        let data: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
        let read = PageBytes::read(&mut data.as_slice(), data.len()).unwrap();
        assert_eq!((&*read, read.as_ptr().align_offset(PAGE)), (&*data, 0));
        // A source that grows meanwhile is read all the same.
        let read = PageBytes::read(&mut data.as_slice(), 100).unwrap();
        assert_eq!(&*read, &*data);
        let mut zeros = PageBytes::zeroed(5000);
        assert_eq!((zeros.len(), zeros.as_ptr().align_offset(PAGE)), (5000, 0));
        zeros[4999] = 1;
        assert_eq!(
            zeros.iter().map(|byte| usize::from(*byte)).sum::<usize>(),
            1
        );
    }
}
