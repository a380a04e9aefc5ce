//! `millstream demo`: the main job. An order pipeline whose every message is followed by an independent ledger.
//!
//! From the bottom up: `plan` says what is to happen to each order, `ledger` (with `latency`) keeps the books,
//! `shop` has the events and the handlers, `publish` sends the orders, `letters` reads the dead letters back,
//! `progress` shows how far it is, `report` closes it, `place` is where all that lies. Here they are put together.

mod latency;
mod ledger;
mod letters;
mod place;
mod plan;
mod progress;
mod publish;
mod report;
mod shop;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use millstream::core::Endpoint;
use millstream::{
    Bus, Control, EmbeddedDedupStore, Error, ErrorKind, Result, Retry, Subscribe, SubscriptionReport, Units,
};

use self::ledger::{Group, Ledger};
use self::place::Place;
use self::plan::Plan;
use self::progress::Progress;
use self::report::{Report, Run};
use self::shop::Shop;
use crate::failed::{Ended, Form};
use crate::signals::Stop;
use crate::{failed, output};

/// Runs an order pipeline and says where each message went
///
/// Orders are published to three subscriptions: billing is flaky and sends invoices, stock must not be taken twice
/// though 1 in 50 orders is sent twice, mail meets poison (1 in 500). An independent ledger then counts what was
/// lost.
#[derive(Debug, Args)]
#[command(after_long_help = crate::EXIT_CODES)]
pub(crate) struct Options {
    /// Orders to publish
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    events: u32,
    /// The broker; default: a fresh file in a temporary folder, which is removed at the end
    #[arg(long)]
    url: Option<String>,
    /// Leaves that file where it is, and says how to look into it
    #[arg(long, conflicts_with = "url")]
    keep: bool,
    /// Two runs of one seed publish, fail and end the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How long nothing may come to an end before the run is given up.
const STALLED: Duration = Duration::from_secs(60);
/// How often the counts are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// The ledger's own subscription.
const INVOICES_GROUP: &str = "ledger";

pub(crate) async fn run(options: &Options, form: Form) -> Ended {
    let mut stop = Stop::watch()?;
    let place = match &options.url {
        Some(url) => Place::of(url.clone()),
        None => Place::fresh()?,
    };
    let report = pipeline(options, place.url(), &mut stop).await?;
    match form {
        Form::Json => output::document(&report),
        Form::Text => output::line(&report.to_string()),
    }
    if options.keep {
        eprintln!("The file is kept. Look into it with: millstream topics {}", place.url());
        place.keep();
    }
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { failed::FAILED.into() })
}

async fn pipeline(options: &Options, url: &str, stop: &mut Stop) -> Result<Report> {
    let plan = Plan { orders: options.events, seed: options.seed };
    let ledger = Arc::new(Ledger::new(plan.orders, plan.customers())?);
    let shop = Shop { plan, ledger: Arc::clone(&ledger) };
    let copies = plan.copies();
    let total = u64::from(plan.orders) + copies;

    shop::silence_own_panics();
    let bus = Bus::connect(url).await?;
    let publisher = bus.publisher().clone();
    let dead_letters = bus.dead_letters(shop::ORDERS);
    // Short waits, so that a demo ends; three attempts are one more than the most stubborn card needs.
    let retry = || Retry::exponential(1.ms(), 20.ms()).attempts(3);
    let store = || EmbeddedDedupStore::new(total.try_into().unwrap_or(usize::MAX));
    let running = bus
        .with_state(shop.clone())
        .subscribe(shop::bill.group(Group::Billing.name()).retry(retry()).deduplicate(store()))
        .subscribe(shop::reserve_stock.group(Group::Stock.name()).retry(retry()).deduplicate(store()))
        .subscribe(shop::send_mail.group(Group::Mail.name()).retry(retry()).deduplicate(store()))
        .subscribe(shop::see_invoice.group(INVOICES_GROUP))
        .start()
        .await?;

    let progress = Progress::new(total);
    let control = running.control();
    let slowest = AtomicU64::new(0);
    let begun = Instant::now();
    let publishing = async {
        let ended = || slowest.load(Ordering::Relaxed);
        match publish::publish(&publisher, &shop, ended, |sent| progress.published(sent)).await {
            // From here on the watch alone says when it is over.
            Ok(()) => std::future::pending().await,
            Err(error) => format!("given up, since publishing failed: {}", failed::text(&error)),
        }
    };
    let given_up = tokio::select! {
        refused = publishing => Some(refused),
        stalled = watch(&control, total, &slowest, &progress) => stalled,
        () = stop.asked() => None,
    };
    let elapsed = begun.elapsed();
    progress.clear();
    let mut problems = given_up.map_or_else(Vec::new, |why| [vec![why], ailments(&control)].concat());
    let closing = running.shutdown().await;
    if stop.is_asked() {
        // What was under way is no loss, and nothing else could be said of it.
        return Err(Error::new(ErrorKind::Unavailable, "interrupted before all orders had come to an end")
            .fix("let it run to its end, or choose fewer with --events"));
    }
    letters::read_back(&dead_letters, &ledger).await?;

    for subscription in &closing.subscriptions {
        problems.extend(subscription.errors.iter().cloned());
        if subscription.abandoned > 0 {
            problems
                .push(format!("{}: {} handlers did not end", subscription.handler, subscription.abandoned));
        }
    }
    let url = Endpoint::parse(url)?.to_string();
    let run = Run { orders: plan.orders, copies, seed: plan.seed, url, elapsed, problems };
    let counts = Group::ALL.map(|group| counts_of(&closing.subscriptions, group.name()));
    Ok(Report::new(run, &counts, ledger.verdict()))
}

/// Waits until every message came to an end in every group; says so if nothing does any more.
async fn watch(control: &Control, total: u64, slowest: &AtomicU64, progress: &Progress) -> Option<String> {
    let mut last = (0, Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        let counts = control.counts();
        let groups = Group::ALL.map(|group| counts_of(&counts, group.name()));
        for (group, count) in Group::ALL.into_iter().zip(&groups) {
            progress.ended(group, ended(count), count.dead_lettered);
        }
        slowest.store(groups.iter().map(ended).min().unwrap_or(0), Ordering::Relaxed);
        let invoices = ended(&counts_of(&counts, INVOICES_GROUP));
        let billing = &groups[Group::Billing as usize];
        if groups.iter().all(|count| ended(count) >= total)
            && invoices >= billing.emitted
            && control.in_flight() == 0
        {
            return None;
        }
        let all = groups.iter().map(ended).sum::<u64>() + invoices;
        if all > last.0 {
            last = (all, Instant::now());
        } else if last.1.elapsed() > STALLED {
            return Some(format!("given up: no message came to an end for {} s", STALLED.as_secs()));
        }
    }
}

/// What the scheduler says is wrong with it.
fn ailments(control: &Control) -> Vec<String> {
    let sick = control.health().subscriptions.into_iter();
    sick.flat_map(|s| s.why.into_iter().map(move |why| format!("{}: {why}", s.handler))).collect()
}

/// Messages that came to an end.
fn ended(count: &SubscriptionReport) -> u64 {
    count.handled + count.duplicates + count.dead_lettered + count.discarded
}

fn counts_of(counts: &[SubscriptionReport], group: &str) -> SubscriptionReport {
    counts.iter().find(|count| count.group.as_deref() == Some(group)).cloned().unwrap_or_default()
}
