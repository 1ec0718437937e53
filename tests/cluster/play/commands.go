package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// version is one state of the pod template: the name that its pods answer with, and the hash that the controller gives it.
type version struct{ name, hash string }

// change is one more thing that a release changes, as an operation of a JSON patch.
type change struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

func replace(path string, value any) change { return change{"replace", path, value} }

func walk(text string) change { return replace("/spec/strategy/canary/steps", steps(text)) }

// release patches the template as users do, and returns when the controller has given the version its hash.
func (s *stage) release(changes ...change) error {
	s.count++
	next := version{name: fmt.Sprintf("v%d", s.count)}
	before := s.latest.hash
	changes = append(changes, replace("/spec/template/spec/containers/0/env/0/value", next.name))
	if err := errors.Join(s.stillSilent(), s.patch(changes...)); err != nil {
		return err
	}
	err := s.world.until(s.ctx, next.name+" is under way", 20*time.Second, func(w *world) error {
		r, err := w.rollout(app)
		if err == nil && (r.Status.CurrentPodHash == before || !r.observed()) {
			err = fmt.Errorf("the controller has not seen it: %s", r.describe())
		}
		next.hash = r.Status.CurrentPodHash
		return err
	})
	s.latest, s.newest, s.names[next.hash] = next, next.hash, next.name
	return err
}

func (s *stage) patch(changes ...change) error {
	text, err := json.Marshal(changes)
	if err != nil {
		return err
	}
	s.mark = s.world.mark()
	_, err = s.do("-n", namespace, "patch", "rollout", app, "--type", "json", "--patch", string(text))
	return err
}

// rollouts is a command of the plugin: promote, abort, retry rollout, undo.
func (s *stage) rollouts(command ...string) error {
	s.mark = s.world.mark()
	_, err := s.do(append(append([]string{"argo", "rollouts"}, command...), app, "-n", namespace)...)
	return err
}

func (s *stage) promote(flags ...string) error {
	return s.rollouts(append([]string{"promote"}, flags...)...)
}

func (s *stage) scale(replicas int) error {
	_, err := s.do("-n", namespace, "scale", "rollout", app, "--replicas", fmt.Sprint(replicas))
	return err
}
