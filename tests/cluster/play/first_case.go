package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const app = "tracing-demo-frontend"

// firstCase is the rollout that everything here was made for: three pods, 33 %, a pause, everything.
func firstCase(s *stage) error {
	v1 := s.stable.hash
	var old []string
	err := s.until("v1 answers, from 3 pods", 10*time.Second, func(w *world) (err error) {
		if old, err = w.readyAddresses(v1, 3); err != nil {
			return err
		}
		return errors.Join(w.selects("frontend-stable", v1, old), w.selects("frontend-canary", v1, old))
	})
	if err != nil {
		return err
	}
	if err := errors.Join(s.answers(old, "/health", "ok\n"), s.answers(old, "/", "hello from the v1 version\n")); err != nil {
		return err
	}

	triggered := s.world.mark()
	if err := s.release(); err != nil {
		return err
	}
	v2 := s.latest.hash
	var canary []string
	err = s.until("33 %: the pause has begun, 1 pod of v2 beside 3 of v1", 30*time.Second, func(w *world) error {
		r, err := w.rollout(app)
		if err != nil {
			return err
		}
		step := r.Status.CurrentStepIndex
		if r.Status.Phase != "Paused" || r.Status.Message != "CanaryPauseStep" || step == nil || *step != 1 {
			return fmt.Errorf("expected Paused (CanaryPauseStep) at step 1, found %s", r.describe())
		}
		if r.Status.StableRS != v1 || r.Status.CurrentPodHash == v1 {
			return fmt.Errorf("expected %s to be stable and another version to be on its way, found %s", v1, r.describe())
		}
		// Nobody is told to move traffic, so the controller publishes no weights: the steps are the only source.
		if weights := r.Status.Canary.Weights; weights != nil {
			return fmt.Errorf("expected no published weights with an empty trafficRouting, found %+v", *weights)
		}
		stable, err := w.readyAddresses(v1, 3)
		if err != nil {
			return err
		}
		if !slices.Equal(stable, old) {
			return fmt.Errorf("the pods of v1 have moved from %v to %v", old, stable)
		}
		if canary, err = w.readyAddresses(v2, 1); err != nil {
			return err
		}
		return errors.Join(w.selects("frontend-stable", v1, old), w.selects("frontend-canary", v2, canary))
	})
	if err != nil {
		return err
	}
	if err := errors.Join(s.answers(old, "/", "hello from the v1 version\n"), s.answers(canary, "/", "hello from the v2 version\n")); err != nil {
		return err
	}
	err = errors.Join(
		s.clusterAnswers("frontend-stable", "hello from the v1 version\n"), s.clusterAnswers("frontend-canary", "hello from the v2 version\n"),
	)
	if err != nil {
		return err
	}
	if err := s.arrive(1, 33); err != nil {
		return err
	}
	if err := s.share(s.latest, 33, 1500); err != nil {
		return err
	}
	shown, err := s.kubectl("argo", "rollouts", "get", "rollout", app, "-n", namespace, "--no-color")
	if err != nil {
		return err
	}
	for _, line := range []string{"Status: ॥ Paused", "Step: 1/3", "SetWeight: 33", "ActualWeight: 33"} {
		if !strings.Contains(strings.Join(strings.Fields(shown), " "), line) {
			return fmt.Errorf("expected %q in what the plugin shows:\n%s", line, shown)
		}
	}

	if err := s.promote(); err != nil {
		return err
	}
	var all []string
	err = s.until("100 %: v2 is stable, its 3 pods are in both Services", 60*time.Second, func(w *world) error {
		r, err := w.healthy(app)
		if err != nil {
			return err
		}
		if r.Status.StableRS != v2 {
			return fmt.Errorf("expected %s to be stable, found %s", v2, r.describe())
		}
		if all, err = w.readyAddresses(v2, 3); err != nil {
			return err
		}
		return errors.Join(w.selects("frontend-stable", v2, all), w.selects("frontend-canary", v2, all))
	})
	if err != nil {
		return err
	}
	if err := s.answers(all, "/", "hello from the v2 version\n"); err != nil {
		return err
	}
	first := s.stable
	if err := errors.Join(s.finish(), s.gone(first)); err != nil {
		return err
	}
	if err := s.silent(old); err != nil {
		return err
	}
	return s.world.until(s.ctx, "what was seen on the way", time.Second, func(w *world) error {
		steps, err := w.steps(app, triggered)
		if err == nil && !slices.Equal(steps, []int32{3, 0, 1, 2, 3}) {
			err = fmt.Errorf("expected the steps 3 (of v1), 0, 1, 2, 3, found %v", steps)
		}
		return errors.Join(err, w.neverShort(v1, v2, 3, triggered), w.endedWell(v1, 3, triggered))
	})
}

// firstCaseBriefly is the same in other modes, without a look at everything that the controller does for it.
func firstCaseBriefly(s *stage) error {
	first := s.stable
	return all(
		func() error { return s.release(walk("33 10s 100")) },
		func() error { return s.climb(1500, 33) },
		func() error { return s.promote() },
		s.finish,
		func() error { return s.gone(first) },
	)
}
