package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
)

// block is a part of a page that a user would copy: the shell commands after a line `<!-- run STORY -->`.
type block struct {
	story string
	text  string
	line  int
}

// blocks of one page, in its order. Every shell block must belong to a story: none may be there that was not run. (Those of
// the README that are not about Kubernetes are run elsewhere.)
func blocks(repository, page string) ([]block, error) {
	text, err := os.ReadFile(filepath.Join(repository, page))
	if err != nil {
		return nil, err
	}
	var all []block
	var story string
	var open *block
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimRight(line, "\n")
		switch {
		case open != nil && line == "```":
			all, open, story = append(all, *open), nil, ""
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(line, "<!-- run ") && strings.HasSuffix(line, " -->"):
			story = strings.TrimSuffix(strings.TrimPrefix(line, "<!-- run "), " -->")
		case line == "```sh":
			if story == "" && page == "README.md" {
				continue
			}
			if !slices.Contains(stories, story) {
				return nil, fmt.Errorf("%s:%d: these commands belong to no story that is run, but to %q", page, number, story)
			}
			open = &block{story: story, line: number}
		}
	}
	return all, nil
}

// follow types the commands of a story in one shell, from the top of the repository, and stops at the first that fails.
func (s *stage) follow(page, story string) error {
	repository := filepath.Join(s.source, "..", "..")
	all, err := blocks(repository, page)
	if err != nil {
		return err
	}
	script, last := "", ""
	for _, b := range all {
		if b.story == story {
			last = fmt.Sprintf("%s:%d", page, b.line)
			script += fmt.Sprintf("echo '%s' >&3\n%s", last, b.text)
		}
	}
	if script == "" {
		return fmt.Errorf("%s has no commands for %q", page, story)
	}
	s.world.did(fmt.Sprintf("%s: %s\n%s", page, story, script))
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	var said, places bytes.Buffer
	command.Dir, command.Env, command.Stdout, command.Stderr = repository, s.env, &said, &said
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reader.Close()
	command.ExtraFiles = []*os.File{writer}
	err = command.Run()
	writer.Close()
	if _, readErr := places.ReadFrom(reader); readErr != nil {
		return readErr
	}
	reached := strings.Fields(places.String())
	if err != nil {
		return fmt.Errorf("%v: %w\n%s", reached, err, bytes.TrimSpace(said.Bytes()))
	}
	s.say("%s: done up to %s", story, last)
	return nil
}

const migrationPage = "docs/migration.md"

// Each is played by a scenario below.
var stories = []string{"one-service", "one-service back", "ingress", "ingress back", "five-steps", "kustomize"}

// migration: from one Service for all pods to Splitway and back, by the page's own commands, under load at the Service.
func migration(s *stage) error {
	return all(
		func() error { return s.moveIn(migrationPage, "one-service") },
		func() error { return s.follow(migrationPage, "one-service back") },
		func() error {
			return s.until("all is as it was, and v2 is stable", 30*time.Second, func(w *world) error {
				r, err := w.healthy(app)
				if err != nil {
					return err
				}
				if r.Status.StableRS != s.latest.hash {
					return fmt.Errorf("expected %v to be stable, found %s", s.latest, r.describe())
				}
				s.stable = s.latest
				pods, err := w.labelled("app.kubernetes.io/name", "splitway")
				if err == nil && len(pods) > 0 {
					err = fmt.Errorf("%d proxies are left", len(pods))
				}
				return err
			})
		},
		func() error { return s.more(400) },
	)
}

// readme: the five steps of the README, with Helm, and the release to its end.
func readme(s *stage) error {
	return all(
		func() error { return s.moveIn("README.md", "five-steps") },
		s.promotePods,
		func() error { return s.sum(100, 100, 300) },
	)
}

