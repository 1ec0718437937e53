package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"splitway.dev/cluster/load"
)

// Stories in which the API is not what it was.

// behindGate is one proxy whose way to the API server can be cut, and which saves its state.
func behindGate(s *stage) error {
	g, err := openGate(gateway+":7443", gateway+":6443")
	if err != nil {
		return err
	}
	s.gates = append(s.gates, g)
	kubeconfig := s.folder("kubeconfig-gate")
	if err := s.writeKubeconfig(kubeconfig, "https://"+g.at, s.proxy); err != nil {
		return err
	}
	state := s.folder("state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	w, err := s.startSplitway("splitway", kubeconfig, gateway, "8080", "--port", "http", "--state-dir", state)
	if err != nil {
		return err
	}
	s.loads = append(s.loads, load.Start(load.Settings{Target: w.listen, Rate: rate, Timeout: requestTimeout}))
	return nil
}

// serverAway takes the API server away for 30 s, in the middle of a rollout, and restarts the proxy meanwhile.
func serverAway(s *stage) error {
	const away = 30 * time.Second
	if err := all(
		func() error { return s.release(walk("25 pause 50 pause")) },
		func() error { return s.climb(500, 25) },
	); err != nil {
		return err
	}
	s.world.did("the API server crashes")
	s.crash("kube-apiserver")
	begun := time.Now()
	w := s.proxies[0]
	if err := w.shows("splitway_rollout_connected", 0); err != nil {
		return err
	}
	stillAway := func(part time.Duration) int { return max(1, int((part-time.Since(begun)).Seconds()*rate)) }
	if err := s.away(25, stillAway(away/2)); err != nil {
		return err
	}
	s.world.did("the proxy is started again, while the API server is away")
	s.loads[0].Pause()
	s.loads[0].Disconnect()
	w.kill()
	if err := w.run(); err != nil {
		return err
	}
	if err := w.ready(); err != nil {
		return fmt.Errorf("started while the API server is away, with a saved state: %w", err)
	}
	s.loads[0].Resume()
	if err := w.shows("splitway_rollout_saved_state", 1); err != nil {
		return err
	}
	if err := s.away(25, stillAway(away)); err != nil {
		return fmt.Errorf("from the saved state: %w", err)
	}
	s.world.did("the API server is back")
	if err := errors.Join(s.revive("kube-apiserver"), s.restartControllers()); err != nil {
		return err
	}
	back := time.Now()
	if err := errors.Join(w.shows("splitway_rollout_connected", 1), w.shows("splitway_rollout_saved_state", 0)); err != nil {
		return err
	}
	s.say("the proxy hears the API server again, %v after it was ready", time.Since(back).Round(time.Millisecond))
	return all(
		func() error { return s.promote() },
		func() error { return s.arrive(3, 50) },
		func() error { return s.share(s.latest, 50, 1000) },
		func() error { return s.promote() },
		s.finish,
	)
}

// away is share for a time in which only the proxy can be asked.
func (s *stage) away(weight, requests int) error {
	if err := s.serve(weight); err != nil {
		return err
	}
	return s.share(s.latest, weight, requests)
}

// serve waits until the proxies give so many of 100 to the latest version, whatever the API says.
func (s *stage) serve(weight int) error {
	for _, w := range s.proxies {
		if err := w.serves(s.latest.hash, weight, 100); err != nil {
			return err
		}
	}
	return nil
}

// gone410 makes the API server forget what the proxy has seen last, so that it cannot go on where it was.
func gone410(s *stage) error {
	g := s.gates[0]
	return all(
		func() error { return s.release(walk("25 pause 50 pause")) },
		func() error { return s.climb(500, 25) },
		func() error { s.world.did("the proxy's way to the API server is cut"); g.cut(); return s.promote() },
		func() error { return s.asked("step 3, unseen by the proxy", s.latest, 50, s.paused(3)) },
		s.compact,
		func() error {
			s.crash("kube-apiserver")
			return errors.Join(s.revive("kube-apiserver"), s.restartControllers())
		},
		func() error { return s.serve(25) },
		func() error { s.world.did("the way is open again"); return g.mend() },
		func() error { return s.serve(50) },
		func() error { return s.share(s.latest, 50, 1000) },
		func() error { return s.promote() },
		s.finish,
	)
}

// compact removes all history from etcd, through its JSON gateway.
func (s *stage) compact() error {
	text, err := post("/v3/kv/range", `{"key": "AA==", "limit": 1}`)
	if err != nil {
		return err
	}
	_, after, found := strings.Cut(text, `"revision":"`)
	revision, _, ended := strings.Cut(after, `"`)
	if !found || !ended {
		return fmt.Errorf("etcd tells no revision: %s", text)
	}
	s.world.did("etcd is compacted up to revision " + revision)
	_, err = post("/v3/kv/compaction", fmt.Sprintf(`{"revision": %q, "physical": true}`, revision))
	return err
}

func post(path, body string) (string, error) {
	answer, err := client.Post(etcdURL+path, "application/json", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("etcd %s: %s: %s", path, answer.Status, text)
	}
	return string(text), err
}

// restored puts etcd back to an older revision, as from a backup. Then the older truth is the truth, and the numbers of
// objects that the proxy has seen are ahead of it.
func restored(s *stage) error {
	return all(
		func() error { return s.release(walk("5 pause 25 pause")) },
		func() error { return s.climb(500, 5) },
		func() error {
			s.world.did("etcd is saved")
			return s.withoutStore(func() error { return os.CopyFS(s.folder("saved"), os.DirFS(s.folder("etcd"))) })
		},
		func() error { return s.promote() },
		func() error { return s.arrive(3, 25) },
		func() error { return s.share(s.latest, 25, 500) },
		func() error {
			s.world.did("etcd is restored")
			return s.withoutStore(func() error {
				if err := os.RemoveAll(s.folder("etcd")); err != nil {
					return err
				}
				return os.Rename(s.folder("saved"), s.folder("etcd"))
			})
		},
		func() error { s.mark = 0; return s.asked("step 1, as it was saved", s.latest, 5, s.paused(1)) },
		func() error { return s.serve(5) },
		func() error { return s.share(s.latest, 5, 1000) },
		func() error { return s.promote() },
		func() error { return s.arrive(3, 25) },
		func() error { return s.promote() },
		s.finish,
	)
}

// withoutStore does something to etcd's files. Who watches the API and writes to it starts anew afterwards, as one does
// after a restore; the kubelet, whose end would be the end of all pods, goes on.
func (s *stage) withoutStore(do func() error) error {
	s.crash("kube-apiserver")
	if err := s.child("etcd").stop(10 * time.Second); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := s.revive("etcd"); err != nil {
		return err
	}
	if err := s.revive("kube-apiserver"); err != nil {
		return err
	}
	err := s.restartControllers()
	s.world.again(s.ctx)
	for _, w := range s.proxies {
		err = errors.Join(err, w.shows("splitway_rollout_connected", 1))
	}
	return err
}

// restartControllers is what a cluster does by itself when the API was away: they lose their leases and end. Those that
// did not would wait for up to a minute before they looked again.
func (s *stage) restartControllers() error {
	for _, name := range []string{"kube-controller-manager", "rollouts-controller", "kubeproxy"} {
		s.crash(name)
		if err := s.revive(name); err != nil {
			return err
		}
	}
	return nil
}
