package main

import (
	"fmt"
	"time"
)

func (r *rollout) observed() bool {
	return r.Status.ObservedGeneration == fmt.Sprint(r.Metadata.Generation)
}

// total is what weights are parts of.
func (r *rollout) total() int {
	if routing := r.Spec.Strategy.Canary.TrafficRouting; routing != nil && routing.MaxTrafficWeight > 0 {
		return routing.MaxTrafficWeight
	}
	return 100
}

// asks is the weight that the Rollout asks for, for one version, in the plain cases that scenarios wait in. It is written
// from Argo Rollouts' documentation and not from the proxy's code, so that the two cannot be wrong together.
func (r *rollout) asks(m mode, hash string) int {
	all := func(of string) int {
		if hash == of {
			return r.total()
		}
		return 0
	}
	status := &r.Status
	if r.Spec.Strategy.BlueGreen != nil {
		return all(status.BlueGreen.ActiveSelector)
	}
	if status.Abort || status.StableRS == status.CurrentPodHash && m != published {
		return all(status.StableRS)
	}
	if weights := status.Canary.Weights; m == published && weights != nil {
		weight := 0
		for _, w := range append(weights.Additional, weights.Canary, weights.Stable) {
			if w.PodTemplateHash == hash {
				weight += w.Weight
			}
		}
		return weight
	}
	canary := 0
	if index := status.CurrentStepIndex; index != nil {
		for i, step := range r.Spec.Strategy.Canary.Steps {
			if i < int(*index) && step.SetWeight != nil {
				canary = *step.SetWeight
			}
		}
	}
	switch hash {
	case status.CurrentPodHash:
		return canary
	case status.StableRS:
		return r.total() - canary
	}
	return 0
}

// since is the moment from which on the Rollout has asked for what it asks for now, as far as has been seen after the
// event number from.
func (w *world) since(m mode, hash string, from int) (time.Time, int, error) {
	var at time.Time
	last := -1
	for _, e := range w.events[from:] {
		if e.Kind != "Rollout" || e.Type == "DELETED" {
			continue
		}
		r, err := convert[rollout](e.Object)
		if err != nil {
			return at, last, err
		}
		if asked := r.asks(m, hash); asked != last {
			at, last = e.when, asked
		}
	}
	return at, last, nil
}
