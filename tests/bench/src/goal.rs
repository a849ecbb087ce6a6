//! Figures beside the reference and the goal.

/// What a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// So many times less than the reference.
    Share(f64),
    /// Not more than this.
    Most(f64),
}

impl Goal {
    /// The most that is allowed.
    pub(crate) fn most(self, reference: f64) -> f64 {
        match self {
            Self::Share(share) => reference / share,
            Self::Most(most) => most,
        }
    }

    /// `met` or `not met`.
    pub(crate) fn verdict(self, value: f64, reference: f64) -> &'static str {
        if value <= self.most(reference) {
            "met"
        } else {
            "NOT MET"
        }
    }
}

fn number(value: f64) -> String {
    if value < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

/// Heads a table of one backend.
pub(crate) fn head(title: &str) {
    println!("{title:<34}{:>14}{:>14}{:>14}", "Radon", "Xen 4.20", "goal");
}

/// A figure with a goal.
pub(crate) fn row(name: &str, value: f64, reference: f64, goal: Goal) {
    println!(
        "{name:<34}{:>14}{:>14}{:>14}  {}",
        number(value),
        number(reference),
        number(goal.most(reference)),
        goal.verdict(value, reference)
    );
}

/// A figure without one.
pub(crate) fn plain(name: &str, value: f64) {
    println!("{name:<34}{:>14}", number(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged() {
        assert_eq!(Goal::Share(10.0).verdict(537.0, 5377.0), "met");
        assert_eq!(Goal::Share(10.0).verdict(538.0, 5377.0), "NOT MET");
        assert_eq!(Goal::Most(1.2).verdict(1.2, 1.48), "met");
        assert_eq!(Goal::Most(1.2).verdict(1.21, 1.48), "NOT MET");
    }
}
