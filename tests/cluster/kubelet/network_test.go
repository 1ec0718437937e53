package main

import "testing"

func TestAnAddressThatHasBecomeFreeIsTheLastToBeTakenAgain(t *testing.T) {
	n := newNetwork("pods")
	first := n.free[0]
	n.free = n.free[1:]
	before := len(n.free)
	(&sandbox{address: first, network: n}).close()
	if len(n.free) != before+1 || n.free[len(n.free)-1] != first || n.free[0] == first {
		t.Fatalf("expected %s at the end of %v", first, n.free)
	}
}
