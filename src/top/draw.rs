//! A screen of what `top` knows. PURE: the same [`View`] at the same time is the same screen, of whatever size.

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Flex, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};
use splitway::admin::endpoints::{Endpoint, State};
use splitway::admin::status::{self, PART, PARTS, Status, Tone, Version, milliseconds, percent};

use super::view::View;

/// On less, nothing would be left to see.
pub const SMALLEST: (u16, u16) = (60, 12);

/// Answers come each second. What is older than this is shown as such.
const STALE: Duration = Duration::from_secs(3);

/// What a bar shows is of ten seconds, as are all other numbers; it moves on with each part of them.
const SMOOTH: usize = 2;

/// The most lines at the bottom.
const FOOT: usize = 4;

/// How screens are drawn: as `status` draws trees.
pub use status::Style as Paint;

struct Glyphs {
    done: &'static str,
    here: &'static str,
    more: &'static str,
    /// From nothing to the whole height.
    bars: [char; 9],
    border: border::Set<'static>,
}

const UNICODE: Glyphs = Glyphs {
    done: "✔",
    here: "●",
    more: "…",
    bars: [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
    border: border::ROUNDED,
};

const ASCII: Glyphs = Glyphs {
    done: "x",
    here: ">",
    more: "...",
    bars: [' ', '_', '.', ',', '-', '=', '+', '*', '#'],
    border: border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    },
};

const HELP: [&str; 16] = [
    "q, Ctrl-C  quit",
    "?          open and close this",
    "/          show only what has a text in it: Enter keeps it, Esc ends it",
    "p          stop the picture, and go on",
    "",
    "ASKED      the share that the split is to give to a version",
    "SENT       what it gave since weights changed, ten seconds at most; a bar",
    "           is five seconds, and the bars below are what was asked",
    "ERROR      requests above (+) or below (-) what was asked, since the start",
    "FAILED     the part of all tries that failed, in the same time",
    "P50 - P99  so many of a hundred requests took no longer",
    "OPEN       requests in flight",
    "ENDPOINTS  and how often workers leave one out for a while; why, is below",
    "",
    "Nothing here changes anything. More: splitway status, splitway report,",
    "splitway explain",
];

/// A part of the screen that takes what room it gets. The bounds are lines.
struct Part<'a> {
    /// With less it is not there at all.
    least: usize,
    wants: usize,
    /// If all others have what they want.
    most: usize,
    /// Exactly so many lines, or fewer.
    draw: Box<dyn Fn(usize) -> Vec<Line<'a>> + 'a>,
}

struct Pen<'a> {
    view: &'a View,
    paint: Paint,
    glyphs: Glyphs,
    width: usize,
    /// How much of what is shown is of the past.
    age: Option<Duration>,
}

pub fn draw(view: &View, now: Instant, paint: Paint, frame: &mut Frame) {
    let area = frame.area();
    let (columns, rows) = SMALLEST;
    if area.width < columns || area.height < rows {
        let said = format!(
            "{}x{} is too small: splitway top needs {columns} columns and {rows} lines. q quits",
            area.width, area.height
        );
        return frame.render_widget(Paragraph::new(said).wrap(Wrap { trim: true }), area);
    }
    let pen = Pen {
        view,
        paint,
        glyphs: if paint.unicode { UNICODE } else { ASCII },
        width: usize::from(area.width),
        age: view.heard.map(|heard| now.saturating_duration_since(heard)),
    };
    let foot = pen.foot();
    // Why nobody answers may be long, and the remedy is at its end.
    let rows = if view.trouble.is_some() { foot.width().div_ceil(pen.width).clamp(1, FOOT) as u16 } else { 1 };
    let [body, below] = Layout::vertical([Constraint::Fill(1), Constraint::Length(rows)]).areas(area);
    let lines = match &view.status {
        Some(status) => pen.body(status, usize::from(body.height)),
        None => vec![Line::from("splitway top".bold()), Line::default(), Line::from("no answer yet")],
    };
    let stale = pen.age.is_some_and(|age| age >= STALE) && view.status.is_some();
    let style = if stale { Style::new().add_modifier(Modifier::DIM) } else { Style::new() };
    frame.render_widget(Paragraph::new(lines).style(style), body);
    frame.render_widget(Paragraph::new(foot).wrap(Wrap { trim: true }), below);
    if view.help {
        pen.help(frame, body);
    }
}

