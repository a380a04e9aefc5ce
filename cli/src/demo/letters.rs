//! Reads the dead letters back from where the toolkit put them, and enters them into the ledger.

use millstream::{DeadLetters, Result};

use super::ledger::{DeadLetter, Ledger};
use super::publish;

/// Letters asked for at once.
const PAGE: usize = 1_000;

/// Enters all dead letters.
pub(crate) async fn read_back(letters: &DeadLetters, ledger: &Ledger) -> Result<()> {
    let mut after = None;
    loop {
        let page = letters.list(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        for letter in &page {
            ledger.dead_letter(DeadLetter {
                order: publish::order_of(&letter.message.id),
                group: letter.group.as_deref(),
                class: letter.class.as_deref(),
                error: letter.error.as_deref(),
            });
        }
    }
}
