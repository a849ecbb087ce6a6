//! Event channels: ports, bindings, and the 2-level and FIFO formats.
//!
//! One [`EvtchnTable`] per domain holds what the hypervisor knows about its
//! ports; pending and mask bits live in guest memory, which the guest may
//! scribble over at any time.  Nothing read from there is trusted: words are
//! tested for single bits, the links of the FIFO queues are only ever
//! written, and every loop has a fixed bound.  A guest that breaks the
//! protocol loses its own events and nobody else's.
//!
//! This room knows neither hypercalls nor the scheduler.  Operations return a
//! [`Raise`]: the vCPU that must take an upcall and whether pollers woke up;
//! the caller kicks after all locks here are released.
//!
//! # Locks
//!
//! Each table has one lock of rank `Evtchn`.  Two are held together only to
//! bind or close an interdomain channel, through `Lock::pair`.  Sending never
//! holds two: the local table yields a [`Link`], then the far table takes its
//! own lock and accepts the link only if its port points back.  A channel that
//! was closed in between therefore drops the event, as if it had been sent
//! after the close.  Under a table's lock nothing but the heap is locked and
//! no callback runs.
//!
//! # Sources
//!
//! `public/event_channel.h` and the observable behaviour of Xen 4.20; Linux's
//! `drivers/xen/events/events_{2l,fifo}.c` for what guests do with the words.

mod bind;
mod fifo;
mod interdomain;
mod layout;
mod pair;
mod poll;
mod port;
mod reset;
mod table;
#[cfg(test)]
mod tests;
mod two_level;
mod upcall;
mod virq;

pub use bind::{PortInfo, PortStatus};
pub use fifo::Frames as FifoFrames;
pub use interdomain::{Closed, Delivery, Link, Peers, Sent};
pub use layout::{InfoWidth, LINK_BITS, MAX_2L_PORTS, MAX_FIFO_PORTS, MAX_PRIORITY};
pub use poll::{MAX_POLL_PORTS, Wakeup};
pub use port::XenConsumer;
pub use reset::Progress;
pub use table::{EvtchnTable, Raise};
pub use virq::{GlobalVirqs, NR_VIRQS, VirqClass, virq_class};
