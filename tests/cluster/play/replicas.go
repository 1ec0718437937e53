package main

import (
	"fmt"
	"strings"
	"time"

	"splitway.dev/cluster/load"
)

// twoReplicas are two proxies behind a Service of their own, the second of which can be kept from hearing news.
func twoReplicas(s *stage) error {
	g, err := openGate(gateway+":7443", gateway+":6443")
	if err != nil {
		return err
	}
	s.gates = append(s.gates, g)
	gated := s.folder("kubeconfig-gate")
	if err := s.writeKubeconfig(gated, "https://"+g.at, s.proxy); err != nil {
		return err
	}
	for _, replica := range []struct{ name, kubeconfig, host string }{
		{"splitway-quick", s.folder("kubeconfig-proxy"), gateway}, {"splitway-late", gated, neighbour},
	} {
		w, err := s.startSplitway(replica.name, replica.kubeconfig, replica.host, "8080", "--port", "http", "--service", namespace+"/splitway")
		if err != nil {
			return err
		}
		s.loads = append(s.loads, load.Start(load.Settings{Target: w.listen, Rate: rate, Timeout: requestTimeout}))
	}
	return nil
}

// heldReplica changes weights while one of two proxies hears nothing of it. Whoever asks for all of them must be told so.
func heldReplica(s *stage) error {
	g := s.gates[0]
	quick, late := s.proxies[0], s.proxies[1]
	weight := func(weight int, all bool) string {
		return fmt.Sprintf("/verify?weight=%d&version=%s&all=%t", weight, s.latest.hash, all)
	}
	first := s.stable
	return all(
		func() error { return s.release(walk("33 pause 66 pause")) },
		func() error { return s.climb(1500, 33) },
		func() error { return quick.verifies(weight(33, true)) },
		func() error { return late.verifies(weight(33, true)) },
		func() error { s.world.did("the second proxy's watches are held"); g.hold(); return s.promote() },
		func() error { return s.asked("step 3, unheard by one", s.latest, 66, s.paused(3)) },
		func() error { return quick.serves(s.latest.hash, 66, 100) },
		func() error { return s.more(500) },
		func() error { return quick.verifies(weight(66, false)) },
		func() error { return quick.denies(weight(66, true)) },
		func() error { return late.denies(weight(66, false)) },
		func() error { return late.serves(s.latest.hash, 33, 100) },
		func() error { s.world.did("they are released"); g.release(); return s.serve(66) },
		func() error { return s.share(s.latest, 66, 1500) },
		func() error { return quick.verifies(weight(66, true)) },
		func() error { return s.promote() },
		s.finish,
		func() error { return quick.verifies(weight(100, true)) },
		func() error { return late.verifies("/verify?drained=" + first.hash + "&all=true") },
	)
}

// verifies waits for a yes: what was counted a moment ago, and what is under way, may make an answer uncertain.
func (w *splitway) verifies(question string) error {
	err := w.until(question, 10*time.Second, func() error {
		_, err := w.ask(question)
		return err
	})
	if err == nil {
		w.stage.say("%s: %s: yes", w.name, question)
	}
	return err
}

// denies wants a no, now and for as long as it takes to ask a few times more.
func (w *splitway) denies(question string) error {
	for range 5 {
		if text, err := w.ask(question); err == nil {
			return fmt.Errorf("%s says yes to %s: %s", w.name, question, text)
		} else if !strings.Contains(err.Error(), "503") {
			return fmt.Errorf("%s: expected 503: %w", w.name, err)
		}
	}
	w.stage.say("%s: %s: no", w.name, question)
	return nil
}
