package main

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// healthy wants a rollout that has arrived: nothing on its way, and the controller has seen the latest change.
func (w *world) healthy(name string) (rollout, error) {
	r, err := w.rollout(name)
	if err != nil {
		return r, err
	}
	arrived := r.Status.Phase == "Healthy" && r.Status.StableRS == r.Status.CurrentPodHash && r.Status.StableRS != ""
	if !arrived || r.Status.ObservedGeneration != fmt.Sprint(r.Metadata.Generation) {
		return r, fmt.Errorf("expected a healthy rollout, found %s", r.describe())
	}
	return r, nil
}

func (r *rollout) describe() string {
	step := "no step"
	if r.Status.CurrentStepIndex != nil {
		step = fmt.Sprintf("step %d", *r.Status.CurrentStepIndex)
	}
	return fmt.Sprintf("%s (%s) at %s, stable %q, current %q, generation %s of %d", r.Status.Phase, r.Status.Message, step,
		r.Status.StableRS, r.Status.CurrentPodHash, r.Status.ObservedGeneration, r.Metadata.Generation)
}

// neverShort replays the pods since the event number from: from the first to the last event, one of the versions had
// at least so many pods ready.
func (w *world) neverShort(v1, v2 string, count, from int) error {
	ready := map[string]map[string]bool{v1: {}, v2: {}}
	for i, e := range w.events {
		if e.Kind != "Pod" {
			continue
		}
		version := ready[e.Object.GetLabels()[hashLabel]]
		if version == nil {
			continue
		}
		pod, err := convert[corev1.Pod](e.Object)
		if err != nil {
			return err
		}
		delete(version, pod.Name)
		if e.Type != "DELETED" && pod.DeletionTimestamp == nil && isReady(&pod) {
			version[pod.Name] = true
		}
		if i >= from && max(len(ready[v1]), len(ready[v2])) < count {
			return fmt.Errorf("at %.3f s only %d pods of %s and %d of %s were ready", e.At, len(ready[v1]), v1, len(ready[v2]), v2)
		}
	}
	return nil
}

// endedWell wants that so many pods of the version have gone since the event number from, and that each process ended
// by itself when it was asked to.
func (w *world) endedWell(hash string, count, from int) error {
	gone := 0
	for _, e := range w.events[from:] {
		if e.Kind != "Pod" || e.Type != "DELETED" || e.Object.GetLabels()[hashLabel] != hash {
			continue
		}
		pod, err := convert[corev1.Pod](e.Object)
		if err != nil {
			return err
		}
		gone++
		for _, c := range pod.Status.ContainerStatuses {
			if over := c.State.Terminated; over == nil || over.ExitCode != 0 || c.RestartCount != 0 {
				return fmt.Errorf("pod %s, container %s: expected one run that ended with 0, found %+v", pod.Name, c.Name, c)
			}
		}
	}
	if gone != count {
		return fmt.Errorf("expected %d pods of %s to go, %d went", count, hash, gone)
	}
	return nil
}
