package main

import (
	"fmt"
	"time"
)

// Walks up the steps, and off them. Each in every mode in which it makes sense.

const fiveStepsWalk = "5 pause 10 pause 25 pause 50 pause 100"

// climb arrives at each weight and goes on from there; the steps are a weight and a pause in turn.
func (s *stage) climb(requests int, weights ...int) error {
	for i, weight := range weights {
		if i > 0 {
			if err := s.promote(); err != nil {
				return err
			}
		}
		if err := s.arrive(int32(2*i+1), weight); err != nil {
			return err
		}
		if err := s.share(s.latest, weight, requests); err != nil {
			return err
		}
	}
	return nil
}

func fiveSteps(s *stage) error {
	return all(
		func() error { return s.release(walk(fiveStepsWalk)) },
		func() error { return s.climb(1500, 5, 10, 25, 50) },
		func() error { return s.promote() },
		s.finish,
	)
}

// abortAndRetry ends with a full promotion, from the first step on.
func abortAndRetry(s *stage) error {
	return all(
		func() error { return s.release(walk(fiveStepsWalk)) },
		func() error { return s.climb(300, 5, 10, 25) },
		func() error { return s.rollouts("abort") },
		func() error {
			return s.back("aborted at 25 %", func(r rollout) error {
				if !r.Status.Abort {
					return fmt.Errorf("expected it to be aborted, found %s", r.describe())
				}
				return nil
			})
		},
		func() error { return s.gone(s.latest) },
		func() error { return s.rollouts("retry", "rollout") },
		func() error { return s.climb(1000, 5) },
		func() error { return s.promote("--full") },
		s.finish,
	)
}

// gone waits for the last pod of a version to go.
func (s *stage) gone(v version) error {
	return s.until("the pods of "+v.name+" are gone", 30*time.Second, func(w *world) error {
		pods, err := w.pods(v.hash)
		if err == nil && len(pods) > 0 {
			err = fmt.Errorf("%d pods are left", len(pods))
		}
		return err
	})
}

func undo(s *stage) error {
	return all(
		func() error { return s.release(walk("10 pause 50 pause")) },
		func() error { return s.climb(500, 10) },
		func() error { return s.rollouts("undo") },
		s.undone,
	)
}

// undone wants the version from before the release back, as if nothing had been.
func (s *stage) undone() error {
	s.latest = s.stable
	return s.back("undone", func(r rollout) error {
		if r.Status.CurrentPodHash != s.stable.hash || !r.observed() || r.Status.Phase != "Healthy" {
			return fmt.Errorf("expected %v to be all there is, found %s", s.stable, r.describe())
		}
		return nil
	})
}

// third releases a version while another is on its way.
func third(s *stage) error {
	var second version
	return all(
		func() error { return s.release(walk("10 pause 50 pause")) },
		func() error { return s.climb(500, 10, 50) },
		func() error { second = s.latest; return s.release() },
		func() error { return s.climb(1000, 10) },
		func() error { return s.gone(second) },
		func() error { return s.promote("--full") },
		s.finish,
	)
}

// scaled changes the number of pods in the middle of a rollout.
func scaled(s *stage) error {
	return all(
		func() error { return s.release(walk("20 pause 50 pause")) },
		func() error { return s.climb(500, 20) },
		func() error { return s.resize(5, 1) },
		func() error { return s.share(s.latest, 20, 500) },
		func() error { return s.resize(2, 1) },
		func() error { return s.share(s.latest, 20, 500) },
		func() error { return s.promote("--full") },
		s.finish,
		func() error { return s.scale(3) },
		func() error {
			return s.until("3 pods again", 30*time.Second, func(w *world) error {
				_, err := w.readyAddresses(s.latest.hash, 3)
				return err
			})
		},
	)
}

// resize waits for the pods to be there, and the others to be gone.
func (s *stage) resize(stable, canary int) error {
	if err := s.scale(stable); err != nil {
		return err
	}
	return s.resized(stable, canary)
}

func (s *stage) resized(stable, canary int) error {
	return s.until(fmt.Sprintf("%d pods beside %d", stable, canary), 30*time.Second, func(w *world) error {
		if _, err := w.readyAddresses(s.stable.hash, stable); err != nil {
			return err
		}
		_, err := w.readyAddresses(s.latest.hash, canary)
		return err
	})
}

// neverReady releases a version whose pods run and never become ready.
func neverReady(s *stage) error {
	closed := replace("/spec/template/spec/containers/0/readinessProbe/httpGet/port", 5999)
	return all(
		func() error { return s.release(walk("25 pause 50 pause"), closed) },
		func() error {
			return s.until("a pod of "+s.latest.name+" runs and is not ready", 30*time.Second, func(w *world) error {
				pods, err := w.pods(s.latest.hash)
				if err == nil && (len(pods) != 1 || pods[0].Status.Phase != "Running" || isReady(&pods[0])) {
					err = fmt.Errorf("expected one pod that runs and is not ready, found %d: %+v", len(pods), pods)
				}
				return err
			})
		},
		func() error { return s.share(s.stable, 100, 2000) },
		func() error { return s.rollouts("undo") },
		s.undone,
	)
}

// all does one thing after the other, until one fails.
func all(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