impl<'a> Pen<'a> {
    /// In the order of the screen, and by what matters more where there is not room for all.
    fn body(&'a self, status: &'a Status, height: usize) -> Vec<Line<'a>> {
        let parts = [self.head(status), self.steps(status), self.split(status), self.traffic(status), self.failures()];
        let by_rank = [0, 2, 3, 1, 4];
        let mut given = [0; 5];
        let mut left = height;
        for place in by_rank {
            // With the empty line before it.
            let (least, gap) = (parts[place].least, usize::from(place > 0));
            if least > 0 && left >= least + gap {
                given[place] = least;
                left -= least + gap;
            }
        }
        for bound in [|part: &Part| part.wants, |part: &Part| part.most] {
            for place in by_rank.into_iter().filter(|place| given[*place] > 0).collect::<Vec<_>>() {
                let more = bound(&parts[place]).saturating_sub(given[place]).min(left);
                given[place] += more;
                left -= more;
            }
        }
        let mut lines = Vec::with_capacity(height);
        for (part, height) in parts.iter().zip(given).filter(|(_, height)| *height > 0) {
            if !lines.is_empty() {
                lines.push(Line::default());
            }
            lines.extend((part.draw)(height).into_iter().take(height));
        }
        lines
    }

    fn head(&'a self, status: &'a Status) -> Part<'a> {
        let mut lines = vec![self.title(status)];
        let progress = status.rollout.as_ref().and_then(|rollout| rollout.progress.as_ref());
        if let Some(progress) = progress {
            let (word, tone) = status::state(progress);
            let mut facts = progress.why.iter();
            let mut first = vec![Span::styled(word, self.tone(tone).add_modifier(Modifier::BOLD))];
            let told = |fact: &'a splitway::control::rollout::Fact| {
                let field = if fact.field.is_empty() { String::new() } else { format!("  ({})", fact.field) };
                [Span::raw("  "), Span::raw(&*fact.text), Span::styled(field, self.dim())]
            };
            first.extend(facts.next().into_iter().flat_map(told));
            lines.push(Line::from(first));
            lines.extend(facts.map(|fact| Line::from(told(fact).to_vec())));
        }
        if let Some(refused) = &status.refused {
            lines.push(Line::styled(format!("refused: {refused}"), self.tone(Tone::Bad)));
        }
        if let Some(last) = &status.last {
            let outcome = Span::styled(&*last.outcome, self.tone(last.tone()));
            lines.push(Line::from(vec![
                Span::raw(format!("report {} ", last.number)),
                outcome,
                Span::raw(format!(": {}", last.met())),
            ]));
        }
        lines.extend(
            self.view.away.iter().map(|error| Line::styled(format!("not heard: {error}"), self.tone(Tone::Bad))),
        );
        lines.extend(status.notes.iter().map(|note| Line::styled(&**note, self.dim())));
        let most = lines.len().min(7);
        Part { least: most.min(2), wants: most, most, draw: Box::new(move |_| lines.clone()) }
    }

    fn title(&'a self, status: &'a Status) -> Line<'a> {
        let (name, api) = match &status.rollout {
            Some(rollout) => (&*rollout.name, &*rollout.api),
            None => ("application", "connected"),
        };
        let mut title =
            vec![Span::raw(name).bold(), Span::raw(format!("  {}, generation {}", status.state, status.generation))];
        if api != "connected" {
            title.push(Span::styled(format!("  API server: {api}"), self.tone(Tone::Waits)));
        }
        for (is_so, what) in [
            (self.view.paused, "  paused: p goes on".to_owned()),
            (
                !self.view.filter.is_empty() && !self.view.typing,
                format!("  only {:?}: Esc shows all", self.view.filter),
            ),
        ] {
            if is_so {
                title.push(Span::styled(what, self.tone(Tone::Waits).add_modifier(Modifier::BOLD)));
            }
        }
        Line::from(title)
    }

    /// Around the one that it stands at.
    fn steps(&'a self, status: &'a Status) -> Part<'a> {
        let progress = status.rollout.as_ref().and_then(|rollout| rollout.progress.as_ref());
        let (steps, now) = progress.map_or((&[][..], 0), |progress| (&progress.steps[..], progress.step));
        let draw = move |height: usize| {
            let from = now.saturating_sub(height / 2).min(steps.len().saturating_sub(height));
            let shown = steps.iter().enumerate().skip(from).take(height);
            let line = |(i, fact): (usize, &'a splitway::control::rollout::Fact)| {
                let (mark, style) = match i {
                    i if i < now => (self.glyphs.done, self.tone(Tone::Good)),
                    i if i == now => (self.glyphs.here, self.tone(Tone::Waits)),
                    _ => (" ", Style::new()),
                };
                let text = if i == now { Span::raw(&*fact.text).bold() } else { Span::raw(&*fact.text) };
                Line::from(vec![
                    Span::styled(format!("{:>3}/{} ", i + 1, steps.len()), self.dim()),
                    Span::styled(mark, style),
                    Span::raw(" "),
                    text,
                ])
            };
            shown.map(line).collect()
        };
        let most = steps.len();
        Part { least: most.min(1), wants: most.min(9), most, draw: Box::new(draw) }
    }

    fn versions(&'a self, status: &'a Status) -> Vec<(&'a Option<String>, &'a Version)> {
        let all = status.ports.iter().flat_map(|port| port.versions.iter().map(move |version| (&port.port, version)));
        all.filter(|(port, version)| self.view.shows_version(port, version)).collect()
    }

    fn split(&'a self, status: &'a Status) -> Part<'a> {
        let versions = self.versions(status);
        let n = versions.len();
        let draw = move |height: usize| {
            let numbers = 27;
            let name = self.name_width(&versions, numbers + 14);
            let bars = self.width.saturating_sub(name + numbers + 2).min(PARTS);
            let title = format!("SENT, LAST {}", humantime::format_duration(PART * bars as u32)).replace("m ", "m");
            let title = if title.len() <= bars { title } else { String::new() };
            let heading = format!("{:<name$} {:>8} {:>8} {:>8}  {title}", "SPLIT", "ASKED", "SENT", "ERROR");
            let mut lines = vec![Line::styled(heading, self.heading())];
            let each = if height > 2 * n { 2 } else { 1 };
            for (port, version) in &versions {
                let from = version.trend.len().saturating_sub(bars);
                let sent = |i: usize| {
                    let parts = &version.trend[i.saturating_sub(SMOOTH - 1)..=i];
                    let [sent, of] = [|part: &status::Part| part.sent, |part: &status::Part| part.of]
                        .map(|count| parts.iter().map(count).sum::<u64>());
                    if of > 0 { sent as f64 / of as f64 } else { 0.0 }
                };
                let shares: Vec<(f64, f64)> =
                    version.trend.iter().enumerate().skip(from).map(|(i, part)| (part.asked, sent(i))).collect();
                let largest = shares.iter().flat_map(|(asked, sent)| [*asked, *sent]).fold(0.0, f64::max);
                let drawn = |share: &dyn Fn(&(f64, f64)) -> f64| -> String {
                    let drawn: String = shares.iter().map(|shares| self.bar(share(shares), largest)).collect();
                    format!("{drawn:>bars$}")
                };
                let sent = version.sent.map_or("-".to_owned(), percent);
                lines.push(Line::from(vec![
                    self.name(port, version, name),
                    Span::raw(format!(
                        " {:>8} {sent:>8} {:>+8.2}  ",
                        percent(version.asked),
                        version.error_in_requests
                    )),
                    Span::styled(drawn(&|part| part.1), self.role(version)),
                ]));
                if each == 2 {
                    let asked = format!("{:>1$}{2}", "", name + numbers + 2, drawn(&|part| part.0));
                    lines.push(Line::styled(asked, self.dim()));
                }
            }
            self.cut(lines, height, n, each)
        };
        let least = 1 + n.clamp(1, 2);
        Part { least, wants: 1 + n.max(1), most: 1 + (2 * n).max(1), draw: Box::new(draw) }
    }

    /// And those endpoints that are not as they should be.
    fn traffic(&'a self, status: &'a Status) -> Part<'a> {
        let versions = self.versions(status);
        let n = versions.len();
        let endpoints = versions.iter().flat_map(|(_, version)| &version.endpoint_states);
        let troubled: Vec<Line> =
            endpoints.filter(|one| one.state != State::Active).map(|one| self.endpoint(one)).collect();
        let most = 1 + n.max(1) + troubled.len();
        let draw = move |height: usize| {
            let mut columns = Column::ALL.to_vec();
            // Where all of them are too wide, the less telling ones go.
            for dropped in [Column::P50, Column::P95, Column::Endpoints] {
                let numbers: usize = columns.iter().map(|column| 1 + column.width()).sum();
                if self.width < numbers + 18 {
                    columns.retain(|column| *column != dropped);
                }
            }
            let numbers: usize = columns.iter().map(|column| 1 + column.width()).sum();
            let name = self.name_width(&versions, numbers);
            let heading = columns.iter().map(|column| format!(" {:>1$}", column.title(), column.width()));
            let heading = format!("{:<name$}{}", "TRAFFIC", heading.collect::<String>());
            let mut lines = vec![Line::styled(heading, self.heading())];
            for (port, version) in &versions {
                let mut cells = vec![self.name(port, version, name)];
                cells.extend(columns.iter().map(|column| {
                    let style = if column.is_bad(version) { self.tone(Tone::Bad) } else { Style::new() };
                    Span::styled(format!(" {:>1$}", column.of(version), column.width()), style)
                }));
                lines.push(Line::from(cells));
            }
            let mut lines = self.cut(lines, height, n, 1);
            let left = height.saturating_sub(lines.len());
            lines.extend(troubled.iter().take(left).cloned());
            lines
        };
        Part { least: 1 + n.clamp(1, 2), wants: most, most, draw: Box::new(draw) }
    }

    fn endpoint(&self, endpoint: &Endpoint) -> Line<'a> {
        let style = match endpoint.state {
            State::Active | State::Leaving | State::Warming => self.dim(),
            State::Full => self.tone(Tone::Waits),
            State::Failing | State::Unreachable | State::Ejected => self.tone(Tone::Bad),
        };
        Line::styled(format!("  {:<21}  {}", endpoint.address, endpoint.in_words()), style)
    }

    fn failures(&'a self) -> Part<'a> {
        let shown: Vec<_> = self.view.failures.iter().filter(|one| self.view.shows_failure(one)).collect();
        let n = shown.len();
        let draw = move |height: usize| {
            let mut lines = vec![Line::styled("LAST FAILURES (UTC)", self.heading())];
            lines.extend(shown.iter().map(|one| {
                let or_nothing = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
                let (role, version, word) = match &one.failed {
                    Some(failed) => (&*failed.role, &*failed.version, &*failed.failure),
                    None => {
                        let word = one.failure.as_deref().unwrap_or("answered");
                        (or_nothing(&one.role), or_nothing(&one.version), word)
                    }
                };
                let who = named(&None, role, version);
                let took = milliseconds(one.duration_seconds);
                Line::from(vec![
                    Span::styled(one.time.get(11..19).unwrap_or("--------"), self.dim()),
                    Span::raw(format!("  {:<20} ", clipped(who.trim(), 20, self.glyphs.more))),
                    Span::styled(format!("{:>3} {word:<18}", one.code), self.tone(Tone::Bad)),
                    Span::raw(format!(" {took:>9}  {} {}", or_nothing(&one.method), or_nothing(&one.path))),
                ])
            }));
            lines.truncate(height);
            lines
        };
        Part { least: if n > 0 { 2 } else { 0 }, wants: 1 + n.min(5), most: 1 + n, draw: Box::new(draw) }
    }

    /// Of more than fit, only the number is told.
    fn cut(&'a self, mut lines: Vec<Line<'a>>, height: usize, n: usize, each: usize) -> Vec<Line<'a>> {
        if n == 0 {
            let none =
                if self.view.filter.is_empty() { "nothing is live yet" } else { "no version has this text in it" };
            lines.push(Line::styled(none, self.dim()));
        }
        if lines.len() > height {
            let shown = height.saturating_sub(2) / each;
            lines.truncate(1 + shown * each);
            lines.push(Line::styled(format!("{} {} more: / chooses", self.glyphs.more, n - shown), self.dim()));
        }
        lines
    }

    /// Wide enough for the longest, if what is beside it leaves so much.
    fn name_width(&self, versions: &[(&Option<String>, &Version)], beside: usize) -> usize {
        let longest =
            versions.iter().map(|(port, one)| named(port, &one.role, &one.version).chars().count()).max().unwrap_or(0);
        longest.clamp(16, self.width.saturating_sub(beside).clamp(16, 40))
    }

    fn name(&self, port: &Option<String>, version: &Version, width: usize) -> Span<'a> {
        let name = clipped(&named(port, &version.role, &version.version), width, self.glyphs.more);
        Span::styled(format!("{name:<width$}"), self.role(version))
    }

    /// Whatever is above nothing shows.
    fn bar(&self, share: f64, largest: f64) -> char {
        let least = usize::from(share > 0.0);
        self.glyphs.bars[((share / largest * 8.0).round() as usize).clamp(least, 8)]
    }

    /// Whether it is heard, and what can be pressed.
    fn foot(&'a self) -> Line<'a> {
        let view = self.view;
        if view.typing {
            return Line::from(vec![
                Span::styled(format!("/{}", view.filter), Style::new().add_modifier(Modifier::BOLD)),
                Span::styled("_", Style::new().add_modifier(Modifier::SLOW_BLINK)),
                Span::styled("  Enter keeps it, Esc shows all", self.dim()),
            ]);
        }
        let ago = self.age.map(|age| format!("{} s", age.as_secs()));
        if let Some(trouble) = &view.trouble {
            let since = ago.map_or(String::new(), |ago| format!("not heard for {ago}; "));
            return Line::styled(format!("{since}asking again: {trouble}"), self.tone(Tone::Bad));
        }
        let keys = "q quit  ? help  / filter  p pause";
        let heard = match self.age {
            Some(age) if age >= STALE => format!("not heard for {} s, asking again", age.as_secs()),
            Some(_) => view.whom.clone(),
            None => format!("asking {}", view.whom),
        };
        let room = self.width.saturating_sub(keys.len() + 2);
        let heard = clipped(&heard, room, self.glyphs.more);
        Line::from(vec![Span::raw(keys), Span::styled(format!("  {heard:>room$}"), self.dim())])
    }

    fn help(&self, frame: &mut Frame, area: Rect) {
        let width = HELP.iter().map(|line| line.len()).max().unwrap_or(0) as u16 + 4;
        let [area] = Layout::horizontal([Constraint::Length(width)]).flex(Flex::Center).areas(area);
        let [area] = Layout::vertical([Constraint::Length(HELP.len() as u16 + 2)]).flex(Flex::Center).areas(area);
        let block =
            Block::bordered().border_set(self.glyphs.border).title(" splitway top ").title_alignment(Alignment::Center);
        frame.render_widget(Clear, area);
        let lines: Vec<Line> = HELP.iter().map(|line| Line::from(format!(" {line}"))).collect();
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn tone(&self, tone: Tone) -> Style {
        self.colour(match tone {
            Tone::Good => Color::Green,
            Tone::Waits => Color::Yellow,
            Tone::Bad => Color::Red,
        })
    }

    fn role(&self, version: &Version) -> Style {
        self.colour(match version.role.as_str() {
            "stable" => Color::Green,
            "canary" => Color::Yellow,
            _ => Color::Cyan,
        })
    }

    fn colour(&self, colour: Color) -> Style {
        if self.paint.colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn dim(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn heading(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Rate,
    Failed,
    P50,
    P95,
    P99,
    Open,
    Endpoints,
}

impl Column {
    const ALL: [Column; 7] =
        [Column::Rate, Column::Failed, Column::P50, Column::P95, Column::P99, Column::Open, Column::Endpoints];

    fn title(self) -> &'static str {
        match self {
            Column::Rate => "REQ/S",
            Column::Failed => "FAILED",
            Column::P50 => "P50",
            Column::P95 => "P95",
            Column::P99 => "P99",
            Column::Open => "OPEN",
            Column::Endpoints => "ENDPOINTS",
        }
    }

    fn width(self) -> usize {
        match self {
            Column::Rate | Column::Failed => 8,
            Column::P50 | Column::P95 | Column::P99 => 9,
            Column::Open => 5,
            Column::Endpoints => 9,
        }
    }

    fn of(self, version: &Version) -> String {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        match self {
            Column::Rate => format!("{:.1}", version.requests_per_second),
            Column::Failed => or_dash(version.error_rate.map(percent)),
            Column::P50 => or_dash(version.p50.map(milliseconds)),
            Column::P95 => or_dash(version.p95.map(milliseconds)),
            Column::P99 => or_dash(version.p99.map(milliseconds)),
            Column::Open => version.in_flight.to_string(),
            Column::Endpoints => match version.ejected {
                0 => version.endpoints.len().to_string(),
                out => format!("{}, {out} out", version.endpoints.len()),
            },
        }
    }

    fn is_bad(self, version: &Version) -> bool {
        match self {
            Column::Failed => version.error_rate.is_some_and(|rate| rate > 0.0),
            Column::Endpoints => version.endpoints.is_empty() || version.ejected > 0,
            _ => false,
        }
    }
}

/// Its role, and its version where that says more.
fn named(port: &Option<String>, role: &str, version: &str) -> String {
    let port = port.iter().map(|port| format!("{port} ")).collect::<String>();
    if role == version { format!("{port}{role}") } else { format!("{port}{role} {version}") }
}

/// At most so many characters.
fn clipped(text: &str, width: usize, more: &str) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(more.chars().count()));
    kept.chain(more.chars()).take(width).collect()
}
