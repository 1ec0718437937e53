//! Runs the README's tour as a reader would, in one shell, and compares what is printed with what the README shows.
//!
//! What is run: the `console` blocks between `<!-- tour -->` and `<!-- /tour -->`. A line `$ command` is a command, `> `
//! goes on with it, and what follows is what it prints, on stdout and stderr. There, a line `...` stands for any lines,
//! and `[..]` for any part of a line. A command that ends with `&` keeps running until the end of the tour; the next one
//! begins when it has printed what is shown. The README's ports are replaced by free ones.
//!
//! With `UPDATE=1` what was printed is shown as it would stand in the README:
//! `UPDATE=1 cargo test --test it tour -- --nocapture`.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// For the whole tour.
const PATIENCE: Duration = Duration::from_secs(120);

/// The ports of the README.
const PORTS: [u16; 4] = [8080, 9090, 9001, 9002];

#[derive(Debug, PartialEq)]
struct Step {
    /// May have several lines.
    command: String,
    expected: Vec<String>,
}

#[test]
fn the_tour_of_the_readme_prints_what_the_readme_shows() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let steps = steps(&readme);
    assert!(!steps.is_empty(), "README.md has no tour");
    if let Some(missing) = missing() {
        return println!("skipped: {missing} is not installed");
    }
    let printed = tour(&steps);
    if std::env::var_os("UPDATE").is_some() {
        for (step, printed) in steps.iter().zip(&printed) {
            println!("$ {}\n{}", step.command.replace('\n', "\n> "), printed.join("\n"));
        }
    }
    if let Err(differences) = compare(&steps, &printed) {
        panic!("README.md shows something else; UPDATE=1 shows all that was printed\n{differences}");
    }
}

#[test]
fn a_tour_is_run_in_one_shell_and_compared() {
    const README: &str = "
```console
$ exit 1
```
<!-- tour -->
Text, and a block of another kind:

```sh
exit 1
```
```console
$ greeting=hello; cd /
$ echo $greeting from $PWD; echo and this >&2
hello from /
and this
$ splitway app --name blue --listen :9001 &
blue   http://127.0.0.1:9001/
Next: [..] --stable 127.0.0.1:9001
```
```console
$ for i in 1 2 3; do
>   curl -s http://127.0.0.1:9001/
> done | sort | uniq -c
...3 is not a line of its own, so these dots mean themselves
$ seq 9
1
...
8
9
```
<!-- /tour -->
```console
$ exit 1
```
";
    if let Some(missing) = missing() {
        return println!("skipped: {missing} is not installed");
    }
    let mut steps = steps(README);
    assert_eq!(steps.len(), 5);
    assert_eq!(steps[3].command, "for i in 1 2 3; do\n  curl -s http://127.0.0.1:9001/\ndone | sort | uniq -c");
    let printed = tour(&steps);
    let differences = compare(&steps, &printed).expect_err("one expectation is wrong");
    assert_eq!(differences.matches("\n$ ").count(), 1, "{differences}");
    assert!(differences.contains("      3 hello from the blue version"), "{differences}");
    steps[3].expected = vec!["[..]3 hello from [..] version".to_owned()];
    compare(&steps, &printed).unwrap();
}

#[test]
fn dots_stand_for_any_lines_and_dots_in_brackets_for_any_part_of_a_line() {
    let same = |expected: &[&str], printed: &[&str]| {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        matches(&owned(expected), &owned(printed))
    };
    assert!(same(&[], &[]) && same(&["..."], &[]) && same(&["..."], &["a", "b"]));
    assert!(same(&["a", "...", "c"], &["a", "b", "c", "c"]) && same(&["a", "...", "..."], &["a"]));
    assert!(!same(&[], &["a"]) && !same(&["a"], &[]) && !same(&["a", "..."], &["b", "a"]));
    assert!(!same(&["...", "a"], &["a", "b"]));
    assert!(same(&["a[..]c"], &["abc"]) && same(&["a[..]c"], &["ac"]) && same(&["[..]b[..]b"], &["abcb"]));
    assert!(!same(&["a[..]c"], &["abcd"]) && !same(&["a[..]a"], &["a"]) && !same(&["[..]b"], &["a"]));
}

