//! Who read the metrics last. COLD: written by the admin listener, so that "is this proxy scraped?" has an answer.

use std::sync::Mutex;
use std::time::SystemTime;

/// Programs of people, and our own `check`: that they read the metrics says nothing about Prometheus.
const NOT_SCRAPERS: [&str; 4] = ["splitway/", "curl/", "Wget/", "Mozilla/"];
/// Bytes kept of a scraper's name, which a stranger chooses.
const MAX_NAME: usize = 80;

#[derive(Default)]
pub struct Scraped(Mutex<Option<(SystemTime, String)>>);

impl Scraped {
    /// `user_agent`: who asked for the metrics, as it calls itself.
    pub fn by(&self, user_agent: &str, now: SystemTime) {
        if NOT_SCRAPERS.iter().any(|program| user_agent.starts_with(program)) {
            return;
        }
        let name = user_agent.chars().filter(|char| char.is_ascii_graphic() || *char == ' ').take(MAX_NAME).collect();
        *self.0.lock().expect("no holder of this lock panics") = Some((now, name));
    }

    /// When, and by whom. `None`: never.
    pub fn last(&self) -> Option<(SystemTime, String)> {
        self.0.lock().expect("no holder of this lock panics").clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_scraper_is_kept_and_people_are_not_scrapers() {
        let (scraped, at) = (Scraped::default(), |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        for person in ["curl/8.5.0", "splitway/0.1.0", "Wget/1.24", "Mozilla/5.0 (X11)"] {
            scraped.by(person, at(1));
        }
        assert_eq!(scraped.last(), None);
        scraped.by("Prometheus/3.1.0", at(2));
        scraped.by("curl/8.5.0", at(3));
        assert_eq!(scraped.last(), Some((at(2), "Prometheus/3.1.0".to_owned())));
        scraped.by(&format!("a\u{7f}\u{e9} b{}", "c".repeat(900)), at(4));
        assert_eq!(scraped.last().unwrap().1, format!("a b{}", "c".repeat(77)));
    }
}
