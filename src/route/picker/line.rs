//! One choice between two, exact at every prefix and equally likely for every request, as a pure function of the
//! request's number.
//!
//! Of `total` parts, `weight` go to the *chosen* side, and `weight <= total / 2`: whoever wants more chooses the other
//! side and negates. Request `i` covers the stretch `[i · weight, i · weight + weight)` of a line; stratum `k` is the
//! stretch `[k · total, k · total + total)`. **Each stratum selects exactly one of the requests that touch it**, and a
//! request is chosen if a stratum selects it. So after `n` requests the number chosen is `n · weight / total` rounded
//! down or up, which is the bound; and `total` requests end where a stratum ends, so each round of them chooses exactly
//! `weight`.
//!
//! ```text
//! requests  |      |      |      |      |      |      |   `weight` long each
//! strata      |       k       |      k+1      |           `total` long each
//!               b          a'  b          a'
//! ```
//!
//! *Which* one: stratum `k` has one point `v`, uniform over its length. Let a request with the part `a` in stratum
//! `k-1` and `b` in `k` lie across its left border, and one with the part `a'` in `k` across its right border.
//!
//! 1. The last `a'` of the length stand for the request across the right border.
//! 2. If the request across the left border is still free, which only the point of `k-1` has to tell (rule 1 there),
//!    the first `total · b / (total - a)` stand for it. It is free with the chance `1 - a / total`, so `k` selects it
//!    with the chance `b / total`.
//! 3. What lies between is shared equally by the requests that lie wholly inside.
//!
//! A border request has the chance `(a + b) / total`, which is `weight / total`; a stratum leaves `(total - b - a') /
//! total` to its inner requests, which is `weight / total` for each. Because `weight` is at most half of `total`, at
//! least one request lies inside and the parts of rules 1 and 2 do not overlap. The three rules use one point and keep
//! the order of requests, so moving the point by `1 / n` of the length moves the selection by as much: that is how `n`
//! replicas with a shared key take turns.
//!
//! Everything is counted in integers: the line is scaled by a power of two, so that a stratum is between 2^42 and 2^43
//! long. There is no division on the path, only multiplications by reciprocals.

use super::Seed;

/// Strata are scaled to at most `2^STRATUM_BITS`. Products of a length with another and a count then fit 128 bits, and
/// of a length with a count below `2^TOTAL_BITS` fit 64.
const STRATUM_BITS: u32 = 43;
const TOTAL_BITS: u32 = 20;

/// What one schedule hands to the next, seen from one of the two sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Carry {
    /// How much of the stratum under way is already covered, in 2^-64. In other words the fractional part of the ideal
    /// count.
    pub covered: u64,
    /// Whether that stratum has already selected its request. Never with `covered` 0.
    pub selected: bool,
}

impl Carry {
    /// The same state seen from the other side: the ideal counts add up to a whole number of requests, and so do the
    /// real ones.
    pub fn flipped(self) -> Self {
        match self.covered {
            0 => self,
            covered => Self { covered: covered.wrapping_neg(), selected: !self.selected },
        }
    }
}

/// One schedule. `index` is everywhere the number of requests that reached this choice since the schedule began.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The chosen side's weight and the total, in lowest terms.
    weight: u64,
    total: u64,
    by_total: Reciprocal,
    /// `weight` and `total`, scaled: the length of a request and of a stratum.
    request: u64,
    stratum: u64,
    by_request: Reciprocal,
    by_stratum: Reciprocal,
    /// How many requests a stratum holds, and what is left of it then.
    whole: u64,
    rest: u64,
    /// Where request 0 starts, in stratum 0.
    start: u64,
    /// Stratum 0 selects the request that covers this place, less one. 0: it had already selected.
    first: u64,
    begun: Carry,
    key: Seed,
    shifts: [u64; 2],
}

/// Where a request starts.
#[derive(Clone, Copy)]
struct Place {
    stratum: u64,
    from: u64,
}

/// Where the selection of a stratum lies, seen from a request that starts in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Selection {
    Earlier,
    Here,
    Later,
}

impl Line {
    /// `key` must be new for each schedule of a choice; `shift` is this replica's turn in 2^-64 of a stratum.
    pub fn new(weight: u32, total: u32, begun: Carry, key: Seed, shifts: [u64; 2]) -> Self {
        let (weight, total) = lowest(weight, total);
        assert!(0 < weight && 2 * weight <= total && total >> TOTAL_BITS == 0, "no line for {weight} of {total}");
        let scale = STRATUM_BITS - (u64::BITS - (total - 1).leading_zeros());
        let (request, stratum) = (weight << scale, total << scale);
        // Rounded down: a place on the line and its real place then always lie in the same stratum.
        let start = times(begun.covered, stratum);
        let mut line = Self {
            weight,
            total,
            by_total: Reciprocal::of(total),
            request,
            stratum,
            by_request: Reciprocal::of(request),
            by_stratum: Reciprocal::of(stratum),
            whole: stratum / request,
            rest: stratum % request,
            start,
            first: 0,
            begun,
            key,
            shifts,
        };
        if !begun.selected {
            // Each remaining request in proportion to what it covers of the remaining stretch.
            line.first = start + times(line.draw(0), stratum - start) + 1;
        }
        line
    }

    pub fn has(&self, weight: u32, total: u32) -> bool {
        lowest(weight, total) == (self.weight, self.total)
    }

    /// Whether this request is chosen.
    #[inline]
    pub fn chooses(&self, index: u64) -> bool {
        let place = self.place(index);
        match self.selection(place) {
            Selection::Here => true,
            Selection::Later => false,
            Selection::Earlier => {
                let before = self.stratum - place.from;
                before < self.request && self.takes_left(place.stratum + 1, before)
            }
        }
    }

