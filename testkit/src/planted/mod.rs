//! Drivers with one bug each, to prove that the conformance suite can fail.
//!
//! A [`PlantedBroker`] is a [`SimBroker`] behind a reader and a writer that are right but for one [`Bug`]. Each
//! bug was made by some driver somewhere, or is easily made. [`Bug::caught_by`] names the cases that have to
//! turn red; `tests/planted.rs` runs them all, and shows that the wrapper without a bug is green.

mod reader;
mod settler;
mod writer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytestring::ByteString;
use millstream_core::{Connection, Message, TokenId};

use crate::sim::{Shape, SimBroker};

use reader::PlantedReader;
use writer::PlantedWriter;

/// What the parts of one planted driver know of each other: a bug often needs what it should not have.
#[derive(Debug, Default)]
struct Book {
    /// The highest token delivered in each partition.
    highest: HashMap<u32, TokenId>,
    /// Messages delivered and not settled.
    held: HashMap<TokenId, Message>,
}

type SharedBook = Arc<Mutex<Book>>;

fn lock(book: &SharedBook) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A simulated broker behind a driver with a bug.
#[derive(Debug, Clone)]
pub struct PlantedBroker {
    sim: SimBroker,
    bug: Option<Bug>,
    graveyard: reader::Graveyard,
}

impl PlantedBroker {
    /// A driver with this bug, on a broker of the shape that shows it.
    #[must_use]
    pub fn new(bug: Bug) -> Self {
        Self { bug: Some(bug), ..Self::sound(bug.shape()) }
    }

    /// The same driver without a bug.
    #[must_use]
    pub fn sound(shape: Shape) -> Self {
        Self {
            sim: SimBroker::builder().shape(shape).max_message(2 << 20).build(),
            bug: None,
            graveyard: reader::Graveyard::default(),
        }
    }

    /// As a restart of the server: every connection is gone, what is kept durably is not.
    pub fn restart(&self) {
        self.sim.control().kill_all();
    }

    /// Connects.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection::new(
            PlantedReader::new(self.sim.reader(), self.bug, Arc::clone(&self.graveyard)),
            PlantedWriter::new(self.sim.writer(), self.bug),
        )
        .with_admin(self.sim.admin())
    }
}

/// Defines the bugs: each with the shape that shows it and the cases that catch it.
macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $name:ident: $shape:expr => $($case:literal)|+,)+) => {
        /// A bug that a driver can have.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Bug {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Bug {
            /// Every bug.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The shape of broker that shows it.
            #[must_use]
            pub fn shape(self) -> Shape {
                match self {
                    $(Self::$name => $shape,)+
                }
            }

            /// The cases of the conformance suite that must turn red, each on its own.
            #[must_use]
            pub fn caught_by(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => &[$($case),+],)+
                }
            }

            /// Its name.
            #[must_use]
            pub fn name(self) -> ByteString {
                match self {
                    $(Self::$name => ByteString::from_static(stringify!($name)),)+
                }
            }
        }
    };
}

const LOG: Shape = Shape::WholeLog;
const PARTITIONED: Shape = Shape::Partitioned { partitions: 4 };

