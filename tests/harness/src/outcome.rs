//! Checks and their results: one line each, and a closing line.

use std::fmt::Display;
use std::time::Instant;

use anyhow::Result;

use crate::death;

/// Counts results and prints them as they come.
#[derive(Debug, Default)]
pub struct Report {
    passed: u32,
    failed: Vec<String>,
    skipped: u32,
    emulators_fault: Option<&'static str>,
}

/// How far a [`Report`] was.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    passed: u32,
    failed: usize,
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
        self.emulators_fault = self.emulators_fault.or_else(|| death::emulators_fault(why));
        self.failed.push(name.to_owned());
    }

    /// Records a check that could not be made, and why.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.skipped += 1;
        println!("skip  {name}: {why}");
    }

    /// Where the report is now; what was the emulator's fault before is forgotten.
    pub fn mark(&mut self) -> Mark {
        self.emulators_fault = None;
        Mark {
            passed: self.passed,
            failed: self.failed.len(),
            skipped: self.skipped,
        }
    }

    /// What a failure since the last mark blames the emulator for, if it does.
    pub fn emulators_fault(&self) -> Option<&'static str> {
        self.emulators_fault
    }

    /// Forgets what was recorded since `mark`, to try again.
    pub fn back_to(&mut self, mark: Mark) {
        self.passed = mark.passed;
        self.failed.truncate(mark.failed);
        self.skipped = mark.skipped;
        self.emulators_fault = None;
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
    fn what_was_the_emulators_fault_can_be_tried_again() {
        let mut report = Report::new();
        assert!(report.check("a", || Ok("fine")));
        let mark = report.mark();
        report.fail("b", "broken");
        assert_eq!(report.emulators_fault(), None);
        report.fail(
            "c",
            "d1v0 crashed: page tables in a hole (1)\nrip ffff82d0402002a1 rflags 2",
        );
        assert!(report.emulators_fault().is_some());
        report.back_to(mark);
        assert_eq!(report.summary(), "1 passed, 0 failed, 0 skipped");
        assert_eq!(report.emulators_fault(), None);
    }

    #[test]
    fn nothing_checked_is_not_success() {
        assert!(!Report::new().close());
    }
}