    /// How many requests were chosen before this one.
    #[inline]
    pub fn chosen_before(&self, index: u64) -> u64 {
        let place = self.place(index);
        let selected = self.selection(place) == Selection::Earlier;
        place.stratum + u64::from(selected) - u64::from(self.begun.selected)
    }

    /// The state before this request.
    pub fn carry(&self, index: u64) -> Carry {
        let covered = (index % self.total) * self.weight % self.total;
        let covered = (u128::from(covered) << 64) / u128::from(self.total);
        Carry {
            covered: self.begun.covered.wrapping_add(covered as u64),
            selected: self.selection(self.place(index)) == Selection::Earlier,
        }
    }

    #[inline]
    fn place(&self, index: u64) -> Place {
        // A round of `total` requests covers `weight` strata, so the products stay below 2^63.
        let (rounds, index) = self.by_total.divide(index);
        let (stratum, from) = self.by_stratum.divide(index * self.request + self.start);
        Place { stratum: rounds * self.weight + stratum, from }
    }

    #[inline]
    fn selection(&self, place: Place) -> Selection {
        let Place { stratum, from } = place;
        if stratum == 0 {
            return if self.first <= from {
                Selection::Earlier
            } else if self.first <= from + self.request {
                Selection::Here
            } else {
                Selection::Later
            };
        }
        // The request is number `before` of those that start in the stratum; the first of them starts at `left`.
        let (before, left) = self.by_request.divide(from);
        let (inside, right) = if left <= self.rest {
            (self.whole, self.rest - left)
        } else {
            (self.whole - 1, self.rest + self.request - left)
        };
        let edge = self.stratum - right;
        let point = self.point(stratum);
        if point >= edge {
            return if before == inside { Selection::Here } else { Selection::Later };
        }
        if before == inside {
            return Selection::Earlier;
        }
        // Rule 3 asks whether `inside · (point - lo) / (edge - lo)` has reached `before`, and `before + 1`, where `lo`
        // is the length that rule 2 takes; both sides are multiplied by all denominators.
        let (reached, step) = if left > 0 && !self.takes_right(stratum - 1, self.request - left) {
            let free = u128::from(self.stratum - (self.request - left));
            let taken = u128::from(self.stratum) * u128::from(left);
            let point = u128::from(point) * free;
            if point < taken {
                return Selection::Earlier;
            }
            ((point - taken) * u128::from(inside), u128::from(edge) * free - taken)
        } else {
            (u128::from(point) * u128::from(inside), u128::from(edge))
        };
        let until = step * u128::from(before);
        if reached < until {
            Selection::Earlier
        } else if reached < until + step {
            Selection::Here
        } else {
            Selection::Later
        }
    }

    /// Rule 1: whether the stratum selects the request across its right border, of which it holds the part `part`.
    #[inline]
    fn takes_right(&self, stratum: u64, part: u64) -> bool {
        let edge = self.stratum - part;
        if stratum == 0 { self.first > edge } else { self.point(stratum) >= edge }
    }

    /// Rule 2: whether the stratum selects the request across its left border, which is free and has the part `before`
    /// in the stratum before.
    #[inline]
    fn takes_left(&self, stratum: u64, before: u64) -> bool {
        let point = u128::from(self.point(stratum)) * u128::from(self.stratum - before);
        point < u128::from(self.stratum) * u128::from(self.request - before)
    }

    /// The point of a stratum other than 0.
    #[inline]
    fn point(&self, stratum: u64) -> u64 {
        times(self.draw(stratum), self.stratum)
    }

    #[inline]
    fn draw(&self, stratum: u64) -> u64 {
        uniform(self.key, stratum).wrapping_add(self.shifts[(stratum & 1) as usize])
    }
}

/// An independent uniform number of 64 bits for every key and stratum: Weyl steps of one half of the key through a
/// multiply-and-shift mixer (the constants are Stafford's "mix 13", as in SplitMix64), with the other half of the key
/// put in between the rounds.
///
/// Not SipHash: this runs two or three times per request and must be uniform and independent, not unforgeable. A client
/// who learned the key would gain the choice of its own version, and only if it also knew how many requests all other
/// clients send in between; whoever wants to keep clients from choosing uses buckets, which are keyed properly.
#[inline]
fn uniform(key: Seed, stratum: u64) -> u64 {
    let mut z = key.0.wrapping_add(stratum.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ key.1 ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `length` times a number of 2^-64, rounded down.
#[inline]
fn times(fraction: u64, length: u64) -> u64 {
    ((u128::from(fraction) * u128::from(length)) >> 64) as u64
}

fn lowest(weight: u32, total: u32) -> (u64, u64) {
    let (mut a, mut b) = (u64::from(weight), u64::from(total));
    while b != 0 {
        (a, b) = (b, a % b);
    }
    (u64::from(weight) / a, u64::from(total) / a)
}

/// Division by a number that is known beforehand.
#[derive(Clone, Copy, Debug)]
struct Reciprocal {
    divisor: u64,
    inverse: u64,
}

impl Reciprocal {
    fn of(divisor: u64) -> Self {
        Self { divisor, inverse: u64::MAX / divisor }
    }

    /// The quotient and the remainder. The inverse is too small by at most 2^-64, so the first guess at the quotient by
    /// at most one.
    #[inline]
    fn divide(self, number: u64) -> (u64, u64) {
        let quotient = times(self.inverse, number);
        let remainder = number - quotient * self.divisor;
        if remainder < self.divisor { (quotient, remainder) } else { (quotient + 1, remainder - self.divisor) }
    }
}
