package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"splitway.dev/cluster/load"
)

// scenario is one story, told by commands and checked by what the world shows. Those of one scene follow each other.
type scenario struct {
	name  string
	about string
	scene *scene
	play  func(*stage) error
	quick bool // part of --quick
}

func choose(names []string, quick bool) ([]scenario, error) {
	chosen := make([]scenario, 0, len(scenarios))
	if len(names) == 0 {
		for _, s := range scenarios {
			if s.quick || !quick {
				chosen = append(chosen, s)
			}
		}
		return chosen, nil
	}
	for _, name := range names {
		known := len(chosen)
		for _, s := range scenarios {
			// A scene's name stands for all of its scenarios.
			if s.name == name || strings.HasPrefix(s.name, name+"/") {
				chosen = append(chosen, s)
			}
		}
		if len(chosen) == known {
			return nil, fmt.Errorf("there is no scenario %q; --list shows them", name)
		}
	}
	return chosen, nil
}

// stage is what the scenarios of a scene are played on.
type stage struct {
	*plane
	scene   *scene
	world   *world
	proxies []*splitway
	inPods  []*splitway // those that are pods of the scene's own making
	loads   []*load.Load
	gates   []*gate
	names   map[string]string // of versions, by hash
	count   int               // of versions
	retried bool              // a scenario has made the proxy send requests to another version than it had chosen
	stable  version           // answers everything when a scenario begins
	latest  version           // is stable, or on its way to be
	newest  string            // the hash of what was released last

	// Of one scenario:
	begun   time.Time
	score   score
	mark    int // the number of the event that follows the last command
	silence *silence
	mayLose func(load.Record) bool
}

// playAll goes on after a failure, with a new stage: one fault must not hide others.
func (p *plane) playAll(chosen []scenario) error {
	var open *stage
	end := func() error {
		if open == nil {
			return nil
		}
		s := open
		open = nil
		return s.close()
	}
	for _, s := range chosen {
		if open != nil && open.scene != s.scene {
			if err := end(); err != nil {
				return err
			}
		}
		begun := time.Now()
		fmt.Printf("\n== %s: %s\n", s.name, s.about)
		var err error
		if open == nil {
			open, err = p.open(s.scene)
		}
		one := score{scenario: s.name}
		if err == nil {
			one, err = open.play(s)
		}
		if cause := context.Cause(p.ctx); cause != nil {
			return cause
		}
		one.took, one.err = time.Since(begun), err
		p.scores = append(p.scores, one)
		if err == nil {
			fmt.Printf("== %s: passed, %.1f s\n", s.name, one.took.Seconds())
			continue
		}
		fmt.Printf("== %s: FAILED after %.1f s: %v\n", s.name, one.took.Seconds(), err)
		if err := end(); err != nil {
			return err
		}
	}
	if err := end(); err != nil {
		return err
	}
	p.summary()
	var failed []string
	for _, one := range p.scores {
		if one.err != nil {
			failed = append(failed, one.scenario)
		}
	}
	if failed != nil {
		return fmt.Errorf("%d of %d scenarios: %s", len(failed), len(chosen), strings.Join(failed, ", "))
	}
	return nil
}

// open returns a stage that can be closed even if it could not be set.
func (p *plane) open(of *scene) (*stage, error) {
	w, err := watchWorld(p.ctx, p.kubeconfig(), p.folder(of.name+".jsonl"))
	if err != nil {
		return nil, err
	}
	s := &stage{plane: p, scene: of, world: w, begun: time.Now()}
	if of.bare {
		return s, nil
	}
	return s, s.set()
}

func (s *stage) play(of scenario) (score, error) {
	s.begun, s.mark, s.silence, s.mayLose = time.Now(), s.world.mark(), nil, nil
	s.score = score{scenario: of.name}
	err := of.play(s)
	err = errors.Join(err, s.stillSilent(), s.losses(), s.onlyLooked())
	if err == nil {
		err = s.accounts()
	}
	return s.score, err
}

// close leaves an empty namespace for the next scene.
func (s *stage) close() error {
	for _, l := range s.loads {
		l.Stop()
	}
	if err := s.noteMetrics(); err != nil {
		fmt.Println("no metrics:", err)
	}
	for _, w := range s.proxies {
		// It would drain, for the time that a load balancer needs to notice. Nobody is left who could.
		w.kill()
	}
	for _, g := range s.gates {
		g.cut()
	}
	if err := errors.Join(s.reviveAll(), s.world.close()); err != nil {
		return err
	}
	_, err := s.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait", "--timeout", "60s")
	return err
}

// onlyLooked wants that the proxy's account has changed nothing.
func (s *stage) onlyLooked() error {
	acts, err := s.acts(account)
	if err != nil {
		return err
	}
	for act, count := range acts {
		if verb, _, _ := strings.Cut(act, " "); verb != "get" && verb != "list" && verb != "watch" {
			return fmt.Errorf("the API server's audit log shows that splitway has done %q, %d times; all: %v", act, count, acts)
		}
	}
	if len(s.proxies) > 0 && acts["watch rollouts"] == 0 {
		return fmt.Errorf("expected the audit log to show watch rollouts for %s, found %v", account, acts)
	}
	return nil
}

// apply deploys a file of manifests.
func (s *stage) apply(file string) error {
	_, err := s.do("apply", "-f", filepath.Join("manifests", file))
	return err
}

// do runs a command that changes something, and puts it into the recording.
func (s *stage) do(arguments ...string) (string, error) {
	s.world.did("kubectl " + strings.Join(arguments, " "))
	return s.kubectl(arguments...)
}

func (s *stage) until(what string, within time.Duration, holds func(*world) error) error {
	err := s.world.until(s.ctx, what, within, holds)
	if err == nil {
		s.say("%s", what)
	}
	return err
}

func (s *stage) say(format string, values ...any) {
	fmt.Printf("%6.1f s  %s\n", time.Since(s.begun).Seconds(), fmt.Sprintf(format, values...))
}

// One connection per request: what answers is what listens now.
var client = http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}}

// answers wants 200 and the text from every address.
func (s *stage) answers(addresses []string, path, text string) error {
	for _, address := range addresses {
		answer, err := client.Get("http://" + net.JoinHostPort(address, "5000") + path)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || string(body) != text {
			return fmt.Errorf("%s%s: expected 200 %q, found %s %q (%v)", address, path, text, answer.Status, body, err)
		}
	}
	return nil
}

// clusterAnswers wants the text from a Service's cluster address, soon: who makes that address work watches the API like
// everybody else, and may be a moment behind.
func (s *stage) clusterAnswers(service, text string) error {
	ip, err := s.kubectl("-n", namespace, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	bound := time.After(5 * time.Second)
	for {
		err := s.answers([]string{ip}, "/", text)
		if err == nil {
			return nil
		}
		select {
		case <-bound:
			return fmt.Errorf("service %s: %w", service, err)
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// silent wants that nothing listens on the addresses any more.
func (s *stage) silent(addresses []string) error {
	var all errgroup.Group
	for _, address := range addresses {
		all.Go(func() error {
			connection, err := net.DialTimeout("tcp", net.JoinHostPort(address, "5000"), time.Second)
			if err == nil {
				connection.Close()
				return fmt.Errorf("%s still takes connections", address)
			}
			return nil
		})
	}
	return all.Wait()
}
