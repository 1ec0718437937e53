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
)

// scenario is one story, told by commands and checked by what the world shows.
type scenario struct {
	name  string
	about string
	play  func(*stage) error
}

var scenarios = []scenario{
	{"pods", "the kubelet double: identity, crash, an API server that is away, grace", pods},
	{"chart", "Helm renders what kustomize renders, and refuses bad values", chart},
	{"accepted", "all manifests pass the API server, Pod Security restricted enforced", accepted},
	{"first-case", "33 %, pause, 100 %: triggered by a patch, promoted by the plugin", firstCase},
}

func choose(names []string) ([]scenario, error) {
	if len(names) == 0 {
		return scenarios, nil
	}
	var chosen []scenario
	for _, name := range names {
		known := len(chosen)
		for _, s := range scenarios {
			if s.name == name {
				chosen = append(chosen, s)
			}
		}
		if len(chosen) == known {
			return nil, fmt.Errorf("there is no scenario %q; --list shows them", name)
		}
	}
	return chosen, nil
}

// stage is what a scenario has to play on.
type stage struct {
	*plane
	world *world
	begun time.Time
}

// play cleans up after the scenario so that the next one finds an empty namespace.
func (p *plane) play(s scenario, recording string) error {
	w, err := watchWorld(p.ctx, p.kubeconfig(), recording)
	if err != nil {
		return err
	}
	stage := &stage{plane: p, world: w, begun: time.Now()}
	if err := errors.Join(s.play(stage), w.close()); err != nil {
		if cause := context.Cause(p.ctx); cause != nil {
			return cause
		}
		return err
	}
	_, err = p.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait", "--timeout", "60s")
	return err
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
