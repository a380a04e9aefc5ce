//! What a subscription holds: messages that were fetched and not yet handed over, and the receipts of all that are ours.
//!
//! A receipt is ours as long as our own clock says so: from the last extension that SQS confirmed, whatever it answers
//! later. Of a group of a FIFO queue one message is handed over at a time. What was fetched behind it waits, and goes back
//! if that one does, so that all of them come again in their order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_core::{Delivery, Epoch, Error, Message, PartitionId, ReadLimits, Token, TokenId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::sqs::settings::{BATCH, LONGEST_IN_FLIGHT};

/// Of how many messages it is remembered that they were given back unread.
const REMEMBERED: usize = 10_000;

/// Messages of the shelf at most, however many are wanted: what waits here is withheld from other members.
const PREFETCH: usize = 200;

/// A message that is ours.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) token: u64,
    /// The handle to settle it with.
    pub(crate) receipt: String,
    /// Ours until then.
    pub(crate) until: Instant,
    /// No extension goes further.
    pub(crate) last: Instant,
    /// When it was last extended.
    pub(crate) since: Instant,
    /// Of a FIFO queue.
    pub(crate) group: Option<String>,
    /// The id that SQS gave it.
    pub(crate) id: String,
    size: usize,
    handed_over: bool,
}

/// What a poll brought.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) message: Message,
    pub(crate) receipt: String,
    pub(crate) id: String,
    pub(crate) group: Option<String>,
    /// How often SQS gave it out, this time included.
    pub(crate) count: u32,
}

#[derive(Debug)]
struct Waiting {
    token: u64,
    message: Arc<Message>,
    count: u32,
}

/// What a subscription holds.
#[derive(Debug)]
pub(crate) struct Shelf {
    state: Mutex<State>,
    /// Told when there is something to hand over.
    pub(crate) arrived: Notify,
    /// Told when something is wanted of the pump.
    pub(crate) changed: Notify,
    /// Told when no more is wanted.
    pub(crate) closed: Notify,
    /// Told when extensions have ended.
    stilled: Notify,
    pub(crate) lease: Duration,
    max_messages: usize,
    max_bytes: usize,
    max_message: usize,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    held: HashMap<u64, Held>,
    waiting: VecDeque<Waiting>,
    /// Whether there ever was one of a group.
    grouped: bool,
    /// Groups of which a message is handed over.
    busy: HashSet<String>,
    /// Those whose leases are being extended.
    extending: HashSet<u64>,
    /// Of all that is held.
    bytes: usize,
    /// Messages that polls were told they may bring.
    asked: usize,
    /// How many the reader wants.
    demand: usize,
    closing: bool,
    error: Option<Error>,
    given_back: GivenBack,
}

/// How often messages were given back unread: these are no deliveries.
#[derive(Debug, Default)]
struct GivenBack {
    times: HashMap<String, u32>,
    order: VecDeque<String>,
}

impl GivenBack {
    fn add(&mut self, id: &str) {
        if let Some(times) = self.times.get_mut(id) {
            *times += 1;
            return;
        }
        self.times.insert(id.to_owned(), 1);
        self.order.push_back(id.to_owned());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.times.remove(&oldest);
        }
    }

    fn of(&self, id: &str) -> u32 {
        self.times.get(id).copied().unwrap_or(0)
    }
}

