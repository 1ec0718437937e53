package main

import (
	"fmt"

	"splitway.dev/cluster/load"
)

// twoReplicas are two proxies, the second of which can be kept from hearing news.
func twoReplicas(s *stage) error {
	g, err := openGate(gateway+":7443", gateway+":6443")
	if err != nil {
		return err
	}
	s.gates = append(s.gates, g)
	kubeconfig := s.folder("kubeconfig-gate")
	if err := s.writeKubeconfig(kubeconfig, "https://"+g.at, s.proxy); err != nil {
		return err
	}
	for i, config := range []string{s.folder("kubeconfig-proxy"), kubeconfig} {
		w, err := s.startSplitway(fmt.Sprintf("splitway-%d", i), config, fmt.Sprint(8080+i), 9090+i, "--port", "http")
		if err != nil {
			return err
		}
		s.loads = append(s.loads, load.Start(load.Settings{Target: w.listen, Rate: rate, Timeout: requestTimeout}))
	}
	return nil
}

// heldReplica changes weights while one of two proxies hears nothing of it.
func heldReplica(s *stage) error {
	g := s.gates[0]
	quick, late := s.proxies[0], s.proxies[1]
	return all(
		func() error { return s.release(walk("33 pause 66 pause")) },
		func() error { return s.climb(1500, 33) },
		func() error { s.world.did("the second proxy's watches are held"); g.hold(); return s.promote() },
		func() error { return s.asked("step 3, unheard by one", s.latest, 66, s.paused(3)) },
		func() error { return quick.serves(s.latest.hash, 66, 100) },
		func() error { return late.serves(s.latest.hash, 33, 100) },
		func() error { s.world.did("they are released"); g.release(); return s.serve(66) },
		func() error { return s.share(s.latest, 66, 1500) },
		func() error { return s.promote() },
		s.finish,
	)
}
