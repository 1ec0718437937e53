package main

import (
	"errors"
	"fmt"
	"math"
	"time"

	"splitway.dev/cluster/load"
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
		// Others count in per cents.
		func() error {
			return s.patch(walk("25 pause"), change{Op: "remove", Path: "/spec/strategy/canary/trafficRouting/maxTrafficWeight"})
		},
		func() error {
			return s.asked("back to per cents", s.latest, 100, func(r rollout) error {
				if !r.observed() {
					return fmt.Errorf("the controller has not seen it: %s", r.describe())
				}
				return nil
			})
		},
		func() error { return s.served(s.latest, 100) },
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
	s.names[trial] = s.latest.name
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
	return errors.Join(w.serves(trial, 20, 100), w.exact(s.newest, 2))
}

// headerRoute sends testers to the canary, whatever the weight, for as long as the steps say so.
func headerRoute(s *stage) error {
	testers := func(match ...fields) fields {
		return fields{"setHeaderRoute": fields{"name": "testers", "match": match}}
	}
	walk := []fields{
		{"setWeight": 10},
		testers(fields{"headerName": "x-tester", "headerValue": fields{"exact": "yes"}}),
		{"pause": fields{}},
		testers(),
		{"pause": fields{}},
	}
	managed := change{"add", "/spec/strategy/canary/trafficRouting/managedRoutes", []fields{{"name": "testers"}}}
	return all(
		func() error { return s.release(replace("/spec/strategy/canary/steps", walk), managed) },
		func() error { return s.arrive(2, 10) },
		func() error {
			answered, err := s.testers(200)
			if err == nil && answered[s.latest.name] != 200 {
				err = fmt.Errorf("expected %s to answer all testers, found %v", s.latest.name, answered)
			}
			return err
		},
		func() error { return s.share(s.latest, 10, 1000) },
		func() error { return s.promote() },
		func() error { return s.arrive(4, 10) },
		func() error {
			answered, err := s.testers(200)
			if err == nil && (answered[s.latest.name] == 0 || answered[s.latest.name] > 100) {
				err = fmt.Errorf("expected about a tenth of the testers at %s once the route is gone, found %v", s.latest.name, answered)
			}
			return err
		},
		func() error { return s.promote("--full") },
		s.finish,
	)
}

// testers are so many requests with a header, beside the load. They are counted by who has answered.
func (s *stage) testers(requests int) (map[string]int, error) {
	s.retried = true // of these requests the load's books know nothing
	l := load.Start(load.Settings{Target: s.proxies[0].listen, Rate: rate / 5, Timeout: requestTimeout, Header: "x-tester: yes"})
	err := s.reaches(l, requests, time.After(20*time.Second))
	l.Stop()
	if err != nil {
		return nil, err
	}
	answered := map[string]int{}
	for _, r := range l.Between(time.Time{}, time.Now())[:requests] {
		if r.Lost != "" {
			return nil, fmt.Errorf("a tester's request was lost: %s", r.Lost)
		}
		answered[r.Version]++
	}
	s.say("testers: %v", answered)
	return answered, nil
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
