//! What clients may have at once over all workers: connections from one address, handshakes of TLS. Touched once per
//! connection, and only where there is such a bound.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Those of one process.
#[derive(Default)]
pub struct Gates {
    /// Only addresses that have a connection now, so it is never larger than the number of connections.
    addresses: Mutex<HashMap<IpAddr, u32>>,
    handshakes: AtomicUsize,
}

impl Gates {
    /// One more connection from this address, unless there are so many already.
    pub fn from_address(self: &Arc<Self>, address: IpAddr, most: u32) -> Option<FromAddress> {
        let client = one_client(address);
        let mut addresses = self.addresses.lock().expect("no holder of this lock panics");
        let count = addresses.entry(client).or_default();
        if *count >= most {
            // Not a new entry: `most` is at least 1.
            return None;
        }
        *count += 1;
        Some(FromAddress { gates: self.clone(), client })
    }

    /// One more handshake, unless there are so many already.
    pub fn handshake(&self, most: usize) -> Option<Handshake<'_>> {
        let begun = Handshake(&self.handshakes);
        // Dropping it takes this back.
        (self.handshakes.fetch_add(1, Ordering::Relaxed) < most).then_some(begun)
    }
}

/// A client has a whole /64 of IPv6 to itself, as a rule, and could use any address in it.
fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// A connection, counted for its address until this is dropped.
pub struct FromAddress {
    gates: Arc<Gates>,
    client: IpAddr,
}

impl Drop for FromAddress {
    fn drop(&mut self) {
        let mut addresses = self.gates.addresses.lock().expect("no holder of this lock panics");
        if let Some(count) = addresses.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.client);
            }
        }
    }
}

/// A handshake, until this is dropped.
pub struct Handshake<'a>(&'a AtomicUsize);

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_client_is_an_ipv4_address_or_a_64th_of_ipv6() {
        let same = |a: &str, b: &str| one_client(a.parse().unwrap()) == one_client(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1:2:3"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }

    #[test]
    fn handshakes_beyond_the_bound_begin_when_others_have_ended() {
        let gates = Gates::default();
        let (first, second) = (gates.handshake(2), gates.handshake(2));
        assert!(first.is_some() && second.is_some());
        assert!(gates.handshake(2).is_none());
        assert!(gates.handshake(2).is_none(), "a refused one is not counted");
        drop(first);
        assert!(gates.handshake(2).is_some());
    }

    proptest! {
        #[test]
        fn no_address_has_more_than_its_bound_and_none_is_remembered(
            most in 1..4u32, steps in proptest::collection::vec((0..3u8, any::<bool>()), 0..200),
        ) {
            let gates = Arc::new(Gates::default());
            let mut open: [Vec<FromAddress>; 3] = Default::default();
            for (client, opens) in steps {
                let kept = &mut open[usize::from(client)];
                if opens {
                    let had = kept.len();
                    kept.extend(gates.from_address(IpAddr::from([192, 0, 2, client]), most));
                    prop_assert_eq!(kept.len(), (had + 1).min(most as usize));
                } else {
                    kept.pop();
                }
                let with_some = open.iter().filter(|kept| !kept.is_empty()).count();
                prop_assert_eq!(gates.addresses.lock().unwrap().len(), with_some);
            }
        }
    }
}
