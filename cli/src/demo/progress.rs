//! Live progress on stderr, if that is a terminal.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::ledger::Group;

/// A bar for what was published and one for each group.
#[derive(Debug)]
pub(crate) struct Progress {
    bars: MultiProgress,
    published: ProgressBar,
    groups: [ProgressBar; 3],
}

impl Progress {
    /// Bars that end at so many messages. Nothing is drawn where stderr is no terminal.
    pub(crate) fn new(messages: u64) -> Self {
        let bars = MultiProgress::new();
        let bar = |name: &'static str| {
            let style = ProgressStyle::with_template(
                "{prefix:>10} {wide_bar:.cyan/blue} {human_pos:>11}/{human_len} {msg}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(messages).with_style(style).with_prefix(name);
            bars.add(bar)
        };
        let published = bar("published");
        let groups = Group::ALL.map(|group| bar(group.name()));
        Self { bars, published, groups }
    }

    pub(crate) fn published(&self, messages: u64) {
        self.published.set_position(messages);
    }

    /// Messages of a group that came to an end, and some of them as dead letters.
    pub(crate) fn ended(&self, group: Group, messages: u64, dead: u64) {
        let bar = &self.groups[group as usize];
        bar.set_position(messages);
        if dead > 0 {
            bar.set_message(format!("{dead} dead"));
        }
    }

    /// Takes the bars off the screen: the report follows.
    pub(crate) fn clear(&self) {
        // A terminal that went away is no reason to fail.
        let _ = self.bars.clear();
    }
}
