package main

import (
	"context"
	"fmt"
	"log"
	"net/url"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const nodeName = "node"

// node is the one Node: all Pods are its own.
type node struct {
	client  kubernetes.Interface
	images  string
	logs    string
	network *network
	// Where Pods find the API server, and the certificate that they are to trust.
	server    *url.URL
	authority []byte

	mu     sync.Mutex
	pods   map[string]*pod // by UID
	ending bool
	alive  sync.WaitGroup
}

// run ends when ctx does, and then only after the last process of a Pod.
func (n *node) run(ctx context.Context) error {
	if err := n.register(ctx); err != nil {
		return fmt.Errorf("cannot register the Node: %w", err)
	}
	informer := cache.NewSharedInformer(patient(n.client), &corev1.Pod{}, 0)
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { n.seen(ctx, object.(*corev1.Pod)) },
		UpdateFunc: func(_, object any) { n.seen(ctx, object.(*corev1.Pod)) },
		DeleteFunc: func(object any) {
			if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = unknown.Obj
			}
			n.deleted(object.(*corev1.Pod))
		},
	})
	if err != nil {
		return err
	}
	informer.RunWithContext(ctx)
	n.mu.Lock()
	n.ending = true
	for _, p := range n.pods {
		p.forget()
	}
	n.mu.Unlock()
	n.alive.Wait()
	return nil
}

func (n *node) register(ctx context.Context) error {
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{
		corev1.LabelHostname: nodeName, corev1.LabelTopologyZone: "zone",
	}}}
	object, err := n.client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		object, err = n.client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	now := metav1.Now()
	object.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
		LastHeartbeatTime: now, LastTransitionTime: now,
	}}
	object.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.network.gateway.String()}}
	_, err = n.client.CoreV1().Nodes().UpdateStatus(ctx, object, metav1.UpdateOptions{})
	return err
}

func (n *node) seen(ctx context.Context, object *corev1.Pod) {
	switch {
	case object.Spec.NodeName == "" && object.DeletionTimestamp == nil:
		go n.bind(ctx, object)
		return
	case object.Spec.NodeName != nodeName:
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	uid := string(object.UID)
	p, known := n.pods[uid]
	if !known {
		if n.ending {
			return
		}
		p = newPod(n, object)
		n.pods[uid] = p
		n.alive.Add(1)
		go func() {
			defer n.alive.Done()
			p.live()
			n.mu.Lock()
			defer n.mu.Unlock()
			delete(n.pods, uid)
		}()
	}
	if object.DeletionTimestamp != nil {
		p.end(object.DeletionGracePeriodSeconds)
	}
}

// deleted means gone from the API without us: a forced deletion.
func (n *node) deleted(object *corev1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p, known := n.pods[string(object.UID)]; known {
		p.forget()
	}
}

// bind does the scheduler's work. It tries until the Pod is bound or gone: nothing else would bring the Pod back to us.
func (n *node) bind(ctx context.Context, object *corev1.Pod) {
	binding := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: object.Name, Namespace: object.Namespace, UID: object.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: nodeName},
	}
	for {
		err := n.client.CoreV1().Pods(object.Namespace).Bind(ctx, binding, metav1.CreateOptions{})
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || ctx.Err() != nil {
			return
		}
		log.Printf("%s/%s: cannot bind: %v", object.Namespace, object.Name, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryAfter):
		}
	}
}
