package main

import (
	"errors"
	"fmt"
	"slices"
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

// asMuchAsFits is asked for when the steps are over, or were left out, before the new version is the stable one: it is to
// have whatever its ready pods can carry.
const asMuchAsFits = -2

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
	if status.Abort && !r.Spec.Strategy.Canary.DynamicStableScale || status.StableRS == status.CurrentPodHash && m != published {
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
		if int(*index) >= len(r.Spec.Strategy.Canary.Steps) {
			return asMuchAsFits
		}
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

// since is the moment of the last change of what the Rollout asks for, for one version, among the events from a number on.
func (w *world) since(m mode, hash string, from int) (at time.Time, weight int, err error) {
	weight = -1
	ask := func(e event) (int, error) {
		r, err := convert[rollout](e.Object)
		return r.asks(m, hash), err
	}
	isState := func(e event) bool { return e.Kind == "Rollout" && e.Type != "DELETED" }
	for _, e := range slices.Backward(w.events[:from]) {
		if isState(e) {
			if weight, err = ask(e); err != nil {
				return at, weight, err
			}
			break
		}
	}
	for _, e := range w.events[from:] {
		if !isState(e) {
			continue
		}
		asked, err := ask(e)
		if err != nil {
			return at, weight, err
		}
		if asked != weight {
			at, weight = e.when, asked
		}
	}
	if at.IsZero() {
		err = errors.New("nothing has changed")
	}
	return at, weight, err
}