// ownOverlay: an overlay of a user's own, with an image from elsewhere.
func ownOverlay(s *stage) error {
	return all(
		func() error { return s.apply("restricted.yaml") },
		func() error { return s.follow("deploy/README.md", "kustomize") },
		func() error {
			image, err := s.kubectl("-n", namespace, "get", "deployment", "splitway", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
			if err == nil && image != "registry.example/splitway:0.1.0" {
				err = fmt.Errorf("expected the image of the overlay, found %q", image)
			}
			return err
		},
	)
}

// moveIn begins with one Service for all pods, under load, follows a story, and looks at what it has led to: a third.
func (s *stage) moveIn(page, story string) error {
	return all(
		func() error { return s.apply("restricted.yaml") },
		func() error { return s.apply("one-service.yaml") },
		func() error { return s.up("v1") },
		func() error { return s.loadService("frontend-service", rate/4) },
		func() error {
			s.count, s.latest = 2, version{name: "v2"}
			return s.follow(page, story)
		},
		func() error { return s.proxyPods(2) },
		func() error {
			return s.until("v2 is under way", 30*time.Second, func(w *world) error {
				r, err := w.rollout(app)
				if err == nil && r.Status.CurrentPodHash == s.stable.hash {
					err = errors.New("the controller has not seen it")
				}
				s.latest.hash = r.Status.CurrentPodHash
				return err
			})
		},
		func() error { return s.paused33("33 %: the pause has begun") },
		// Connections from before are at pods of v1 still, and end with them, as at every release before. So these clients
		// leave, without having lost anything, and others come.
		s.changeClients,
		func() error { return s.sum(33, 100, 2400) },
	)
}

// changeClients ends the loads, of which nothing may be lost until then, and begins a new one.
func (s *stage) changeClients() error {
	for _, l := range s.loads {
		l.Stop()
	}
	err := s.losses()
	s.loads = nil
	if err != nil {
		return err
	}
	return s.loadService("frontend-service", rate/4)
}

// migrationIngress: the same with a Rollout that had ingress-nginx. Nobody serves Ingresses here: what is checked is that the
// commands are taken, that the controller agrees with each state, and that the Ingress leads where it should.
func migrationIngress(s *stage) error {
	leads := func(to string) error {
		text, err := s.kubectl("-n", namespace, "get", "ingress", "frontend", "-o", "json")
		if err != nil {
			return err
		}
		found, err := objects(text)
		if err != nil {
			return err
		}
		var ingress networkingv1.Ingress
		if err := convertInto(found["Ingress "+namespace+"/frontend"], &ingress); err != nil {
			return err
		}
		backend := ingress.Spec.Rules[0].HTTP.Paths[0].Backend.Service
		if backend == nil || backend.Name != to || backend.Port.Name != "http" {
			return fmt.Errorf("expected the Ingress to lead to %s:http, found %+v", to, backend)
		}
		return nil
	}
	canaryIngress := func(wanted bool) error {
		text, err := s.kubectl("-n", namespace, "get", "ingress", "-o", "name")
		if err == nil && strings.Contains(text, app+"-frontend-canary") != wanted {
			err = fmt.Errorf("the canary's Ingress: expected %v, found %q", wanted, text)
		}
		return err
	}
	valid := func() error {
		return s.until("the controller agrees", 30*time.Second, func(w *world) error { _, err := w.healthy(app); return err })
	}
	return all(
		func() error { return s.apply("restricted.yaml") },
		func() error { return s.apply("ingress-canary.yaml") },
		func() error { return s.up("v1") },
		// The controller makes it with the first update.
		func() error { return s.release() },
		func() error {
			return s.until("the pause has begun", 60*time.Second, func(w *world) error {
				r, err := w.rollout(app)
				if err != nil {
					return err
				}
				return s.paused(1)(r)
			})
		},
		func() error { return errors.Join(canaryIngress(true), leads("frontend-stable")) },
		func() error { return s.promote("--full") },
		valid,
		func() error { return s.follow(migrationPage, "ingress") },
		valid,
		func() error { return errors.Join(canaryIngress(false), leads("splitway")) },
		func() error { return s.proxyPods(2) },
		func() error { return s.follow(migrationPage, "ingress back") },
		valid,
		func() error { return leads("frontend-stable") },
	)
}

func convertInto(one object, into any) error {
	text, err := json.Marshal(one)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