impl Shelf {
    pub(crate) fn new(lease: Duration, max_messages: usize, max_bytes: usize, max_message: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            changed: Notify::new(),
            closed: Notify::new(),
            stilled: Notify::new(),
            lease,
            max_messages: max_messages.max(1),
            max_bytes,
            max_message,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how many messages another poll is wanted, if it is: their room is set aside.
    pub(crate) fn want(&self) -> Option<usize> {
        let mut state = self.lock();
        if state.closing {
            return None;
        }
        let wanted = state.demand.min(PREFETCH).saturating_sub(state.ready() + state.asked);
        let room = self.max_messages.saturating_sub(state.held.len() + state.asked);
        let free = self.max_bytes.saturating_sub(state.bytes + state.asked * self.max_message);
        // One message always fits.
        let fits = match state.held.is_empty() && state.asked == 0 {
            true => (free / self.max_message).max(1),
            false => free / self.max_message,
        };
        let count = wanted.min(room).min(fits).min(BATCH);
        state.asked += count;
        (count > 0).then_some(count)
    }

    /// Takes what a poll brought that was told to bring so many. Whoever waits is told by `arrived`, when all is here that
    /// came together.
    pub(crate) fn arrive(&self, asked: usize, fetched: Vec<Fetched>, at: Instant) {
        let mut state = self.lock();
        state.asked = state.asked.saturating_sub(asked);
        for Fetched { message, receipt, id, group, count } in fetched {
            let token = state.next;
            state.next += 1;
            let size = message.size();
            state.bytes += size;
            state.grouped |= group.is_some();
            let count = count.saturating_sub(state.given_back.of(&id)).max(1);
            // The time starts when the answer leaves SQS, which is a little before it is here.
            let until = at + self.lease - (self.lease / 10).min(Duration::from_secs(1));
            let last = at + LONGEST_IN_FLIGHT - Duration::from_secs(60);
            let held = Held { token, receipt, until, last, since: at, group, id, size, handed_over: false };
            state.held.insert(token, held);
            state.waiting.push_back(Waiting { token, message: Arc::new(message), count });
        }
    }

    /// Something that the reader is to be told.
    pub(crate) fn fail(&self, error: Error) {
        self.lock().error = Some(error);
        self.arrived.notify_one();
    }

    pub(crate) fn error(&self) -> Option<Error> {
        self.lock().error.take()
    }

    /// Hands over what fits.
    pub(crate) fn take(&self, into: &mut Vec<Delivery>, limits: ReadLimits) -> usize {
        let now = Instant::now();
        let mut state = self.lock();
        let state = &mut *state;
        if state.demand != limits.messages {
            state.demand = limits.messages;
            self.changed.notify_one();
        }
        let (mut count, mut bytes) = (0, 0);
        let mut index = 0;
        let mut late: HashSet<String> = HashSet::new();
        while count < limits.messages && index < state.waiting.len() {
            let token = state.waiting[index].token;
            let Some(held) = state.held.get_mut(&token) else {
                state.waiting.remove(index);
                continue;
            };
            let over = held.until <= now;
            let blocked = held.group.as_ref().is_some_and(|g| state.busy.contains(g) || late.contains(g));
            if over || blocked {
                // It comes again, and what is behind it in its group may not come before it: the pump sees to both.
                late.extend(held.group.clone().filter(|_| over));
                index += 1;
                continue;
            }
            if count > 0 && bytes + held.size > limits.bytes {
                break;
            }
            (count, bytes) = (count + 1, bytes + held.size);
            held.handed_over = true;
            state.busy.extend(held.group.clone());
            if let Some(Waiting { token, message, count }) = state.waiting.remove(index) {
                let token = Token::new(PartitionId(0), Epoch(0), token);
                into.push(Delivery::new(message, token).delivered(count));
            }
        }
        if count > 0 {
            self.changed.notify_one();
        }
        count
    }

    /// Takes messages out to be settled; none for each that is not ours any more.
    pub(crate) fn end(&self, tokens: impl Iterator<Item = TokenId>) -> Vec<Option<Held>> {
        let now = Instant::now();
        let mut state = self.lock();
        let ended = tokens.map(|token| {
            // One whose time is up is left to the pump, which sees to those behind it.
            state.held.get(&token.id).filter(|held| held.until > now && held.handed_over)?;
            state.drop_held(token.id)
        });
        let ended = ended.collect();
        drop(state);
        self.changed.notify_one();
        ended
    }

    /// Puts one back whose settlement failed without anything having happened.
    pub(crate) fn keep(&self, held: Held) {
        let mut state = self.lock();
        state.bytes += held.size;
        state.held.insert(held.token, held);
    }

    /// Those of a group that wait behind one that goes back: they go back as well, the last first.
    pub(crate) fn behind(&self, group: &str) -> Vec<Held> {
        let mut state = self.lock();
        let state = &mut *state;
        let mut behind = Vec::new();
        let held = &state.held;
        let of_group = |w: &Waiting| held.get(&w.token).is_some_and(|h| h.group.as_deref() == Some(group));
        let tokens: Vec<_> = state.waiting.iter().filter(|w| of_group(w)).map(|w| w.token).collect();
        state.waiting.retain(|w| !tokens.contains(&w.token));
        for token in tokens.into_iter().rev() {
            behind.extend(state.drop_held(token));
        }
        behind
    }

    /// The next one of a group may be handed over.
    pub(crate) fn free(&self, group: &str) {
        self.lock().busy.remove(group);
        self.arrived.notify_one();
    }

    /// Notes that a message goes back unread, which is no delivery.
    pub(crate) fn gave_back(&self, id: &str) {
        self.lock().given_back.add(id);
    }

    /// Those whose time is up: they are forgotten. Gives what waited behind them, to be given back.
    pub(crate) fn expire(&self) -> Vec<Held> {
        let now = Instant::now();
        let mut state = self.lock();
        let over: Vec<_> = state.held.values().filter(|h| h.until <= now).map(|h| h.token).collect();
        let mut groups = Vec::new();
        for token in over {
            state.waiting.retain(|w| w.token != token);
            groups.extend(state.drop_held(token).and_then(|h| Some((h.group?, h.handed_over))));
        }
        drop(state);
        let mut behind = Vec::new();
        for (group, handed_over) in groups {
            behind.extend(self.behind(&group));
            if handed_over {
                self.free(&group);
            }
        }
        behind
    }

    /// Those that wait here so long that their leases have to be extended: whoever gets one has most of it.
    pub(crate) fn aging(&self) -> Vec<Held> {
        let now = Instant::now();
        let state = self.lock();
        let aged = |h: &&Held| h.since + self.lease / 8 <= now && h.last > now;
        state.waiting.iter().filter_map(|w| state.held.get(&w.token)).filter(aged).cloned().collect()
    }

    /// One that is held, if it may be extended.
    pub(crate) fn extendable(&self, token: TokenId) -> Option<Held> {
        let now = Instant::now();
        self.lock().held.get(&token.id).filter(|h| h.until > now && h.last > now).cloned()
    }

    /// SQS confirmed an extension that was asked for then; says whether it is still ours.
    pub(crate) fn extended(&self, token: u64, asked: Instant) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(held) = state.held.get_mut(&token).filter(|held| held.until > now) else { return false };
        held.since = asked;
        held.until = (asked + self.lease).min(held.last);
        true
    }

