package main

import (
	"context"
	"log"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// retryAfter is the pause after a call that the API server did not take. It may be away for a while.
const retryAfter = 300 * time.Millisecond

// pod is one Pod at work. Its own goroutine, live, is the only one that tells the API server about it.
type pod struct {
	node       *node
	object     *corev1.Pod  // as first seen; only its metadata and spec are read
	containers []*container // sidecars first
	sandbox    *sandbox
	links      []corev1.EnvVar // where Services are
	refused    string          // why nothing of it was started

	changed chan struct{} // something to tell; holds one
	once    struct{ end, forget sync.Once }
	// ending: its processes have to end. forgotten: they have to end now, and the API need not hear of it.
	ending, forgotten chan struct{}
	grace             time.Duration // set before ending is closed

	told corev1.PodStatus // what the API server has taken last
}

func newPod(n *node, object *corev1.Pod) *pod {
	p := &pod{
		node: n, object: object.DeepCopy(),
		changed: make(chan struct{}, 1), ending: make(chan struct{}), forgotten: make(chan struct{}),
	}
	p.told = p.object.Status
	for i := range p.object.Spec.InitContainers {
		p.containers = append(p.containers, newContainer(p, &p.object.Spec.InitContainers[i], true))
	}
	for i := range p.object.Spec.Containers {
		p.containers = append(p.containers, newContainer(p, &p.object.Spec.Containers[i], false))
	}
	return p
}

// end is for a Pod that is being deleted. Only the first call counts.
func (p *pod) end(graceSeconds *int64) {
	p.once.end.Do(func() {
		if graceSeconds != nil {
			p.grace = time.Duration(*graceSeconds) * time.Second
		}
		close(p.ending)
	})
}

// forget is for a Pod that is gone from the API, or whose node is.
func (p *pod) forget() {
	p.once.forget.Do(func() { close(p.forgotten) })
	p.end(nil)
}

func (p *pod) isEnding() bool {
	select {
	case <-p.ending:
		return true
	default:
		return false
	}
}

// notice makes live tell the API server soon. Many notices become one.
func (p *pod) notice() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *pod) live() {
	finished := p.start()
	p.notice()
	ending := p.ending
	var again <-chan time.Time
	for {
		select {
		case <-p.changed:
		case <-again:
		case <-ending:
			ending = nil
			go p.stop(time.Now().Add(p.grace))
		case <-finished:
			finished = nil
			p.close()
		case <-p.forgotten:
			if finished != nil {
				p.stop(time.Now())
				<-finished
				p.close()
			}
			return
		}
		again = nil
		if err := p.tell(); err != nil {
			again = time.After(retryAfter)
			continue
		}
		if finished == nil && p.isEnding() {
			if p.delete() {
				return
			}
			again = time.After(retryAfter)
		}
	}
}

// start returns a channel that is closed when no process of the Pod runs any more or will.
func (p *pod) start() chan struct{} {
	finished := make(chan struct{})
	if over(p.object.Status.Phase) {
		p.refused = p.object.Status.Message
		close(finished)
		return finished
	}
	sandbox, err := p.node.network.open()
	switch {
	case err != nil:
		p.refused = err.Error()
	case slices.ContainsFunc(p.object.Spec.InitContainers, func(c corev1.Container) bool {
		return c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways
	}):
		p.refused = "this double of a kubelet runs no init containers but sidecars (restartPolicy: Always)"
	}
	p.sandbox = sandbox
	if p.refused != "" {
		log.Printf("%s/%s: %s", p.object.Namespace, p.object.Name, p.refused)
		close(finished)
		return finished
	}
	log.Printf("%s/%s: %s", p.object.Namespace, p.object.Name, sandbox.address)
	p.links = p.serviceLinks()
	var running sync.WaitGroup
	go func() {
		for _, c := range p.containers {
			running.Go(c.run)
			if c.sidecar {
				select {
				case <-c.up:
				case <-p.ending:
				}
			}
		}
		running.Wait()
		close(finished)
	}()
	return finished
}

// stop ends the sidecars after the others.
func (p *pod) stop(deadline time.Time) {
	var others sync.WaitGroup
	for _, c := range p.containers {
		if !c.sidecar {
			others.Go(func() { c.stop(deadline) })
		}
	}
	others.Wait()
	for _, c := range p.containers {
		if c.sidecar {
			go c.stop(deadline)
		}
	}
}

func (p *pod) close() {
	if p.sandbox != nil {
		p.sandbox.close()
	}
}

// delete is the last thing that a kubelet does for a Pod: only after it the name and the object are gone.
func (p *pod) delete() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := p.node.client.CoreV1().Pods(p.object.Namespace).Delete(ctx, p.object.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &p.object.UID},
	})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		log.Printf("%s/%s: gone", p.object.Namespace, p.object.Name)
		return true
	}
	log.Printf("%s/%s: cannot delete: %v", p.object.Namespace, p.object.Name, err)
	return false
}

func over(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}
