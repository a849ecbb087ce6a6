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

/// Heads a table with a column for what `whose` is.
pub(crate) fn head_beside(whose: &str) {
    println!(
        "{:<36}{:>16}{whose:>14}{:>16}{:>14}",
        "", "Radon", "Xen 4.20", "goal"
    );
}

/// A figure beside one of another place, where there are such.
pub(crate) fn row_beside(
    name: &str,
    value: f64,
    own: Option<f64>,
    reference: Option<f64>,
    goal: Option<Goal>,
) {
    let text = |value: Option<f64>| value.map_or("-".to_owned(), number);
    let most = goal.map(|goal| goal.most(reference.unwrap_or(0.0)));
    println!(
        "{name:<36}{:>16}{:>14}{:>16}{:>14}  {}",
        number(value),
        text(own),
        text(reference),
        text(most),
        goal.map_or("", |goal| goal.verdict(value, reference.unwrap_or(0.0)))
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
