//! A line through points some of which are far off: Theil and Sen's median of slopes.

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    pub median: f64,
    /// With 95 % confidence, if the points were independent of each other; memory's are not, so it is a hint only.
    pub least: f64,
    pub greatest: f64,
}

/// In units of y per unit of x. `None` for fewer than three points.
pub fn slope(points: &[(f64, f64)]) -> Option<Slope> {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (at, (x, y)) in points.iter().enumerate() {
        slopes.extend(points[at + 1..].iter().filter(|(other, _)| other != x).map(|(x2, y2)| (y2 - y) / (x2 - x)));
    }
    if points.len() < 3 || slopes.is_empty() {
        return None;
    }
    slopes.sort_by(f64::total_cmp);
    let (n, all) = (points.len() as f64, slopes.len() as f64);
    // Kendall's variance of the number of rising pairs.
    let half = 1.96 * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt() / 2.0;
    let at = |rank: f64| slopes[rank.clamp(0.0, all - 1.0) as usize];
    Some(Slope { median: at(all / 2.0), least: at(all / 2.0 - half), greatest: at(all / 2.0 + half) })
}
