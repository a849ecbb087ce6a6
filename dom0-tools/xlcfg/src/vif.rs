//! Network cards as xl-network-configuration(5) writes them: `key=value`, comma separated.

use crate::parser::Atom;
use crate::source::{Problems, Span};
use crate::suggest::did_you_mean;

/// Limit on what a card may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes in an interval.
    pub bytes_per_interval: u64,
    /// Length of the interval in microseconds.
    pub interval_us: u32,
}

/// One card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vif {
    /// Address; made up by the toolstack when `None`.
    pub mac: Option<[u8; 6]>,
    /// Bridge in the backend's domain; the toolstack's default when `None`.
    pub bridge: Option<String>,
    /// Gateway device of the routed and translated set-ups.
    pub gateway_device: Option<String>,
    /// Name of the interface in dom0; `vif<domid>.<n>` when `None`.
    pub name: Option<String>,
    /// Program that connects the card.
    pub script: Option<String>,
    /// Addresses for it, as written.
    pub ip: Option<String>,
    /// Domain of the backend, dom0 when `None`.
    pub backend: Option<String>,
    /// Model of the emulated card.
    pub model: Option<String>,
    /// Largest packet payload.
    pub mtu: Option<u16>,
    /// VLANs of the port, as written.
    pub vlan: Option<String>,
    /// Number of the card in the guest; the next free one when `None`.
    pub devid: Option<u32>,
    /// Limit on what it may send.
    pub rate: Option<Rate>,
    /// Shall the guest mistrust the backend?
    pub is_untrusted: bool,
    /// Where it is configured.
    pub span: Span,
}

const KEYS: &[&str] = &[
    "type",
    "mac",
    "bridge",
    "gatewaydev",
    "vifname",
    "script",
    "ip",
    "backend",
    "model",
    "rate",
    "mtu",
    "vlan",
    "devid",
    "trusted",
    "untrusted",
];

/// Reads one specification, e.g. `mac=00:16:3e:01:02:03,bridge=xenbr0`.
pub fn parse(atom: &Atom, problems: &mut Problems) -> Option<Vif> {
    let mut vif = Vif {
        span: atom.span,
        ..Vif::default()
    };
    let errors = problems.errors();
    let inner = atom.inner();
    let mut at = 0;
    for word in atom.text.split(',') {
        let blank = word.len() - word.trim_start().len();
        let span = inner.part(at + blank, at + word.trim_end().len());
        at += word.len() + 1;
        let word = word.trim();
        if !word.is_empty() {
            vif.word(word, span, problems);
        }
    }
    (problems.errors() == errors).then_some(vif)
}

impl Vif {
    fn word(&mut self, word: &str, span: Span, problems: &mut Problems) {
        let Some((key, value)) = word.split_once('=') else {
            match word {
                "trusted" => self.is_untrusted = false,
                "untrusted" => self.is_untrusted = true,
                _ => problems.error(
                    span,
                    format!("'{word}' is no parameter of a network card"),
                    if KEYS.contains(&word) {
                        format!("write {word}=value")
                    } else {
                        did_you_mean(word, KEYS)
                    },
                ),
            }
            return;
        };
        let value_span = span.part(key.len() + 1, word.len());
        let text = Some(value.to_owned()).filter(|value| !value.is_empty());
        match key {
            "mac" => match parse_mac(value) {
                Ok(mac) => self.mac = Some(mac),
                Err(help) => {
                    problems.error(value_span, format!("'{value}' is no MAC address"), help);
                }
            },
            "bridge" => self.bridge = text,
            "gatewaydev" | "netdev" => self.gateway_device = text,
            "vifname" => match text {
                Some(name) if name.len() > 15 || name.contains('/') => problems.error(
                    value_span,
                    format!("'{name}' cannot name an interface"),
                    "interfaces have names of at most 15 characters without '/'",
                ),
                name => self.name = name,
            },
            "script" => self.script = text,
            "ip" => self.ip = text,
            "backend" => self.backend = text,
            "vlan" => self.vlan = text,
            "model" => {
                if !matches!(value, "netfront" | "vif" | "") {
                    problems.warning(
                        value_span,
                        format!("the model '{value}' makes no difference: no card is emulated"),
                        "remove model=; the guest's netfront driver sees the card",
                    );
                }
                self.model = text;
            }
            "type" => match value {
                "vif" => {}
                "ioemu" => problems.error(
                    value_span,
                    "no network cards are emulated",
                    "remove type=ioemu; the guest's netfront driver sees the card",
                ),
                _ => problems.error(
                    value_span,
                    format!("unknown type '{value}'"),
                    did_you_mean(value, &["vif", "ioemu"]),
                ),
            },
            "rate" => match parse_rate(value) {
                Ok(rate) => self.rate = Some(rate),
                Err(what) => problems.error(
                    value_span,
                    what,
                    "write for instance 10Mb/s, 250KB/s or 1MB/s@20ms",
                ),
            },
            "mtu" => match value.parse() {
                Ok(mtu @ 68..=65521) => self.mtu = Some(mtu),
                _ => problems.error(
                    value_span,
                    format!("'{value}' is no MTU"),
                    "give 68 to 65521",
                ),
            },
            "devid" => match value.parse() {
                Ok(devid @ 0..=65535) => self.devid = Some(devid),
                _ => problems.error(
                    value_span,
                    format!("'{value}' is no number of a card"),
                    "give 0 to 65535, or leave it out",
                ),
            },
            _ if key.starts_with("colo_") || key == "forwarddev" => problems.error(
                span,
                format!("'{key}' is for replicated guests, which are not supported"),
                "remove it",
            ),
            _ => problems.error(
                span.part(0, key.len()),
                format!("unknown parameter '{key}' of a network card"),
                did_you_mean(key, KEYS),
            ),
        }
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], &'static str> {
    const FORM: &str = "write six pairs of hexadecimal digits: 00:16:3e:01:02:03";
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().ok_or(FORM)?;
        let is_hex = matches!(part.len(), 1 | 2) && part.bytes().all(|b| b.is_ascii_hexdigit());
        *byte = if is_hex {
            u8::from_str_radix(part, 16).map_err(|_| FORM)?
        } else {
            return Err(FORM);
        };
    }
    if parts.next().is_some() {
        return Err(FORM);
    }
    if mac[0] & 1 != 0 {
        return Err("this address is a multicast one: the first byte must be even");
    }
    if mac == [0; 6] {
        return Err("an address of zeroes only cannot be used: leave mac= out to get one");
    }
    Ok(mac)
}

