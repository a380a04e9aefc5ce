//! Much is published, a MiB each, while the handlers stall, in a process that may have 256 MiB: it is not killed for
//! taking more, and when the handlers go on, all is handled.

use std::path::Path;
use std::process::Stdio;

use super::Scale;
use crate::bulk::{self, Options, Way};
use crate::cgroup::Cgroup;
use crate::launch::Launch;
use crate::report::Row;
use crate::{Result, scratch};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 256 * MIB;

/// The driver with a file, on a disk: what is in a file system in memory would count as the process's own.
pub(super) fn sqlite(scale: Scale) -> Result<Row> {
    let folder = match scratch::folder_on_disk("memory")? {
        Ok(folder) => folder,
        Err(why) => return Ok(Row::skipped(why)),
    };
    stalled(scale, &url(&folder.path().join("storm.db")))
}

/// The driver in memory, whose topic may hold a quarter of it.
pub(super) fn memory(scale: Scale) -> Result<Row> {
    stalled(scale, &format!("memory://?bytes={}", LIMIT / 4))
}

fn stalled(scale: Scale, url: &str) -> Result<Row> {
    let group = match Cgroup::with_memory(LIMIT) {
        Ok(group) => group,
        Err(why) => return Ok(Row::skipped(why)),
    };
    let options =
        Options { url: url.into(), messages: scale.of(10_000, 1_000), size: MIB as usize, way: Way::Stalled };
    let outcome = run(&options, &Launch::within(&group));
    let kills = group.kills()?;
    let report = match outcome {
        Ok(report) => report,
        Err(error) if kills > 0 => return Err(format!("{kills} killed for their memory; {error}").into()),
        Err(error) => return Err(error),
    };
    let mut row = row(&options, &report);
    row.faults = 1;
    row.measured("published_while_stalled", report.begun_at);
    row.measured("killed_for_memory", kills);
    row.measured("peak_mib", report.peak_kib / 1_024);
    row.at_most("killed_for_memory", 0);
    row.detail = format!("{} MiB in a group with {}", options.messages, LIMIT / MIB);
    Ok(row)
}

pub(super) fn url(file: &Path) -> String {
    format!("sqlite://{}", file.display())
}

/// Lets a process do that.
pub(super) fn run(options: &Options, launch: &Launch) -> Result<bulk::Report> {
    let arguments = std::iter::once("bulk".to_owned()).chain(options.arguments()).collect();
    let mut command = launch.command(&std::env::current_exe()?, arguments);
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the process ended with {}: {}", output.status, said.trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What every such process must come to.
pub(super) fn row(options: &Options, report: &bulk::Report) -> Row {
    let mut row = Row {
        messages: options.messages,
        acknowledged: report.published,
        lost: report.published.saturating_sub(report.handled),
        duplicates_unexplained: report.repeated,
        ..Row::default()
    };
    if report.damaged > 0 {
        row.problems.push(format!("{} messages were not what was published", report.damaged));
    }
    if report.after != report.before {
        row.problems.push(format!("it held {:?} before, and {:?} after", report.before, report.after));
    }
    row
}
