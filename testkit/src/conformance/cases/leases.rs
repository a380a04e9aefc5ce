//! Leases end, last when they are extended, and stale tokens are lost.

use millstream_core::{Settled, Verdict};

use super::{case, leased};
use crate::conformance::member::PLENTY;
use crate::conformance::{Case, Checked, Failure, World, ensure};
use crate::ledger::Record;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "leases",
            a_lease_that_ends_brings_back_only_its_message,
            leased,
            "a delivery is ours as long as its lease (Capabilities::lease; conformance.md, gap 3)"
        ),
        case!(
            "leases",
            a_stale_token_is_lost,
            leased,
            "a settle that the broker refuses is a lost lease, never success (reader, rule 3; faults.md S2)"
        ),
        case!(
            "leases",
            an_extended_lease_lasts,
            leased,
            "an extended lease lasts its full duration from then (Leases::extend; faults.md S1)"
        ),
    ]
}

async fn a_lease_that_ends_brings_back_only_its_message(world: World) -> Checked {
    let messages: Vec<_> = (0..5).map(|n| world.message(&format!("key {n}"))).collect();
    let mut member = world.publish_and_join(messages, "g").await?;
    let mut held = member.take(5).await?;
    let late = held.remove(2);
    member.handle(held).await?;
    world.ledger().write(Record::fault("a lease ended"));
    let again = member.take_again(1).await?;
    ensure!(
        again[0].message.id == late.message.id,
        "{:?} came again, and the lease of {:?} had ended",
        again[0].message.id,
        late.message.id
    );
    member.handle(again).await?;
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn a_stale_token_is_lost(world: World) -> Checked {
    let mut member = world.publish_and_join(vec![world.message("k")], "g").await?;
    let late = member.take(1).await?.remove(0);
    world.ledger().write(Record::fault("a lease ended"));
    let again = member.take_again(1).await?;
    let outcome = member.settle(vec![(late, Verdict::Ack)]).await?;
    ensure!(
        !matches!(outcome[0], Settled::Done),
        "the token of a lease that had ended, with its message delivered again, settled as done"
    );
    member.handle(again).await?;
    world.verify(world.rules())
}

async fn an_extended_lease_lasts(world: World) -> Checked {
    let mut member = world.publish_and_join(vec![world.message("k")], "g").await?;
    let held = member.take(1).await?;
    let Some(mut plan) = member.leases.take() else {
        return Err(Failure::from("its capabilities name a lease, and open gave no Leases".to_owned()));
    };
    plan.leases.connect().await?;
    let tokens: Vec<_> = held.iter().map(|d| d.token.id()).collect();
    for _ in 0..6 {
        let until = tokio::time::Instant::now() + plan.duration / 3;
        // Read on meanwhile: it must not come again.
        let mut into = Vec::new();
        let limits = millstream_core::ReadLimits::new(10, PLENTY);
        while tokio::time::timeout_at(until, member.source.read(&mut into, limits)).await.is_ok() {
            ensure!(into.is_empty(), "it came again though its lease was extended");
        }
        let extended = plan.leases.extend(&tokens).await?;
        ensure!(extended == [true], "extending a lease that is ours gave {extended:?}");
    }
    member.handle(held).await?;
    let after = plan.leases.extend(&tokens).await?;
    ensure!(after != [true], "a lease was extended after its message was acknowledged");
    world.verify(world.rules())
}
