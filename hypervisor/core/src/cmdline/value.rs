//! Numbers, sizes and booleans as Xen writes them.

/// A value that cannot be used, and what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad(pub(super) &'static str);

/// Removes double quotes around a value.
pub(super) fn unquote(value: &[u8]) -> &[u8] {
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    value.strip_suffix(b"\"").unwrap_or(value)
}

/// Xen's words for yes and no.
pub(super) fn boolean(value: &[u8]) -> Option<bool> {
    match value {
        b"yes" | b"on" | b"true" | b"enable" | b"1" => Some(true),
        b"no" | b"off" | b"false" | b"disable" | b"0" => Some(false),
        _ => None,
    }
}

/// A number without a sign: decimal, `0x` hexadecimal, `0` octal. And what follows it.
pub(super) fn number_prefix(text: &[u8]) -> Option<(u64, &[u8])> {
    let (radix, digits) = match text {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest),
        // The 0 itself is a digit, so that "0" is a number.
        [b'0', ..] => (8, text),
        _ => (10, text),
    };
    let mut value: u64 = 0;
    let mut len = 0;
    for &byte in digits {
        let Some(digit) = char::from(byte).to_digit(radix) else {
            break;
        };
        value = value.checked_mul(radix.into())?.checked_add(digit.into())?;
        len += 1;
    }
    (len != 0).then(|| (value, &digits[len..]))
}

/// A number and nothing else.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    number_prefix(text)
        .filter(|(_, rest)| rest.is_empty())
        .map(|(number, _)| number)
}

/// A size and what follows it: a number with one of B, K, M, G, T, KiB without.
pub(super) fn size_prefix(text: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = number_prefix(text)?;
    let (shift, rest) = match rest {
        [b'b' | b'B', rest @ ..] => (0, rest),
        [b'k' | b'K', rest @ ..] => (10, rest),
        [b'm' | b'M', rest @ ..] => (20, rest),
        [b'g' | b'G', rest @ ..] => (30, rest),
        [b't' | b'T', rest @ ..] => (40, rest),
        _ => (10, rest),
    };
    Some((number.checked_mul(1 << shift)?, rest))
}

/// A size and nothing else.
pub(super) fn size(text: &[u8]) -> Option<u64> {
    size_prefix(text)
        .filter(|(_, rest)| rest.is_empty())
        .map(|(size, _)| size)
}