/// The default interval.
const INTERVAL_US: u32 = 50_000;

/// `<number>[G|M|K](b|B)/s[@<number>[m|u]s]`; lower b is bits.
fn parse_rate(text: &str) -> Result<Rate, String> {
    let bad = || format!("'{text}' is no rate");
    let large = || format!("the rate '{text}' is zero or too large");
    let (speed, interval) = match text.split_once('@') {
        Some((speed, interval)) => (speed, Some(interval)),
        None => (text, None),
    };
    let speed = speed.strip_suffix("/s").ok_or_else(bad)?;
    let digits = speed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = speed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let (prefix, is_bits) = match unit {
        "b" | "Gb" | "Mb" | "Kb" => (unit.trim_end_matches('b'), true),
        "B" | "GB" | "MB" | "KB" => (unit.trim_end_matches('B'), false),
        _ => return Err(bad()),
    };
    let factor: u64 = match prefix {
        "G" => 1_000_000_000,
        "M" => 1_000_000,
        "K" => 1_000,
        _ => 1,
    };
    if number == 0 || number > u64::from(u32::MAX) {
        return Err(large());
    }
    // 2^32 * 10^9 < 2^62.
    let bytes_per_second = number * factor / if is_bits { 8 } else { 1 };
    let interval_us = match interval {
        None => INTERVAL_US,
        Some(interval) => parse_interval(interval)
            .ok_or_else(|| format!("'{interval}' is no interval for a rate"))?,
    };
    let bytes = bytes_per_second
        .checked_mul(u64::from(interval_us))
        .ok_or_else(large)?
        / 1_000_000;
    Ok(Rate {
        bytes_per_interval: bytes,
        interval_us,
    })
}

fn parse_interval(text: &str) -> Option<u32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok().filter(|&number| number != 0)?;
    let factor = match unit {
        "s" | "" => 1_000_000,
        "ms" | "m" => 1_000,
        "us" | "u" => 1,
        _ => return None,
    };
    u32::try_from(number.checked_mul(factor)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    fn atom(text: &str) -> Atom {
        Atom {
            text: text.to_owned(),
            is_quoted: false,
            span: Span::new(0, text.len()),
        }
    }

    fn read(text: &str) -> Result<Vif, String> {
        let mut problems = Problems::default();
        parse(&atom(text), &mut problems).ok_or_else(|| problems.render(&Source::new("t", text)))
    }

    #[test]
    fn all_parameters() {
        let vif = read(
            "mac=00:16:3e:01:02:f3, bridge=xenbr0,vifname=v1,rate=8Mb/s@20ms,mtu=9000,devid=2,untrusted,ip=10.0.0.1",
        )
        .unwrap();
        assert_eq!(vif.mac, Some([0, 0x16, 0x3e, 1, 2, 0xf3]));
        assert_eq!(vif.bridge.as_deref(), Some("xenbr0"));
        assert_eq!(vif.name.as_deref(), Some("v1"));
        assert_eq!((vif.mtu, vif.devid), (Some(9000), Some(2)));
        assert!(vif.is_untrusted);
        let rate = Rate {
            bytes_per_interval: 20_000,
            interval_us: 20_000,
        };
        assert_eq!(vif.rate, Some(rate));
        assert_eq!(read("").unwrap(), Vif::default());
    }

    #[test]
    fn rates_are_those_of_the_manual() {
        let rate = |text| parse_rate(text).map(|r| (r.bytes_per_interval, r.interval_us));
        assert_eq!(rate("10Mb/s"), Ok((62_500, 50_000)));
        assert_eq!(rate("250KB/s"), Ok((12_500, 50_000)));
        assert_eq!(rate("1MB/s@20ms"), Ok((20_000, 20_000)));
        for bad in [
            "",
            "10",
            "10Mb",
            "0Mb/s",
            "10xb/s",
            "99999999999Gb/s",
            "1Mb/s@",
            "1Mb/s@0s",
            "-1b/s",
        ] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mistakes_are_named_at_their_place() {
        let cases = [
            ("brdige=x", 1, "did you mean 'bridge'?"),
            ("bridge=x,mac=1:2:3", 14, "six pairs"),
            ("mac=01:00:00:00:00:01", 5, "multicast"),
            ("bridge", 1, "bridge=value"),
            ("type=ioemu", 6, "netfront"),
            ("rate=fast", 6, "10Mb/s"),
            ("mtu=1", 5, "68"),
            ("vifname=a-name-much-too-long", 9, "15"),
        ];
        for (text, column, what) in cases {
            let rendered = read(text).unwrap_err();
            let wanted = format!("t:1:{column}: error:");
            assert!(
                rendered.starts_with(&wanted) && rendered.contains(what),
                "{text}: {rendered}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in "[a-zA-Z0-9=,:/@ .ä-]{0,60}") {
            let mut problems = Problems::default();
            let vif = parse(&atom(&text), &mut problems);
            proptest::prop_assert_eq!(vif.is_none(), problems.has_errors());
        }
    }
}
