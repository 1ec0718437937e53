package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Turns that a rollout takes less often.

// invalidSpec makes a mistake in the steps while a version is on its way. What was served goes on until it is mended.
func invalidSpec(s *stage) error {
	right := "25 pause 50 pause"
	return all(
		func() error { return s.release(walk(right)) },
		func() error { return s.climb(500, 25) },
		func() error { return s.patch(walk("25 pause 120 pause")) },
		func() error {
			return s.until("the mistake is seen", 30*time.Second, func(w *world) error {
				r, err := w.rollout(app)
				if err == nil && (!strings.HasPrefix(r.Status.Message, "InvalidSpec") || !r.observed()) {
					err = fmt.Errorf("expected InvalidSpec, found %s", r.describe())
				}
				return err
			})
		},
		func() error { return s.share(s.latest, 25, 1000) },
		func() error { return s.patch(walk(right)) },
		func() error { return s.arrive(1, 25) },
		func() error { return s.promote() },
		func() error { return s.arrive(3, 50) },
		func() error { return s.share(s.latest, 50, 500) },
		func() error { return s.promote() },
		s.finish,
	)
}

// skipAll jumps over all steps that are left, with one pod of the new version there.
func skipAll(s *stage) error {
	return all(
		func() error { return s.release(walk("10 pause 50 pause")) },
		func() error { return s.climb(300, 10) },
		func() error { return s.promote("--skip-all-steps") },
		s.finish,
	)
}

// toRevision goes back to a version whose pods are long gone, step by step.
func toRevision(s *stage) error {
	first := s.stable
	return all(
		func() error { return s.release(walk("10 pause 50 pause")) },
		func() error { return s.climb(300, 10) },
		func() error { return s.promote("--full") },
		s.finish,
		func() error { return s.gone(first) },
		func() error {
			number, err := s.revision(first)
			if err != nil {
				return err
			}
			// Its account is older than that of the version that it replaces.
			s.latest, s.newest = first, ""
			if err := s.stillSilent(); err != nil {
				return err
			}
			return s.rollouts("undo", "--to-revision="+number)
		},
		func() error { return s.climb(500, 10, 50) },
		func() error { return s.promote() },
		s.finish,
	)
}

// revision is the number that the controller knows a version by.
func (s *stage) revision(v version) (number string, err error) {
	err = s.world.until(s.ctx, "the revision of "+v.name, 10*time.Second, func(w *world) error {
		for _, set := range w.latest["ReplicaSet"] {
			if set.GetLabels()[hashLabel] == v.hash {
				number = set.GetAnnotations()["rollout.argoproj.io/revision"]
			}
		}
		if number == "" {
			return errors.New("no ReplicaSet tells it")
		}
		return nil
	})
	return number, err
}

// recreated deletes the Rollout, without its pods, and creates it again.
func recreated(s *stage) error {
	text, err := s.kubectl("-n", namespace, "get", "rollout", app, "-o", "json")
	if err != nil {
		return err
	}
	var live unstructured.Unstructured
	if err := live.UnmarshalJSON([]byte(text)); err != nil {
		return err
	}
	metadata := fields{"name": app, "namespace": namespace}
	again, err := json.Marshal(fields{"apiVersion": live.GetAPIVersion(), "kind": live.GetKind(), "metadata": metadata, "spec": live.Object["spec"]})
	if err != nil {
		return err
	}
	file := s.folder("again.json")
	if err := os.WriteFile(file, again, 0o644); err != nil {
		return err
	}
	return all(
		func() error {
			_, err := s.do("-n", namespace, "delete", "rollout", app, "--cascade=orphan")
			return err
		},
		func() error {
			return s.until("the Rollout is gone, and its pods are not", 10*time.Second, func(w *world) error {
				if _, err := w.rollout(app); err == nil {
					return errors.New("it is there")
				}
				_, err := w.readyAddresses(s.stable.hash, 3)
				return err
			})
		},
		func() error { return s.more(500) },
		func() error { _, err := s.do("apply", "-f", file); return err },
		func() error {
			return s.until("it is there again, and healthy", 30*time.Second, func(w *world) error {
				r, err := w.healthy(app)
				if err == nil && r.Status.StableRS != s.stable.hash {
					err = fmt.Errorf("expected %v to be stable again, found %s", s.stable, r.describe())
				}
				return err
			})
		},
		func() error { return s.served(s.stable, 100) },
		func() error { return s.share(s.stable, 100, 300) },
		func() error { return s.release(walk("25 pause")) },
		func() error { return s.climb(500, 25) },
		func() error { return s.promote() },
		s.finish,
	)
}

// shrinking stable pods are as many as their share needs. After an abort they have to come back first. (Aborted at the
// second weight, the controller, v1.10.1, steps down to the first and stays there until something else wakes it.)
func shrinking(s *stage) error {
	return all(
		func() error { return s.release(walk("34 pause 67 pause")) },
		func() error { return s.climb(500, 34) },
		func() error { return s.resized(2, 2) },
		func() error { return s.rollouts("abort") },
		func() error {
			return s.back("aborted at 34 %", func(r rollout) error {
				if !r.Status.Abort {
					return fmt.Errorf("expected it to be aborted, found %s", r.describe())
				}
				return nil
			})
		},
		func() error { return s.gone(s.latest) },
		func() error { return s.rollouts("retry", "rollout") },
		func() error { return s.climb(500, 34, 67) },
		func() error { return s.resized(1, 3) },
		func() error { return s.share(s.latest, 67, 500) },
		func() error { return s.promote() },
		s.finish,
	)
}

// swapping Services change roles, instead of selectors, twice.
func swapping(s *stage) error {
	once := func() error {
		return all(
			func() error { return s.release(walk("25 pause 50 pause")) },
			func() error { return s.climb(500, 25, 50) },
			func() error { return s.promote() },
			s.finish,
		)
	}
	return all(once, once)
}
