//! `block-attach`, `block-detach`, `block-list` and the same for networks.

use toolstack::devices::{self, DeviceId};
use xen_abi::DomId;
use xlcfg::vdev::Vdev;
use xlcfg::{Atom, Problems, Source, Span, disk, vif};

use crate::args::{JSON, MANY};
use crate::context::{Context, Failure, Result};
use crate::json::{Json, object};
use crate::output::say;

/// The words of a specification, joined as in a configuration.
fn specification<T>(
    words: &[String],
    parse: impl Fn(&Atom, &mut Problems) -> Option<T>,
) -> Result<T> {
    let text = words.join(",");
    let atom = Atom {
        span: Span::new(0, text.len()),
        is_quoted: false,
        text,
    };
    let source = Source::new("command line", &atom.text);
    let mut problems = Problems::default();
    let parsed = parse(&atom, &mut problems);
    if !problems.is_empty() {
        eprintln!("{}", problems.render(&source));
    }
    parsed.ok_or(Failure::Told)
}

/// `block-attach DOMAIN SPEC ...`.
pub(crate) fn block_attach(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "block-attach", "", &[], (2, MANY));
    let d = context.domain(args.operand(0))?;
    let disk = specification(args.operands.get(1..).unwrap_or_default(), disk::parse)?;
    if context.is_dry_run {
        let target = disk.target.unwrap_or_default();
        say!(
            "disk: {}",
            object! {"pdev_path": target, "vdev": disk.vdev.name}
        );
        return Ok(());
    }
    devices::attach_disk(&mut context.machine()?, d, &disk)?;
    Ok(())
}

/// `block-detach [-f] DOMAIN DEVICE`.
pub(crate) fn block_detach(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "block-detach", "f", &[("force", 'f')], (2, 2));
    let d = context.domain(args.operand(0))?;
    let name = args.operand(1);
    let vdev = Vdev::parse(name)
        .ok_or_else(|| Failure::new(format!("Error: Device {name} not connected.")))?;
    let id = DeviceId::disk(d, vdev.number);
    Ok(devices::detach(
        &mut context.machine()?,
        &id,
        args.has('f'),
    )?)
}

/// Nodes of a device as numbers; -1 for what is not there.
struct Nodes<'a> {
    context: &'a mut Context,
    id: DeviceId,
}

impl Nodes<'_> {
    fn text(&mut self, path: &str) -> Result<Option<String>> {
        Ok(self.context.machine()?.store.read(path)?)
    }

    fn front(&mut self, key: &str) -> Result<i64> {
        let path = format!("{}/{key}", self.id.frontend());
        let text = self.text(&path)?;
        Ok(text.and_then(|text| text.parse().ok()).unwrap_or(-1))
    }

    /// The value of a node, or of the same in the first queue.
    fn queue(&mut self, key: &str) -> Result<i64> {
        match self.front(key)? {
            -1 => self.front(&format!("queue-0/{key}")),
            value => Ok(value),
        }
    }
}

fn devices_of(context: &mut Context, names: &[String], kind: &str) -> Result<Vec<DeviceId>> {
    let mut all = Vec::new();
    for name in names {
        let d = context.domain(name)?;
        let ids = devices::list(&mut context.machine()?, d)?;
        all.extend(ids.into_iter().filter(|id| id.kind == kind));
    }
    Ok(all)
}

