//! Standard output that does not panic when its reader is gone.

/// Prints a line; ends the program when nobody reads any more.
macro_rules! say {
    ($($args:tt)*) => {{
        use std::io::Write as _;
        if writeln!(std::io::stdout(), $($args)*).is_err() {
            std::process::exit(1);
        }
    }};
}
pub(crate) use say;