    /// Keeps those that are still held, and marks them as being extended until what is given is dropped.
    pub(crate) fn extending(&self, held: &mut Vec<Held>) -> Extending<'_> {
        let mut state = self.lock();
        held.retain(|held| state.held.contains_key(&held.token));
        let tokens: Vec<_> = held.iter().map(|held| held.token).collect();
        state.extending.extend(&tokens);
        Extending { shelf: self, tokens }
    }

    /// Waits until none of these is being extended: that would overrule how long it is to be hidden.
    pub(crate) async fn still(&self, tokens: &[u64]) {
        loop {
            let stilled = self.stilled.notified();
            tokio::pin!(stilled);
            stilled.as_mut().enable();
            if !tokens.iter().any(|token| self.lock().extending.contains(token)) {
                return;
            }
            stilled.await;
        }
    }

    /// No more is wanted.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        drop(state);
        self.changed.notify_one();
        self.closed.notify_one();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    /// Takes all that was not handed over, the last first.
    pub(crate) fn clear(&self) -> Vec<Held> {
        let mut state = self.lock();
        let tokens: Vec<_> = state.waiting.drain(..).map(|w| w.token).collect();
        tokens.into_iter().rev().filter_map(|token| state.drop_held(token)).collect()
    }
}

/// Extensions that are on their way.
pub(crate) struct Extending<'a> {
    shelf: &'a Shelf,
    tokens: Vec<u64>,
}

impl Drop for Extending<'_> {
    fn drop(&mut self) {
        let mut state = self.shelf.lock();
        for token in &self.tokens {
            state.extending.remove(token);
        }
        drop(state);
        self.shelf.stilled.notify_waiters();
    }
}

impl State {
    /// How many could be handed over now: of a group that is, or was counted already, none more.
    fn ready(&self) -> usize {
        if !self.grouped {
            return self.waiting.len();
        }
        let mut seen = HashSet::new();
        let groups = self.waiting.iter().filter_map(|w| self.held.get(&w.token)).map(|held| &held.group);
        groups
            .filter(|group| match group {
                Some(group) => !self.busy.contains(group) && seen.insert(group),
                None => true,
            })
            .count()
    }

