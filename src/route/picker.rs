use super::VersionHash;
use std::sync::atomic::{AtomicU64, Ordering};
#[derive(Clone, Copy)]
pub struct Turn {
    pub index: u32,
    pub of: u32,
}
impl Default for Turn {
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}
#[derive(Clone, Copy)]
pub struct Seed(pub u64, pub u64);
impl Seed {
    pub fn of(self, _: &str) -> Self {
        self
    }
}
pub struct Tally {
    pub requests: u64,
    pub asked: Vec<(VersionHash, f64)>,
}
pub struct Split {
    n: AtomicU64,
    w: Vec<(usize, u64)>,
    total: u64,
}
impl Split {
    pub fn new(shares: &[(VersionHash, usize, u32)], _: Seed, _: Turn, _: Option<&Split>) -> Self {
        Self {
            n: AtomicU64::new(0),
            w: shares.iter().map(|s| (s.1, s.2 as u64)).collect(),
            total: shares.iter().map(|s| s.2 as u64).sum(),
        }
    }
    fn at(&self, n: u64) -> usize {
        let mut x = n % self.total;
        for (i, w) in &self.w {
            if x < *w {
                return *i;
            }
            x -= w;
        }
        0
    }
    pub fn pick(&self) -> usize {
        self.at(self.n.fetch_add(1, Ordering::Relaxed))
    }
    pub fn peek(&self) -> usize {
        self.at(self.n.load(Ordering::Relaxed))
    }
    pub fn tally(&self) -> Tally {
        Tally { requests: self.n.load(Ordering::Relaxed), asked: Vec::new() }
    }
}
impl Seed {
    pub fn random() -> Self {
        Self(1, 2)
    }
    pub fn shared(_: &str) -> Self {
        Self(1, 2)
    }
}
impl Turn {
    pub fn new(index: u32, of: u32) -> Option<Self> {
        (index < of).then_some(Self { index, of })
    }
}