bugs! {
    /// Acknowledges when it delivers.
    AcksOnDelivery: LOG => "lifecycle::a_member_that_vanishes_mid_batch_loses_nothing"
        | "lifecycle::a_restart_of_the_server_loses_nothing",
    /// Acknowledges what is unsettled when it is dropped.
    AcksOnDrop: LOG => "lifecycle::members_that_come_and_go_lose_nothing",
    /// Says that an acknowledgement is done, and keeps it to itself.
    ForgetsAcks: LOG => "lifecycle::what_was_acknowledged_stays_acknowledged"
        | "groups::a_group_is_told_of_alone_and_one_that_nobody_made_is_not",
    /// Commits everything it delivered when one message is acknowledged.
    CommitsPastAGap: PARTITIONED => "partitions::committing_one_commits_all_before_it_and_none_behind",
    /// Delivers some messages twice.
    DeliversTwice: LOG => "delivery::no_message_comes_twice_without_a_fault",
    /// Takes messages into a local variable, and awaits once more before it hands them over.
    DropsOnCancelledRead: LOG => "cancel::a_read_dropped_at_any_poll_loses_nothing"
        | "cancel::reads_under_a_short_time_limit_lose_nothing",
    /// Says done for the token of a lease that is over.
    StaleTokensAreDone: Shape::standard_queue() => "leases::a_stale_token_is_lost",
    /// Says done for the token of a partition that was let go.
    OldEpochsAreDone: PARTITIONED => "partitions::tokens_of_an_old_assignment_are_lost",
    /// Says that leases are extended, and does nothing.
    ExtendsNothing: Shape::standard_queue() => "leases::an_extended_lease_lasts",
    /// Delivers a batch back to front.
    ReordersAKey: LOG => "order::a_keys_messages_come_in_order_to_many_members"
        | "order::an_exclusive_member_gets_total_order"
        | "settling::what_was_left_unfinished_comes_before_the_younger_that_were_parked",
    /// Gives a key to several members.
    SharesAKey: Shape::standard_queue() => "order::a_key_is_with_one_member_at_a_time",
    /// Retries by publishing anew and acknowledging: behind its successors.
    RetryLosesItsPlace: LOG => "order::a_retried_message_keeps_its_place",
    /// Delivers at once what asked to wait.
    RetryDoesNotWait: LOG => "settling::a_retry_waits_as_long_as_asked",
    /// Applies the first verdict of a batch to all of it.
    OneVerdictForAll: LOG => "settling::only_what_is_given_back_comes_again",
    /// Always says that it is the first delivery.
    CountsNothing: LOG => "settling::deliveries_are_counted",
    /// Parks by retrying: the note is gone.
    ParksWithoutNote: LOG => "settling::a_parked_message_outlives_its_member",
    /// Goes on counting deliveries through a park.
    CountsThroughParks: LOG => "settling::deliveries_are_counted_anew_from_each_park",
    /// Parks by publishing anew with a delay: its key is not held.
    ParksByRepublishing: LOG => "settling::a_parked_key_comes_in_order_when_its_head_is_due",
    /// Acknowledges a dead letter without storing it.
    DropsDeadLetters: LOG => "settling::a_dead_letter_is_stored_and_its_source_acknowledged",
    /// Writes what is emitted, also if the verdict is refused.
    EmitsAnyway: LOG => "settling::emitted_messages_commit_with_the_verdict",
    /// Settles the first of a batch and forgets the others.
    ForgetsTheOthers: LOG => "settling::a_batch_ends_as_one_or_not_at_all",
    /// Each member reads everything.
    DeliversToEachMember: LOG => "groups::no_message_is_with_two_members_at_once"
        | "delivery::many_writers_and_members_share_all_messages",
    /// Lets others read beside an exclusive member.
    IgnoresExclusivity: LOG => "lifecycle::an_exclusive_member_has_company_only_after_it_left",
    /// Starts each new group at the end.
    NewGroupsSkipOldMessages: LOG => "groups::a_new_group_at_earliest_gets_what_was_there_before",
    /// Starts at the end, also a group that has progress.
    StartBeatsProgress: LOG => "groups::progress_counts_more_than_the_start",
    /// Never comes to the end that was asked for.
    NeverEnds: LOG => "groups::a_group_reads_to_the_end_that_it_asked_for"
        | "groups::browsing_to_the_end_leaves_no_trace",
    /// Counts what browsers read against their bounds until they settle it.
    BrowsersHaveToSettle: LOG => "groups::who_browses_need_not_settle",
    /// Brings as much as there is, whatever was asked for.
    IgnoresLimits: LOG => "delivery::a_read_keeps_to_its_limits",
    /// Brings messages when none were asked for.
    DeliversWhileDraining: LOG => "delivery::nothing_is_delivered_while_draining",
    /// Fails for good at a message without an id.
    StopsAtForeignMessages: LOG => "delivery::a_message_without_id_or_type_is_delivered",
    /// Fetches ahead, and keeps what it fetched when it is closed.
    LeaksWhatItFetched: Shape::standard_queue() =>
        "lifecycle::closing_gives_back_what_was_fetched_and_not_yielded",
    /// Takes arguments it does not know.
    TakesAnyArgument: LOG => "lifecycle::an_unknown_argument_is_refused",
    /// Gives partitions away without waiting for the answer.
    DoesNotWaitForTheAnswer: PARTITIONED => "partitions::a_partition_is_handed_over_without_loss_or_duplicate",
    /// Goes on reading what is paused.
    IgnoresPause: PARTITIONED => "partitions::a_paused_partition_yields_nothing_and_loses_nothing",
    /// Keeps no marks, though it says so.
    ForgetsMarks: PARTITIONED => "partitions::a_mark_comes_back_with_the_assignment",
    /// Tells of no assignment.
    TellsNoAssignment: PARTITIONED => "partitions::an_assignment_comes_before_its_messages",
    /// Loses the last message of a batch.
    LosesTheTailOfABatch: LOG => "delivery::one_batch_arrives_whole",
    /// Writes a whole batch to the topic of its first message.
    MixesTopics: LOG => "delivery::topics_are_apart",
    /// Says that failed entries were written.
    FailedIsWritten: LOG => "writing::a_report_speaks_of_each_message",
    /// Delivers delayed messages at once.
    DeliversEarly: LOG => "writing::a_delayed_message_is_not_early_and_not_lost",
    /// Throws away what is buffered when it is closed, having promised it.
    CloseLosesTheBuffer: LOG => "writing::closing_waits_for_what_was_handed_over",
    /// Takes writes after it was closed.
    WritesAfterClose: LOG => "writing::a_closed_writer_refuses_and_closes_again",
    /// Turns absent payloads into empty ones.
    NullBecomesEmpty: LOG => "delivery::hostile_bytes_survive",
    /// Turns header names to lower case.
    LowersHeaderNames: LOG => "delivery::hostile_bytes_survive",
    /// Cuts white space off header values.
    TrimsHeaderValues: LOG => "delivery::hostile_bytes_survive",
    /// Keeps 64 KiB of a payload.
    TruncatesPayloads: LOG => "delivery::hostile_bytes_survive",
    /// Keeps one of several headers of a name.
    MergesHeaders: LOG => "delivery::hostile_bytes_survive",
    /// Keeps keys that are text.
    KeysAreText: LOG => "delivery::hostile_bytes_survive",
    /// Looks for messages every five seconds.
    PollsRarely: LOG => "delivery::an_idle_member_gets_a_message_soon",
    /// Starts at the oldest message, also if asked for what comes.
    LatestIsEarliest: LOG => "groups::a_new_group_at_latest_gets_only_what_comes",
    /// Starts behind the position that was asked for.
    PositionIsOffByOne: LOG => "groups::browsing_from_a_position_starts_there",
    /// Lets all groups share one progress.
    GroupsAreOne: LOG => "groups::each_group_gets_every_message",
    /// Takes the success of a batch for that of its last entry.
    TheLastOfABatchIsNotSettled: Shape::standard_queue() =>
        "leases::a_lease_that_ends_brings_back_only_its_message",
    /// Waits in closing until everything is settled.
    CloseWaitsForSettlements: LOG => "lifecycle::closing_is_quick_whatever_is_unread_or_unsettled",
    /// Stays in the group when it is closed.
    NeverLeaves: PARTITIONED => "lifecycle::many_that_open_and_close_at_once_lose_nothing",
    /// Reads nothing while anything is unsettled.
    ReadsWaitForSettlements: LOG => "order::an_unsettled_key_holds_up_no_other",
    /// Gives back by publishing anew.
    GivesBackAtTheEnd: LOG => "order::what_comes_back_comes_before_its_successors",
    /// Joins the group where partitions were named.
    ManualIsIgnored: PARTITIONED => "partitions::partitions_of_ones_own_choice_are_read_and_committed",
    /// Gives each message the position 0.
    PositionsStandStill: PARTITIONED => "partitions::positions_grow_in_a_partition",
    /// Gives back what is released after an hour.
    ReleaseWaits: LOG => "settling::released_messages_come_again_at_once",
    /// Takes a refusal for success.
    RefusalsAreDone: LOG => "settling::what_was_acknowledged_cannot_be_given_back",
    /// Stays locked if a write is dropped half-way.
    ADroppedWriteLocksTheWriter: LOG => "writing::a_dropped_write_harms_no_later_one",
    /// Fails a whole batch for one bad message.
    OneBadMessageFailsAll: LOG => "writing::a_message_without_a_topic_fails_alone",
}
