//! Checks and their results: one line each, and a closing line.

use std::fmt::Display;
use std::time::Instant;

use anyhow::Result;

/// Counts results and prints them as they come.
#[derive(Debug, Default)]
pub struct Report {
    passed: u32,
    failed: Vec<String>,
    skipped: u32,
}

impl Report {
    /// Nothing checked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs one check and records it; returns whether it passed. A passing
    /// check may say something worth a place on its line.
    pub fn check<T: Display>(&mut self, name: &str, run: impl FnOnce() -> Result<T>) -> bool {
        let start = Instant::now();
        let result = run();
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(remark) => {
                self.passed += 1;
                let remark = remark.to_string();
                let space = if remark.is_empty() { "" } else { "  " };
                println!("ok    {name} ({seconds:.1} s){space}{remark}");
                true
            }
            Err(error) => {
                self.fail(name, &format!("{error:#}"));
                false
            }
        }
    }

    /// Records a failure.
    pub fn fail(&mut self, name: &str, why: &str) {
        println!("FAIL  {name}: {why}");
        self.failed.push(name.to_owned());
    }

    /// Records a check that could not be made, and why.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.skipped += 1;
        println!("skip  {name}: {why}");
    }

    /// Number of failures so far.
    pub fn failures(&self) -> usize {
        self.failed.len()
    }

    /// Prints the closing line; true when nothing failed and something passed.
    pub fn close(&self) -> bool {
        if !self.failed.is_empty() {
            println!("failed: {}", self.failed.join(", "));
        }
        println!("{}", self.summary());
        self.failed.is_empty() && self.passed > 0
    }

    fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn results_are_counted_and_a_failure_fails_the_whole() {
        let mut report = Report::new();
        assert!(report.check("a", || Ok("fine")));
        report.skip("b", "no such machine");
        assert!(report.close());
        assert!(!report.check("c", || -> Result<&str> { bail!("broken") }));
        assert!(!report.close());
        assert_eq!(report.summary(), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn nothing_checked_is_not_success() {
        assert!(!Report::new().close());
    }
}
