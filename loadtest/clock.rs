//! The CPU time that other processes have used.

use std::fs;
use std::io;
use std::time::Duration;

/// User and system time of a process, all of its threads and children.
pub fn spent(pid: u32) -> io::Result<Duration> {
    let sum = family(pid).into_iter().map(|pid| nanoseconds(pid).or_else(|_| ticks(pid))).sum::<io::Result<u64>>();
    sum.map(Duration::from_nanos)
}

/// From the scheduler's own clock, thread by thread, if the kernel offers it.
fn nanoseconds(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let spent = text.split(' ').next().and_then(|first| first.parse::<u64>().ok());
        sum += spent.ok_or_else(|| io::Error::other("unexpected form of schedstat"))?;
    }
    Ok(sum)
}

/// `USER_HZ` is part of the kernel's interface to programs, and 100 on every architecture we run on.
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / 100;

/// In nanoseconds, but counted in hundredths of a second: fields 14 and 15 of `/proc/PID/stat` cover all threads of the
/// process.
fn ticks(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, field 2, is in parentheses and may contain anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = fields.split_ascii_whitespace().skip(11).take(2);
    Ok(times.filter_map(|time| time.parse::<u64>().ok()).sum::<u64>() * NANOSECONDS_PER_TICK)
}

/// A process and its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(parent) = all.get(next).copied() {
        next += 1;
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        all.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    all
}
