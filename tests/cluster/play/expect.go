package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// hashLabel is what the controller tells versions apart by.
const hashLabel = "rollouts-pod-template-hash"

// rollout is the part of the object that scenarios look at; a pointer where absent and zero are different things. (The
// controller's own types would bring its whole tree of dependencies into this small program.)
type rollout struct {
	Metadata struct {
		Generation int64
	}
	Spec struct {
		Replicas int32
		Strategy struct {
			BlueGreen *struct{}
			Canary    struct {
				Steps              []struct{ SetWeight *int }
				TrafficRouting     *struct{ MaxTrafficWeight int }
				DynamicStableScale bool
			}
		}
	}
	Status struct {
		ObservedGeneration string // a number, as text
		Phase, Message     string
		Abort              bool
		AbortedAt          time.Time
		CurrentPodHash     string
		StableRS           string
		CurrentStepIndex   *int32
		ReadyReplicas      int32
		UpdatedReplicas    int32
		BlueGreen          struct{ ActiveSelector, PreviewSelector string }
		Canary             struct {
			Weights *struct {
				Canary, Stable weight
				Additional     []weight
			}
		}
	}
}

type weight struct {
	Weight          int
	PodTemplateHash string
}

// The readers below are for a function that was given to until: they need the world to hold still.

func (w *world) rollout(name string) (r rollout, err error) {
	return as[rollout](w, "Rollout", name)
}

func as[T any](w *world, kind, name string) (value T, err error) {
	object, known := w.latest[kind][name]
	if !known {
		return value, fmt.Errorf("there is no %s %s", kind, name)
	}
	return convert[T](object)
}

func convert[T any](object *unstructured.Unstructured) (value T, err error) {
	text, err := object.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(text, &value)
	}
	return value, err
}

// pods of one version, by name; those that are being deleted too.
func (w *world) pods(hash string) ([]corev1.Pod, error) { return w.labelled(hashLabel, hash) }

// labelled are all pods with this label, by name.
func (w *world) labelled(label, value string) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	for _, object := range w.latest["Pod"] {
		if object.GetLabels()[label] != value {
			continue
		}
		pod, err := convert[corev1.Pod](object)
		if err != nil {
			return nil, err
		}
		pods = append(pods, pod)
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods, nil
}

// readyAddresses wants exactly so many pods of the version, all ready, none ending, each with an address of its own.
func (w *world) readyAddresses(hash string, count int) ([]string, error) {
	pods, err := w.pods(hash)
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil && isReady(&pod) {
			addresses = append(addresses, pod.Status.PodIP)
		}
	}
	slices.Sort(addresses)
	if distinct := len(slices.Compact(slices.Clone(addresses))); len(pods) != count || distinct != count {
		return nil, fmt.Errorf("expected %d pods of %s, all ready; there are %d, ready on %d addresses %v",
			count, hash, len(pods), distinct, addresses)
	}
	return addresses, nil
}

func isReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// selects wants the Service to select one version, and its slices to show just these addresses as ready.
func (w *world) selects(name, hash string, addresses []string) error {
	service, err := as[corev1.Service](w, "Service", name)
	if err != nil {
		return err
	}
	if selected := service.Spec.Selector[hashLabel]; selected != hash {
		return fmt.Errorf("service %s: expected to select %s, it selects %q", name, hash, selected)
	}
	var ready []string
	for _, object := range w.latest["EndpointSlice"] {
		if object.GetLabels()[discoveryv1.LabelServiceName] != name {
			continue
		}
		slice, err := convert[discoveryv1.EndpointSlice](object)
		if err != nil {
			return err
		}
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
				ready = append(ready, endpoint.Addresses...)
			}
		}
	}
	slices.Sort(ready)
	if !slices.Equal(ready, addresses) {
		return fmt.Errorf("service %s: expected the ready endpoints %v, its slices show %v", name, addresses, ready)
	}
	return nil
}

// steps lists the step indices that the Rollout has shown since the event number from, without repetitions.
func (w *world) steps(name string, from int) (steps []int32, err error) {
	for _, e := range w.events[from:] {
		if e.Kind != "Rollout" || e.Object.GetName() != name || e.Type == "DELETED" {
			continue
		}
		r, err := convert[rollout](e.Object)
		if err != nil {
			return nil, err
		}
		if r.Status.CurrentStepIndex != nil {
			steps = append(steps, *r.Status.CurrentStepIndex)
		}
	}
	return slices.Compact(steps), nil
}

// mark is the number of the next event.
func (w *world) mark() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.events)
}