/// `block-list DOMAIN ...`.
pub(crate) fn block_list(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "block-list", "", &[], (1, MANY));
    let ids = devices_of(context, &args.operands, "vbd")?;
    let is_json = args.has(JSON);
    if !is_json {
        say!(
            "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}",
            "Vdev",
            "BE",
            "handle",
            "state",
            "evt-ch",
            "ring-ref",
            "BE-path"
        );
    }
    let mut all = Vec::new();
    for id in ids {
        let (DomId(number), devid, backend) = (id.d, id.devid, id.backend());
        let mut nodes = Nodes { context, id };
        let (state, port, ring) = (
            nodes.front("state")?,
            nodes.queue("event-channel")?,
            nodes.queue("ring-ref")?,
        );
        if is_json {
            let params = nodes.text(&format!("{backend}/params"))?;
            let name = nodes.text(&format!("{backend}/dev"))?;
            all.push(object! {
                "vdev": devid, "domid": number, "name": name.unwrap_or_default(),
                "target": params.unwrap_or_default(), "state": state, "evtchn": port,
                "ring_ref": ring, "backend": backend,
            });
        } else {
            say!(
                "{devid:<5} {:<3} {number:<6} {state:<5} {port:<6} {ring:<8} {backend:<30}",
                0
            );
        }
    }
    if is_json {
        say!("{}", Json::List(all));
    }
    Ok(())
}

/// `network-attach DOMAIN KEY=VALUE ...`.
pub(crate) fn network_attach(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "network-attach", "", &[], (1, MANY));
    let d = context.domain(args.operand(0))?;
    let vif = specification(args.operands.get(1..).unwrap_or_default(), vif::parse)?;
    if context.is_dry_run {
        say!(
            "vif: {}",
            object! {"bridge": vif.bridge.unwrap_or_default()}
        );
        return Ok(());
    }
    devices::attach_vif(&mut context.machine()?, d, &vif)?;
    Ok(())
}

/// `network-detach DOMAIN DEVID|MAC`.
pub(crate) fn network_detach(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "network-detach", "f", &[("force", 'f')], (2, 2));
    let d = context.domain(args.operand(0))?;
    let wanted = args.operand(1).to_lowercase();
    for id in devices_of(context, &args.operands[..1], "vif")? {
        let path = format!("{}/mac", id.backend());
        let machine = context.machine()?;
        let has_mac = machine.store.read(&path)?.is_some_and(|mac| mac == wanted);
        if has_mac || id.devid.to_string() == wanted {
            return Ok(devices::detach(
                &mut context.machine()?,
                &id,
                args.has('f'),
            )?);
        }
    }
    Err(Failure::new(format!(
        "Unknown device {wanted}.\n  help: xl network-list {}",
        d.0
    )))
}

/// `network-list DOMAIN ...`.
pub(crate) fn network_list(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "network-list", "", &[], (1, MANY));
    let ids = devices_of(context, &args.operands, "vif")?;
    let is_json = args.has(JSON);
    if !is_json {
        say!(
            "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<5} {:<30}",
            "Idx",
            "BE",
            "Mac Addr.",
            "handle",
            "state",
            "evt-ch",
            "tx-",
            "rx-ring-ref",
            "BE-path"
        );
    }
    let mut all = Vec::new();
    for id in ids {
        let (DomId(number), devid, backend) = (id.d, id.devid, id.backend());
        let mut nodes = Nodes { context, id };
        let mac = nodes.text(&format!("{backend}/mac"))?.unwrap_or_default();
        let (state, mut port) = (nodes.front("state")?, nodes.queue("event-channel")?);
        if port == -1 {
            port = nodes.queue("event-channel-tx")?;
        }
        let (tx, rx) = (nodes.queue("tx-ring-ref")?, nodes.queue("rx-ring-ref")?);
        if is_json {
            let bridge = nodes.text(&format!("{backend}/bridge"))?;
            all.push(object! {
                "devid": devid, "domid": number, "mac": mac, "state": state, "evtchn": port,
                "rref_tx": tx, "rref_rx": rx, "bridge": bridge.unwrap_or_default(),
                "backend": backend,
            });
        } else {
            say!(
                "{devid:<3} {:<2} {mac}{devid:>6} {state:>5} {port:>6} {tx:>5}/{rx:<11} {backend:<30}",
                0
            );
        }
    }
    if is_json {
        say!("{}", Json::List(all));
    }
    Ok(())
}