/// The commands of a tour, with what they shall print.
fn steps(readme: &str) -> Vec<Step> {
    let tour = readme.split("<!-- tour -->").nth(1).and_then(|rest| rest.split("<!-- /tour -->").next());
    let mut steps: Vec<Step> = Vec::new();
    let mut block = None;
    for line in tour.unwrap_or_default().lines() {
        match (line.strip_prefix("```"), block) {
            (Some(kind), None) => block = Some(kind.trim()),
            (Some(_), Some(_)) => block = None,
            (None, Some("console")) => match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.to_owned(), expected: Vec::new() }),
                (None, None) => panic!("{line:?} stands before any command"),
                (None, Some(step)) => match line.strip_prefix("> ").filter(|_| step.expected.is_empty()) {
                    Some(more) => step.command += &format!("\n{more}"),
                    None => step.expected.push(line.to_owned()),
                },
            },
            _ => {}
        }
    }
    steps
}

/// What the tour needs and this machine has not.
fn missing() -> Option<&'static str> {
    ["bash", "curl"].into_iter().find(|program| {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        !found.is_ok_and(|status| status.success())
    })
}

/// Everything that a tour started ends with it.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        // The group that the shell leads: itself, if it still runs, and what it left behind.
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

/// Runs a tour. Returns what each step has printed, with the README's ports.
fn tour(steps: &[Step]) -> Vec<Vec<String>> {
    let ports = free_ports();
    let (folder, prints) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let seen = |i: usize| prints.path().join(format!("{i}.seen"));
    let mut script = String::new();
    for (i, step) in steps.iter().enumerate() {
        let out = prints.path().join(i.to_string());
        writeln!(script, "{{ {}\n}} >'{}' 2>&1", with_ports(&step.command, &PORTS, &ports), out.display()).unwrap();
        if step.command.trim_end().ends_with('&') {
            let lines = step.expected.iter().filter(|line| *line != "...").count().max(1);
            // Bounded, as the whole is, so that what has come is seen when it is not enough.
            let enough = format!("[ $(wc -l <'{}') -ge {lines} ]", out.display());
            writeln!(script, "for _ in $(seq 500); do {enough} && break; sleep 0.02; done").unwrap();
        }
        writeln!(script, "cp '{}' '{}'", out.display(), seen(i).display()).unwrap();
    }
    let program = Path::new(env!("CARGO_BIN_EXE_splitway")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Shell(
        Command::new("bash")
            .args(["--norc", "-c", &script])
            .env_clear()
            .env("PATH", format!("{}:{path}", program.display()))
            .env("HOME", folder.path())
            .env("LC_ALL", "C")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("bash"),
    );
    let begun = Instant::now();
    while shell.0.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
    (0..steps.len())
        .map(|i| {
            let text = fs::read_to_string(seen(i)).unwrap_or_else(|_| {
                let out = fs::read_to_string(prints.path().join(i.to_string())).unwrap_or_default();
                panic!("the tour did not come to the end of `{}`, which printed so far:\n{out}", steps[i].command)
            });
            with_ports(&text, &ports, &PORTS).lines().map(str::to_owned).collect()
        })
        .collect()
}

/// Below the range that port 0 is served from, so that no other test is given one of them meanwhile; and none twice.
fn free_ports() -> [u16; 4] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 1_000) as u16 * 10;
    let candidates = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed));
    let free = candidates.take(1_000).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.take(4).collect::<Vec<_>>().try_into().expect("four free ports")
}

/// Replaces `:8080` and the others where they stand as whole numbers.
fn with_ports(text: &str, from: &[u16; 4], to: &[u16; 4]) -> String {
    let mut pieces = text.split(':');
    let mut replaced = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let digits = piece.len() - piece.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let port = piece[..digits].parse().ok().and_then(|port: u16| from.iter().position(|known| *known == port));
        match port {
            Some(i) => write!(replaced, ":{}{}", to[i], &piece[digits..]).unwrap(),
            None => write!(replaced, ":{piece}").unwrap(),
        }
    }
    replaced
}

/// Every step that printed something else.
fn compare(steps: &[Step], printed: &[Vec<String>]) -> Result<(), String> {
    let mut differences = String::new();
    for (step, printed) in steps.iter().zip(printed) {
        if !matches(&step.expected, printed) {
            let (expected, printed) = (step.expected.join("\n"), printed.join("\n"));
            write!(differences, "\n$ {}\n--- shown\n{expected}\n--- printed\n{printed}\n", step.command).unwrap();
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

fn matches(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any == "..." => (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..])),
        Some((line, rest)) => {
            printed.split_first().is_some_and(|(first, printed)| line_matches(line, first) && matches(rest, printed))
        }
    }
}

fn line_matches(expected: &str, printed: &str) -> bool {
    match expected.trim_end().split_once("[..]") {
        None => expected.trim_end() == printed.trim_end(),
        Some((before, after)) => printed.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(i, _)| i).chain([rest.len()]).any(|skipped| line_matches(after, &rest[skipped..]))
        }),
    }
}
