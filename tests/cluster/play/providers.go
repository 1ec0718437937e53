package main

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// What only some strategies and providers can.

// fiveHundredFive is a weight that is no whole number of per cents.
func fiveHundredFive(s *stage) error {
	finer := change{"add", "/spec/strategy/canary/trafficRouting/maxTrafficWeight", 1000}
	return all(
		func() error { return s.release(walk("505 pause"), finer) },
		func() error { return s.climb(3000, 505) },
		func() error { return s.promote() },
		s.finish,
	)
}

// experiment gives a part of the traffic to pods of an Experiment, beside the canary's.
func experiment(s *stage) error {
	walk := []fields{
		{"setWeight": 10},
		{"experiment": fields{"templates": []fields{{"name": "trial", "specRef": "canary", "weight": 20}}, "duration": "8s"}},
		{"setWeight": 40},
		{"pause": fields{}},
	}
	var trial string
	return all(
		func() error { return s.release(replace("/spec/strategy/canary/steps", walk)) },
		func() error {
			return s.until("the experiment runs, and is given 20 %", 60*time.Second, func(w *world) error {
				r, err := w.rollout(app)
				if err != nil {
					return err
				}
				weights := r.Status.Canary.Weights
				if weights == nil || len(weights.Additional) != 1 || weights.Additional[0].Weight != 20 || weights.Canary.Weight != 10 {
					return fmt.Errorf("expected weights of 10 and, in addition, 20, found %+v", weights)
				}
				trial = weights.Additional[0].PodTemplateHash
				return nil
			})
		},
		func() error { return s.trialShare(trial) },
		// The experiment ends, and what it had goes back to stable.
		func() error { return s.arrive(3, 40) },
		func() error { return s.share(s.latest, 40, 1000) },
		func() error { return s.promote() },
		s.finish,
	)
}

// trialShare looks at the answers of canary and experiment together: they come from the same template.
func (s *stage) trialShare(trial string) error {
	w := s.proxies[0]
	if err := errors.Join(w.serves(trial, 20, 100), w.serves(s.latest.hash, 10, 100)); err != nil {
		return err
	}
	from := time.Now()
	if err := s.more(2000); err != nil {
		return err
	}
	seen := s.loads[0].Window(from, time.Now())
	// Two versions, each within one request.
	off := seen.Off(s.latest.name, 30, 100)
	if math.Abs(off) > seen.Bound()+1 || seen.Lost > 0 {
		return fmt.Errorf("expected 30 %% of %d requests for canary and experiment, they were off by %+.2f; %d lost", seen.Requests, off, seen.Lost)
	}
	s.score.windows++
	s.say("canary and experiment: %d of %d requests, off by %+.2f", seen.Versions[s.latest.name], seen.Requests, off)
	return errors.Join(w.serves(trial, 20, 100), w.exact())
}

// blueAndGreen switches everything at once.
func blueAndGreen(s *stage) error {
	return all(
		func() error { return s.release() },
		func() error {
			return s.asked("the preview is ready", s.stable, 100, func(r rollout) error {
				if r.Status.Phase != "Paused" || r.Status.BlueGreen.PreviewSelector != s.latest.hash {
					return fmt.Errorf("expected a pause with %v as the preview, found %s", s.latest, r.describe())
				}
				return nil
			})
		},
		func() error { return s.share(s.stable, 100, 500) },
		func() error { return s.promote() },
		s.finish,
	)
}
