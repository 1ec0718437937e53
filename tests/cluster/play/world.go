package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// What a scenario looks at, all in one namespace.
const namespace = "services"

var watched = []schema.GroupVersionResource{
	{Group: "argoproj.io", Version: "v1alpha1", Resource: "rollouts"},
	{Group: "apps", Version: "v1", Resource: "replicasets"},
	{Version: "v1", Resource: "pods"},
	{Version: "v1", Resource: "services"},
	{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"},
	{Group: "argoproj.io", Version: "v1alpha1", Resource: "analysisruns"},
	{Group: "argoproj.io", Version: "v1alpha1", Resource: "experiments"},
}

// event is one line of a recording. The order between kinds is only what this observer happened to see: each kind has a
// watch of its own, as in any client.
type event struct {
	At     float64                    `json:"at"`   // seconds since the start
	Type   string                     `json:"type"` // LISTED, ADDED, MODIFIED, DELETED; DID for what the scenario did
	Kind   string                     `json:"kind,omitempty"`
	Object *unstructured.Unstructured `json:"object,omitempty"`
	Note   string                     `json:"note,omitempty"`

	when time.Time // At, on the clock that the load has, too
}

// world is what watchers have seen, from the first event to the latest state.
type world struct {
	begun time.Time
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu      sync.Mutex
	file    *os.File
	events  []event
	latest  map[string]map[string]*unstructured.Unstructured // by kind and name
	changed chan struct{}                                    // closed at the next event
	broken  error
	round   context.Context // of the watches that run now
	end     context.CancelFunc
}

// watchWorld returns when every kind has been listed.
func watchWorld(ctx context.Context, kubeconfig, recording string) (*world, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	// Asking again and again while the server is away must not make anybody wait once it is back.
	config.QPS = -1
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	file, err := os.Create(recording)
	if err != nil {
		return nil, err
	}
	w := &world{
		begun: time.Now(), file: file, changed: make(chan struct{}),
		latest: map[string]map[string]*unstructured.Unstructured{},
	}
	ctx, w.stop = context.WithCancel(ctx)
	w.round, w.end = context.WithCancel(ctx)
	var listed sync.WaitGroup
	for _, resource := range watched {
		listed.Add(1)
		w.done.Go(func() { w.follow(ctx, client.Resource(resource).Namespace(namespace), listed.Done) })
	}
	listed.Wait()
	return w, nil
}

func (w *world) close() error {
	w.stop()
	w.end()
	w.done.Wait()
	return w.file.Close()
}

// again ends all watches and lists everything anew. A watcher that goes on from a number which the server, restored from an
// older state, has not reached yet hears nothing until it has.
func (w *world) again(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end()
	w.round, w.end = context.WithCancel(ctx)
}

// follow lists, watches, and begins again when the watch ends. listed is called once, whatever happens.
func (w *world) follow(ctx context.Context, of dynamic.ResourceInterface, listed func()) {
	once := sync.OnceFunc(listed)
	defer once()
	for ctx.Err() == nil {
		w.mu.Lock()
		round := w.round
		w.mu.Unlock()
		list, err := of.List(round, metav1.ListOptions{})
		if err == nil {
			w.replace(list)
			once()
			var events watch.Interface
			if events, err = of.Watch(round, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}); err == nil {
				for e := range events.ResultChan() {
					if object, ok := e.Object.(*unstructured.Unstructured); ok && e.Type != watch.Error {
						w.add(event{Type: string(e.Type), Kind: object.GetKind(), Object: object})
					}
				}
				continue
			}
		}
		// The server may be away on purpose. Who waits for something has a bound of its own.
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// replace makes a list the whole truth about its kind.
func (w *world) replace(list *unstructured.UnstructuredList) {
	kind := list.GetKind()[:len(list.GetKind())-len("List")]
	w.mu.Lock()
	gone := w.latest[kind]
	w.latest[kind] = map[string]*unstructured.Unstructured{}
	w.mu.Unlock()
	for i := range list.Items {
		delete(gone, list.Items[i].GetName())
		w.add(event{Type: "LISTED", Kind: kind, Object: &list.Items[i]})
	}
	for _, object := range gone {
		w.add(event{Type: "DELETED", Kind: kind, Object: object})
	}
}

// fail ends every wait, with the reason.
func (w *world) fail(reason error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken == nil {
		w.broken = reason
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// did puts an action of the scenario between what it has caused and what was before.
func (w *world) did(note string) {
	w.add(event{Type: "DID", Note: note})
}

func (w *world) add(e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.when = time.Now()
	e.At = float64(e.when.Sub(w.begun).Milliseconds()) / 1000
	if e.Object != nil {
		e.Object.SetManagedFields(nil)
		switch {
		case e.Type == "DELETED":
			delete(w.latest[e.Kind], e.Object.GetName())
		default:
			w.latest[e.Kind][e.Object.GetName()] = e.Object
		}
	}
	w.events = append(w.events, e)
	line, err := json.Marshal(e)
	if err == nil {
		_, err = w.file.Write(append(line, '\n'))
	}
	if err != nil && w.broken == nil {
		w.broken = fmt.Errorf("cannot record: %w", err)
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// until waits until holds finds nothing wrong, and otherwise says what it found wrong last. It looks after every event.
func (w *world) until(ctx context.Context, what string, within time.Duration, holds func(*world) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not within %v", within))
	defer cancel()
	for {
		w.mu.Lock()
		wrong, changed, broken := holds(w), w.changed, w.broken
		w.mu.Unlock()
		switch {
		case broken != nil:
			return broken
		case wrong == nil:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), wrong)
		}
	}
}
