//! A figure: what was measured, beside whom, and whether the goal is met.

use std::fmt;

use serde::Serialize;

/// A row of the table and of the JSON.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// The group that measured it.
    pub(crate) group: String,
    /// What was measured, in words.
    pub(crate) name: String,
    /// Our figure; `None` where it could not be measured here, and the detail says why.
    pub(crate) ours: Option<f64>,
    /// The figure of whom we are measured against in the same run; `None` where the goal is a plain figure.
    pub(crate) peer: Option<f64>,
    /// Who that is, with its version.
    pub(crate) peer_name: Option<String>,
    /// Of both figures.
    pub(crate) unit: &'static str,
    /// Ours divided by the peer's.
    pub(crate) ratio: Option<f64>,
    /// What ratio, or what figure where there is no peer, is wanted.
    pub(crate) goal: Option<Goal>,
    /// Whether it is reached; `None` without a goal.
    pub(crate) met: Option<bool>,
    /// Latencies, spread, memory, what each side guarantees.
    pub(crate) detail: String,
}

/// What is wanted of a ratio, or of a figure without a peer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Goal {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Goal {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

impl Row {
    /// A figure of ours alone.
    pub(crate) fn new(group: &str, name: impl Into<String>, ours: f64, unit: &'static str) -> Self {
        Self {
            group: group.into(),
            name: name.into(),
            ours: Some(ours),
            peer: None,
            peer_name: None,
            unit,
            ratio: None,
            goal: None,
            met: None,
            detail: String::new(),
        }
    }

    /// What could not be measured here, and why.
    pub(crate) fn left_out(group: &str, name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { ours: None, ..Self::new(group, name, f64::NAN, "") }.detail(why)
    }

    /// Beside whom it was measured, in the same run.
    pub(crate) fn beside(mut self, name: impl Into<String>, figure: f64) -> Self {
        (self.peer_name, self.peer) = (Some(name.into()), Some(figure));
        self.ratio = self.ours.map(|ours| ours / figure);
        self
    }

    /// What is wanted of the ratio, or of our figure where there is no peer.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self.met = self.ratio.or(self.ours).map(|figure| goal.is_met_by(figure));
        self
    }

    /// What else is to be said.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_held_against_the_ratio_where_there_is_a_peer() {
        let row = Row::new("a", "b", 50.0, "ns").beside("peer", 100.0);
        assert_eq!(row.clone().goal(Goal::AtMost(0.5)).met, Some(true));
        assert_eq!(row.goal(Goal::AtMost(0.4)).met, Some(false));
    }

    #[test]
    fn a_goal_is_held_against_the_figure_where_there_is_none() {
        assert_eq!(Row::new("a", "b", 2.0, "allocations").goal(Goal::AtMost(2.0)).met, Some(true));
        assert_eq!(Row::new("a", "b", 0.9, "of it").goal(Goal::AtLeast(1.0)).met, Some(false));
    }
}