    fn drop_held(&mut self, token: u64) -> Option<Held> {
        let held = self.held.remove(&token)?;
        self.bytes = self.bytes.saturating_sub(held.size);
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> Shelf {
        Shelf::new(Duration::from_secs(30), 100, 1 << 20, 1 << 10)
    }

    fn end(shelf: &Shelf, token: TokenId) -> Option<Held> {
        shelf.end(std::iter::once(token)).pop().flatten()
    }

    fn fetched(id: &str, group: Option<&str>) -> Fetched {
        Fetched {
            message: Message::new("t", "x").with_id(id.to_owned()),
            receipt: format!("receipt of {id}"),
            id: id.to_owned(),
            group: group.map(ToOwned::to_owned),
            count: 1,
        }
    }

    fn take(shelf: &Shelf, messages: usize) -> Vec<Delivery> {
        let mut into = Vec::new();
        shelf.take(&mut into, ReadLimits::new(messages, 1 << 20));
        into
    }

    fn ids(deliveries: &[Delivery]) -> Vec<&str> {
        deliveries.iter().map(|d| &*d.message.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_group_one_is_handed_over_at_a_time_and_the_others_go_back_with_it() {
        let shelf = shelf();
        let all = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")];
        shelf.arrive(4, all.into_iter().map(|(id, g)| fetched(id, Some(g))).collect(), Instant::now());
        let first = take(&shelf, 10);
        assert_eq!(ids(&first), ["a1", "b1"]);
        assert!(end(&shelf, first[1].token.id()).is_some());
        shelf.free("b");
        assert!(take(&shelf, 10).is_empty());
        let behind: Vec<_> = shelf.behind("a").into_iter().map(|held| held.id).collect();
        assert_eq!(behind, ["a3", "a2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn past_its_lease_nothing_is_ours_unless_it_was_extended() {
        let shelf = shelf();
        shelf.arrive(3, ["1", "2", "3"].map(|id| fetched(id, None)).into(), Instant::now());
        let held = take(&shelf, 2);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(shelf.extended(held[1].token.id().id, Instant::now()));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(end(&shelf, held[0].token.id()).is_none());
        assert!(end(&shelf, held[1].token.id()).is_some());
        assert!(take(&shelf, 1).is_empty(), "the third waited too long");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_asked_for_than_is_wanted_and_fits() {
        let shelf = Shelf::new(Duration::from_secs(30), 12, 1 << 20, 1 << 10);
        assert_eq!(shelf.want(), None, "nobody has read yet");
        take(&shelf, 100);
        assert_eq!(shelf.want(), Some(10));
        assert_eq!(shelf.want(), Some(2));
        assert_eq!(shelf.want(), None);
        let narrow = Shelf::new(Duration::from_secs(30), 12, 10, 1 << 10);
        take(&narrow, 100);
        assert_eq!(narrow.want(), Some(1), "one always fits");
        assert_eq!(narrow.want(), None);
        narrow.close();
        assert_eq!(narrow.want(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_behind_its_group_is_not_what_is_wanted() {
        let shelf = shelf();
        take(&shelf, 3);
        assert_eq!(shelf.want(), Some(3));
        let all = [("a1", "a"), ("a2", "a"), ("a3", "a")];
        shelf.arrive(3, all.into_iter().map(|(id, g)| fetched(id, Some(g))).collect(), Instant::now());
        assert_eq!(ids(&take(&shelf, 3)), ["a1"]);
        assert!(take(&shelf, 2).is_empty());
        assert_eq!(shelf.want(), Some(2), "two of other groups");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_goes_on_after_one_of_it_was_late() {
        let shelf = shelf();
        let all = [("a1", "a"), ("a2", "a")];
        shelf.arrive(2, all.into_iter().map(|(id, g)| fetched(id, Some(g))).collect(), Instant::now());
        let late = take(&shelf, 2);
        tokio::time::advance(Duration::from_secs(20)).await;
        for held in shelf.aging() {
            assert!(shelf.extended(held.token, Instant::now()));
        }
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(end(&shelf, late[0].token.id()).is_none());
        assert!(take(&shelf, 2).is_empty(), "the second may not come before the first");
        assert_eq!(shelf.expire().len(), 1);
        shelf.arrive(1, vec![fetched("a1", Some("a"))], Instant::now());
        assert_eq!(ids(&take(&shelf, 2)), ["a1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_to_be_hidden_waits_for_its_extension_and_is_not_extended_after() {
        let shelf = shelf();
        shelf.arrive(1, vec![fetched("1", None)], Instant::now());
        let delivery = take(&shelf, 1).remove(0);
        let token = delivery.token.id();
        let mut held: Vec<_> = shelf.extendable(token).into_iter().collect();
        let extending = shelf.extending(&mut held);
        assert!(end(&shelf, token).is_some());
        let tokens = [token.id];
        let waiting = tokio::time::timeout(Duration::from_secs(1), shelf.still(&tokens));
        assert!(waiting.await.is_err());
        drop(extending);
        shelf.still(&tokens).await;
        drop(shelf.extending(&mut held));
        assert!(held.is_empty(), "it is settled");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_back_unread_was_not_delivered() {
        let shelf = shelf();
        shelf.gave_back("1");
        let again = Fetched { count: 2, ..fetched("1", None) };
        shelf.arrive(1, vec![again], Instant::now());
        assert_eq!(take(&shelf, 1)[0].deliveries, 1);
    }
}
