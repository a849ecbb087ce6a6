//! One file per family of commands.

pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod console;
pub(crate) mod create;
pub(crate) mod debug;
pub(crate) mod device;
pub(crate) mod help;
pub(crate) mod info;
pub(crate) mod life;
pub(crate) mod list;
pub(crate) mod memory;
pub(crate) mod monitor;
pub(crate) mod name;
pub(crate) mod sched;
pub(crate) mod top;
pub(crate) mod traffic;
pub(crate) mod vcpu;

/// Reads options and operands, or says what the command does and ends.
macro_rules! parse {
    ($words:expr, $command:literal, $letters:literal, $long:expr, $operands:expr) => {{
        let spec = crate::args::Spec {
            letters: concat!($letters, "j"),
            long: $long,
            operands: $operands,
        };
        match spec.parse($command, $words)? {
            Some(args) => args,
            None => return crate::commands::help::describe($command),
        }
    }};
}
pub(crate) use parse;
